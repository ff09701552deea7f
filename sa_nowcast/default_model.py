"""The model that ships: it forecasts any regularly stepped field, and was trained on none of its user's.

See docs/explanation/default-model.md for what it is, and how good on data that it had never seen.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Hashable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import ModelError
from sa_nowcast.frames import Frames
from sa_nowcast.nowcaster import Nowcaster
from sa_nowcast.terms import Terms

if TYPE_CHECKING:
    import torch

FOLDER: Final = Path(__file__).parent / "data" / "default.nowcaster"
"""Where it lies within the package."""

PROVENANCE: Final = (
    "sa_nowcast's default model, which was not trained on these data but on made fields, MRMS rain and ERA5 temperature"
)

_LOG = logging.getLogger("sa_nowcast")
_LEAST: Final = 0.01  # share of values at the minimum from which on it stands for nothing there


@dataclass(frozen=True, eq=False)
class DefaultNowcaster(Nowcaster):
    """A nowcaster of whatever it is given: its terms are those of the data.

    Every window is scaled by its own statistics, so units do not matter; each channel is forecast alone, by the same
    weights; grid and cadence are free. Made by `default_model`.

    Attributes
    ----------
    trained : Terms
        The terms of its training, which say no more than the history it needs and the lead times it has seen.
    """

    trained: Terms | None = None

    def for_data(
        self,
        data: xr.DataArray | xr.Dataset,
        *,
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
    ) -> Nowcaster:
        """Return this model with the terms of `data`.

        Raises
        ------
        DataError
            Times or dimensions that cannot be used.
        """
        frames = Frames.from_xarray(data, time=time, y=y, x=x, channel=channel, gaps="skip")
        return replace(self, terms=Terms.of(frames, self.terms.history, self.terms.steps))

    def forecast(
        self,
        data: xr.DataArray | xr.Dataset,
        steps: int | None = None,
        *,
        grid: Literal["check", "any"] = "check",
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        **options: Any,
    ) -> xr.DataArray:
        """Forecast; see `sa_nowcast.Nowcaster.forecast`."""
        fitted = self.for_data(data, time=time, y=y, x=x, channel=channel)
        return Nowcaster.forecast(fitted, data, steps, grid=grid, time=time, y=y, x=x, channel=channel, **options)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the model as it ships: the same whatever the data."""
        return self._as_it_ships().digest

    def provenance_attrs(self, steps: int) -> dict[str, Any]:
        """Return the attributes that say which model a forecast is by, and that the data were new to it."""
        return {**super().provenance_attrs(steps), "sa_nowcast_provenance": PROVENANCE}

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model as it ships to a folder; see `sa_nowcast.Nowcaster.save`."""
        return self._as_it_ships().save(path, overwrite=overwrite)

    def __repr__(self) -> str:
        history, steps = self.terms.history, self.terms.steps
        return f"<DefaultNowcaster {self.network.config.name}: any field, {history} -> {steps} frames>"

    def _as_it_ships(self) -> Nowcaster:
        known = {f.name: getattr(self, f.name) for f in fields(Nowcaster)}
        return Nowcaster(**known | {"terms": self.trained or self.terms})

    def _predict(
        self, values: npt.NDArray[np.float32], steps: int, device: torch.device, tile: int | None = None
    ) -> npt.NDArray[np.float32]:
        batch, history, channels = values.shape[:3]
        alone = filled(values.swapaxes(1, 2).reshape(batch * channels, history, 1, *values.shape[3:]))
        forecast = super()._predict(alone, steps, device, tile)
        return forecast.reshape(batch, channels, steps, *values.shape[3:]).swapaxes(1, 2)


@functools.cache
def default_model() -> DefaultNowcaster:
    """Return the model that ships.

    Raises
    ------
    ModelError
        This installation lacks it, or it was damaged.
    """
    if not FOLDER.is_dir():
        raise ModelError(str(FOLDER), "the model that ships is not there", fix="install sa_nowcast again")
    shipped = Nowcaster.load(FOLDER)
    known = {f.name: getattr(shipped, f.name) for f in fields(Nowcaster)}
    return DefaultNowcaster(**known, trained=shipped.terms)


@functools.cache
def say_that_none_was_named() -> None:
    """Say, once in a process, which model forecasts: a warning of the logger ``sa_nowcast``, one line on stderr."""
    _LOG.warning(
        "no model was named: sa_nowcast's default model forecasts, which was not trained on these data; "
        "train your own with ds.sa_nowcast.fit(history=4, steps=4)"
    )


def filled(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return windows (N, T, 1, H, W) without missing values.

    A missing pixel takes the latest value before it, else the earliest after it; where there is none, the least value
    of the window where many pixels have that (no rain), else its mean. A window without any value becomes 0.
    """
    valid = np.isfinite(values)
    if valid.all():
        return values
    time = np.arange(values.shape[1]).reshape(1, -1, 1, 1, 1)
    latest = np.maximum.accumulate(np.where(valid, time, -1), axis=1)
    first = np.where(valid, time, values.shape[1]).min(axis=1, keepdims=True)
    source = np.where(latest >= 0, latest, np.minimum(first, values.shape[1] - 1))
    result: npt.NDArray[np.float32] = np.take_along_axis(values, source, axis=1)
    for window, seen in zip(result, valid, strict=True):
        known = window[np.isfinite(window)]
        rest = np.float32(0)
        if known.size:
            least = known.min()
            rest = least if (known == least).mean() >= _LEAST else known.mean(dtype=np.float64).astype(np.float32)
        if not seen.all():
            window[~np.isfinite(window)] = rest
    return result
