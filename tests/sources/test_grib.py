"""GRIB through cfgrib. Its eccodes wheels and pyproj's abort in one process, so it is no part of what tests install.

To run: in an environment with cfgrib (``pip install cfgrib``), ``pytest tests/sources/test_grib.py`` alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sa_nowcast.frames import Frames
from sa_nowcast.sources import open_source

pytest.importorskip("cfgrib", reason="cfgrib is not installed; in an environment that has it, run this file alone")
import eccodes

SHAPE = (16, 20)


def _write(path: Path, hours: range) -> None:
    with path.open("wb") as file:
        for hour in hours:
            message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
            keys = {
                "Ni": SHAPE[1], "Nj": SHAPE[0],
                "latitudeOfFirstGridPointInDegrees": 55.0, "latitudeOfLastGridPointInDegrees": 51.25,
                "longitudeOfFirstGridPointInDegrees": 5.0, "longitudeOfLastGridPointInDegrees": 9.75,
                "iDirectionIncrementInDegrees": 0.25, "jDirectionIncrementInDegrees": 0.25,
                "dataDate": 20200601, "dataTime": hour * 100, "shortName": "2t",
            }  # fmt: skip
            for key, value in keys.items():
                eccodes.codes_set(message, key, value)
            eccodes.codes_set_values(message, _field(hour).ravel())
            eccodes.codes_write(message, file)
            eccodes.codes_release(message)


def _field(hour: int) -> np.ndarray:
    return 280 + 5 * np.random.default_rng(hour).random(SHAPE)


def test_one_grib_file_and_one_a_frame_open_as_the_same_frames(tmp_path: Path) -> None:
    _write(tmp_path / "all.grib2", range(6))
    for hour in range(6):
        _write(tmp_path / f"hour{hour}.grib2", range(hour, hour + 1))
    one = Frames.from_xarray(open_source(tmp_path / "all.grib2", engine="cfgrib", indexpath=""))
    many = Frames.from_xarray(open_source(str(tmp_path / "hour*.grib2"), engine="cfgrib", indexpath=""))
    assert one.shape == many.shape == (6, 1, *SHAPE)
    assert [c.units for c in one.channels] == ["K"]
    assert one.label(5) == "2020-06-01T05:00"
    np.testing.assert_array_equal(one.read(0, 6), many.read(0, 6))
    # GRIB packs into a few bits; rows come north up, as they were written.
    np.testing.assert_allclose(one.read(0, 6)[:, 0], [_field(h) for h in range(6)], atol=2e-3)
