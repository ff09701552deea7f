"""``.sa_nowcast`` on Dataset and DataArray: thin delegates to the functions that do the work."""

from __future__ import annotations

import xarray as xr

from sa_nowcast.accessors.fields import OfFields
from sa_nowcast.accessors.models import OfModels


@xr.register_dataset_accessor("sa_nowcast")  # type: ignore[no-untyped-call]
class DatasetAccessor(OfModels, OfFields):
    """``ds.sa_nowcast``: train and forecast on a Dataset of gridded frames; score and plot a forecast read back."""


@xr.register_dataarray_accessor("sa_nowcast")  # type: ignore[no-untyped-call]
class DataArrayAccessor(OfModels, OfFields):
    """``da.sa_nowcast``: the same on a DataArray."""
