"""The model that a forecast takes when none is named: one that was set, or the one that ships."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sa_nowcast.errors import ModelError

if TYPE_CHECKING:
    from sa_nowcast.forecasts.nowcaster import Nowcaster

ENVIRONMENT = "SA_NOWCAST_MODEL"
FOLDER: Final = Path(__file__).parent.parent / "data" / "default.nowcaster"
"""Where the model that ships lies within the package."""

_default: Nowcaster | None = None


def set_default_model(model: Nowcaster | str | Path | None) -> None:
    """Set the model that `forecast` uses when none is named, for this process.

    Parameters
    ----------
    model : Nowcaster, path or None
        A nowcaster, or the folder of a saved one; None goes back to the model that ships.

    Raises
    ------
    ModelError
        The folder holds no model, or a damaged one.
    """
    global _default
    _default = None if model is None else as_nowcaster(model)


def get_default_model() -> Nowcaster:
    """Return the model that was set, else the one that ``SA_NOWCAST_MODEL`` names, else the one that ships.

    The last forecasts any regularly stepped field; see `sa_nowcast.forecasts.default_model`.

    Raises
    ------
    ModelError
        The folder that ``SA_NOWCAST_MODEL`` names holds no model, or a damaged one.
    """
    if _default is not None:
        return _default
    path = os.environ.get(ENVIRONMENT)
    if path:
        return as_nowcaster(path)
    from sa_nowcast.forecasts.default_model import default_model, warn_of_default_model

    warn_of_default_model()
    return default_model()


def as_nowcaster(model: Nowcaster | str | Path | None) -> Nowcaster:
    """Return `model`, loaded where it is a path; the default model where it is None."""
    from sa_nowcast.forecasts.nowcaster import Nowcaster

    if model is None:
        return get_default_model()
    if isinstance(model, Nowcaster):
        return model
    if isinstance(model, str | Path):
        return Nowcaster.load(model)
    raise ModelError("model", f"a {type(model).__name__}", expected="a Nowcaster, or the path of a saved one")
