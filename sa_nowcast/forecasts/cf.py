"""Forecasts as CF files: global attributes, and NetCDF or Zarr written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr

from sa_nowcast._version import __version__
from sa_nowcast.errors import DataError, StorageError
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import storable, unused
from sa_nowcast.metadata.cells import described
from sa_nowcast.storage.whole import partial_beside, put_in_place
from sa_nowcast.times import show_time

CONVENTIONS = "CF-1.11"
# Names of an archive's own, which no variable can have.
_OURS = (dims.LEAD_TIME, dims.INIT_TIME, dims.VALID_TIME, "history_status")
REFERENCES = "Lin et al. 2020, Self-Attention ConvLSTM for Spatiotemporal Prediction, doi:10.1609/aaai.v34i07.6819"


def to_dataset(forecast: xr.DataArray, title: str | None = None) -> xr.Dataset:
    """Return a forecast as a Dataset that follows the CF conventions 1.11.

    Parameters
    ----------
    forecast : DataArray
        One forecast or an archive, as `sa_nowcast.Nowcaster.forecast` labels it.
    title : str, optional
        Global attribute; by default one made from the variable's name.

    Raises
    ------
    DataError
        It is no forecast: a coordinate is missing.

    Returns
    -------
    Dataset
        One variable; or one for each entry of the ``variable`` dimension, each with its own units. Sums over windows
        have bounds, and series at points are a discrete sampling geometry; see `sa_nowcast.metadata.cells.described`.
        Names, attributes and coordinates are such that NetCDF and Zarr can hold them; see
        `sa_nowcast.metadata.attributes.storable`.
    """
    missing = [n for n in (dims.LEAD_TIME, dims.INIT_TIME, dims.VALID_TIME) if n not in forecast.coords]
    if missing:
        raise DataError(str(forecast.name or "data"), f"no coordinate {missing[0]}", expected="a forecast")
    mapping = forecast.encoding.get("grid_mapping")
    taken = {*forecast.coords, *forecast.dims, *_OURS}
    # Attributes and encodings are set below; they must not be the caller's.
    forecast = forecast.copy(deep=False).assign_coords({n: c.copy(deep=False) for n, c in forecast.coords.items()})
    if dims.VARIABLE in forecast.dims:
        called = [str(name) for name in forecast[dims.VARIABLE].values]
        own = {k: forecast.coords[k].values for k in dims.PER_VARIABLE if k in forecast.coords}
        forecast = forecast.drop_vars(own).assign_coords({dims.VARIABLE: [unused(n, taken) for n in called]})
        ds = forecast.to_dataset(dim=dims.VARIABLE)
        for i, variable in enumerate(ds.data_vars.values()):
            variable.attrs = dict(forecast.attrs) | {k: str(v[i]) for k, v in own.items() if str(v[i])}
    else:
        called = ["forecast" if forecast.name is None or not str(forecast.name).strip() else str(forecast.name)]
        ds = forecast.to_dataset(name=unused(called[0], taken))
    for old, variable in zip(called, ds.data_vars.values(), strict=True):
        if "standard_name" not in variable.attrs:
            variable.attrs.setdefault("long_name", old)  # CF section 3.2: one of the two
        if mapping is not None:
            variable.encoding["grid_mapping"] = mapping
    ds = storable(ds)
    for variable in ds.data_vars.values():
        variable.encoding["_FillValue"] = np.float32(np.nan)
    for name in ds.coords:
        # CF section 2.5.1: a coordinate variable has no missing values.
        ds[name].encoding["_FillValue"] = None
    lead, attrs = ds[dims.LEAD_TIME].values, ds[dims.LEAD_TIME].attrs
    if not (lead % np.timedelta64(1, "s")).any():
        # xarray writes a timedelta in the units of its resolution, and so that it is read back as one.
        ds = ds.assign_coords({dims.LEAD_TIME: lead.astype("timedelta64[s]")})
        ds[dims.LEAD_TIME].attrs = attrs
        ds[dims.LEAD_TIME].encoding["_FillValue"] = None
    for name in (dims.INIT_TIME, dims.VALID_TIME):
        # CF section 4.4: numpy's datetime64, and so every time that xarray decodes, counts no leap seconds.
        ds[name].attrs["units_metadata"] = "leap_seconds: none"
    ds.attrs = {
        "Conventions": CONVENTIONS,
        "title": title or f"Nowcast of {', '.join(str(n) for n in ds.data_vars)}",
        "source": f"sa_nowcast {__version__}, network {forecast.attrs.get('sa_nowcast_network', 'unknown')}, "
        f"model {forecast.attrs.get('sa_nowcast_model', 'unknown')}",
        "history": f"forecast by sa_nowcast {__version__} from data up to {_period(forecast)}",
        "references": REFERENCES,
    }
    return described(ds)


def _period(forecast: xr.DataArray) -> str:
    init = np.atleast_1d(forecast[dims.INIT_TIME].values)
    return " to ".join(dict.fromkeys(show_time(t) for t in (init.min(), init.max())))


def write_forecast(
    forecast: xr.DataArray,
    path: str | Path,
    file_format: Literal["netcdf", "zarr"] = "netcdf",
    title: str | None = None,
) -> Path:
    """Write a forecast as NetCDF or Zarr (format 3), beside its final name, and rename it there.

    What stood at `path` is replaced only when the new file is whole.

    Raises
    ------
    StorageError
        The file cannot be written, or a folder that is no Zarr store stands there.
    """
    target = Path(path)
    ds = to_dataset(forecast, title)
    if target.is_dir() and not ((target / "zarr.json").is_file() or (target / ".zgroup").is_file()):
        raise StorageError(str(target), "a folder that is no Zarr store stands there", expected="a new path")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial_beside(target) as partial:
            if file_format == "netcdf":
                for variable in ds.data_vars.values():
                    variable.encoding |= {"zlib": True, "complevel": 4}
                ds.to_netcdf(partial, engine="netcdf4")
            else:
                from zarr.codecs import ZstdCodec

                # Zarr 3 has a specification for text of any length, and none for text of a fixed one.
                ds = ds.assign_coords({n: c.astype(object) for n, c in ds.coords.items() if c.dtype.kind == "U"})
                for variable in ds.data_vars.values():
                    # With its checksum, a flipped bit in a chunk is found when it is read.
                    variable.encoding["compressors"] = (ZstdCodec(level=3, checksum=True),)
                ds.to_zarr(partial, zarr_format=3, consolidated=False, write_empty_chunks=True)
            put_in_place(partial, target)
    except (OSError, RuntimeError) as error:  # netCDF's library gives RuntimeError where the disk is full
        reason = getattr(error, "strerror", None) or error
        raise StorageError(
            str(target), f"the forecast could not be written ({reason})", fix="choose another folder"
        ) from error
    return target
