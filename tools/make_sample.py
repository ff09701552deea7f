"""Make the embedded MRMS sample from the full file.

    python tools/make_sample.py mrms_precip_rate_2019-06-10.nc

The crop holds moving rain of several kinds, dry land, and the corner that no radar covers. Values stay the packed
integers of the source, so nothing is rounded twice.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import xarray as xr
from zarr.codecs import ZstdCodec

TARGET = Path(__file__).parent.parent / "sa_nowcast" / "data" / "mrms_2019-06-10.zarr"
ROWS, COLUMNS = slice(0, 512), slice(512, 1024)


def main(source: str) -> None:
    ds = xr.open_dataset(source, mask_and_scale=False).isel(latitude=ROWS, longitude=COLUMNS).load()
    ds.attrs = {
        "Conventions": "CF-1.11",
        "title": "MRMS surface precipitation rate, central United States, 2019-06-10 00:00 to 01:10 UTC (crop)",
        "institution": "NOAA National Severe Storms Laboratory",
        "source": "Multi-Radar Multi-Sensor system, PrecipRate (Zhang et al. 2016, doi:10.1175/BAMS-D-14-00174.1)",
        "history": "cropped by tools/make_sample.py from the file in pySTEPS/pysteps-data; packed values unchanged",
        "license": "public domain (work of the United States government)",
        "comment": "Some frames repeat the one before them, as the mosaic did.",
    }
    rain = ds["precip_rate"]
    rain.attrs |= {"cell_methods": "time: point"}
    packed = {k: rain.attrs.pop(k) for k in ("scale_factor", "_FillValue")}
    ds["precip_rate"] = rain.where(rain != packed["_FillValue"]) * packed["scale_factor"]
    ds["precip_rate"].attrs = rain.attrs
    ds["time"].attrs = {"standard_name": "time", "axis": "T", "long_name": "time of the mosaic"}
    ds["latitude"].attrs |= {"axis": "Y"}
    ds["longitude"].attrs |= {"axis": "X"}
    for name in ("latitude", "longitude"):
        ds[name] = ds[name].round(4)
        ds[name].attrs = {**ds[name].attrs, "long_name": name}
    zstd = ZstdCodec(level=19, checksum=True)
    encoding = {
        "precip_rate": {
            "dtype": "int16", "scale_factor": np.float64(packed["scale_factor"]), "_FillValue": np.int16(-1),
            "chunks": (1, 512, 512), "shards": (36, 512, 512), "filters": (), "compressors": (zstd,),
        },
        "time": {"units": "seconds since 1970-01-01", "dtype": "int64", "compressors": (zstd,), "chunks": (36,)},
        "latitude": {"dtype": "float64", "compressors": (zstd,), "_FillValue": None},
        "longitude": {"dtype": "float64", "compressors": (zstd,), "_FillValue": None},
    }  # fmt: skip
    for variable in ds.variables.values():
        variable.encoding = {}
    shutil.rmtree(TARGET, ignore_errors=True)
    ds.to_zarr(TARGET, zarr_format=3, consolidated=False, encoding=encoding, write_empty_chunks=True)
    back = xr.open_zarr(TARGET, mask_and_scale=False, consolidated=False, chunks=None)["precip_rate"].values
    assert (back == rain.values).all(), "the sample does not read back equal"
    print(sum(f.stat().st_size for f in TARGET.rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    main(sys.argv[1])
