from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.sources.paths import recognised_pattern, time_from_name


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("rain_202405010005.tif", "2024-05-01T00:05"),
        ("rain_20240501_0005.tif", "2024-05-01T00:05"),
        ("rain_20240501T000530Z.tif", "2024-05-01T00:05:30"),
        ("2024-05-01T00-05-00Z.tif", "2024-05-01T00:05"),
        ("2024_05_01_00_05.tif", "2024-05-01T00:05"),
        ("MOD.A2024122.0005.061.tif", "2024-05-01T00:05"),
        ("2024122000530.tif", "2024-05-01T00:05:30"),
        ("r_1714521600.tif", "2024-05-01T00:00"),
        ("2024050103.tif", "2024-05-01T03:00"),
        ("chirps_2024.05.01.tif", "2024-05-01"),
        ("T_PAAH21_C_EUOC_20240501000500.hdf", "2024-05-01T00:05"),
        ("RAD_NL25_RAP_5min_201008260000.h5", "2010-08-26T00:00"),
        ("tile12_20240501_0005_v1.tif", "2024-05-01T00:05"),
    ],
)
def test_the_one_time_in_a_name_is_recognised(name: str, time: str) -> None:
    pattern = recognised_pattern(name)
    assert pattern is not None
    assert time_from_name(Path(name), pattern) == np.datetime64(time)


@pytest.mark.parametrize(
    "name",
    [
        "frame_1.tif", "rain_000123.tif", "20240501T0000_20240501T0005.tif", "rain_20240230_0005.tif",
        "3B-HHR.MS.MRG.3IMERG.20200101-S000000-E002959.0000.V06B.tif", "s20242130001171.nc",
        "rain_20240501_12_0005.tif",
    ],
)  # fmt: skip
def test_names_without_one_clear_time_are_not_guessed_at(name: str) -> None:
    assert recognised_pattern(name) is None


def test_patterns_hold_text_folders_fractions_and_seconds_since_1970() -> None:
    assert time_from_name(Path("s20242130001171.nc"), "s%Y%j%H%M%S%f") == np.datetime64("2024-07-31T00:01:17.100")
    path = Path("a/2024/05/01/rain_0005.tif")
    assert time_from_name(path, "%Y/%m/%d/rain_%H%M") == np.datetime64("2024-05-01T00:05")
    assert time_from_name(Path("r_1714521600.tif"), "unix") == np.datetime64("2024-05-01")
    with pytest.raises(RecipeError, match="no year in"):
        time_from_name(path, "rain_%H%M")
    with pytest.raises(DataError, match="no time in the file's name"):
        time_from_name(path, "unix")
