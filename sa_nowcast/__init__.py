"""Nowcasting on gridded data: SA-ConvLSTM for xarray.

Importing the package registers the accessor ``.sa_nowcast`` on Dataset and DataArray, and shortens how long OpenMP's
threads spin (`computing.threads`). It loads neither torch nor matplotlib, which come with the first call that needs
them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sa_nowcast import accessors as accessors
from sa_nowcast import errors as errors
from sa_nowcast._version import __version__
from sa_nowcast.computing import threads as _threads
from sa_nowcast.forecasts.defaults import get_default_model, set_default_model

_threads.shorten_spinning()

if TYPE_CHECKING:
    from sa_nowcast import interop as interop
    from sa_nowcast import models as models
    from sa_nowcast.conversion import convert, open_zarr
    from sa_nowcast.forecasts.nowcaster import Nowcaster
    from sa_nowcast.hindcast import calibrate
    from sa_nowcast.interop import pysteps as pysteps
    from sa_nowcast.sources import open_source
    from sa_nowcast.sources.samples import open_sample
    from sa_nowcast.stream import SequenceDataset
    from sa_nowcast.training.fit import fit
    from sa_nowcast.verification.named import reference
    from sa_nowcast.verification.plan import compare, verify
    from sa_nowcast.verification.references import persistence
    from sa_nowcast.verification.table import to_table

__all__ = [
    "Nowcaster",
    "SequenceDataset",
    "__version__",
    "calibrate",
    "compare",
    "convert",
    "errors",
    "fit",
    "get_default_model",
    "interop",
    "load",
    "models",
    "open_sample",
    "open_source",
    "open_zarr",
    "persistence",
    "pysteps",
    "reference",
    "set_default_model",
    "to_table",
    "verify",
]

_MODULES = {
    "interop": "sa_nowcast.interop",
    "models": "sa_nowcast.models",
    "pysteps": "sa_nowcast.interop.pysteps",
}
_LAZY = {
    "Nowcaster": "sa_nowcast.forecasts.nowcaster",
    "SequenceDataset": "sa_nowcast.stream",
    "calibrate": "sa_nowcast.hindcast",
    "compare": "sa_nowcast.verification",
    "convert": "sa_nowcast.conversion",
    "fit": "sa_nowcast.training.fit",
    "open_sample": "sa_nowcast.sources.samples",
    "open_source": "sa_nowcast.sources",
    "open_zarr": "sa_nowcast.conversion",
    "persistence": "sa_nowcast.verification",
    "reference": "sa_nowcast.verification",
    "to_table": "sa_nowcast.verification",
    "verify": "sa_nowcast.verification",
}


def load(path: str) -> Nowcaster:
    """Read a nowcaster that `Nowcaster.save` wrote.

    Parameters
    ----------
    path : path
        The model's folder.

    Raises
    ------
    ModelError
        No model there, one of a newer format, or one that was truncated or altered.
    """
    from sa_nowcast.forecasts.nowcaster import Nowcaster

    return Nowcaster.load(path)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
