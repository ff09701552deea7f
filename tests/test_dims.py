from __future__ import annotations

from random import Random

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from sa_nowcast.errors import DataError
from sa_nowcast.metadata.dims import (
    UNNAMED,
    DimNames,
    canonical_units,
    find_channel,
    find_dim,
    grids,
    is_rain,
    same_axis,
    unwrapped,
    with_positions,
)

SAME = [
    ["mm/h", "mm h-1", "mm h^-1", "mm hr**-1", "mm/hr", "mm hour-1", "h-1 mm", "mm.h-1", "millimeters/hour"],
    ["kg m-2 s-1", "kg/m2/s", "kg m^-2 s^-1", "kg m**-2 s**-1"],
    ["m s-1", "m/s", "m s**-1", "metre second-1"],
    ["K", "kelvin", "Kelvin"],
    ["degC", "celsius", "°C", "degrees_celsius"],
    ["dBZ", "dbz", "DBZ"],
    ["1", "", "dimensionless"],
    ["%", "percent"],
    ["1/s", "s-1", "s**-1"],
]


@pytest.mark.parametrize("spellings", SAME)
def test_spellings_of_one_unit_are_one(spellings: list[str]) -> None:
    assert {canonical_units(s) for s in spellings} == {canonical_units(spellings[0])}


def test_different_units_stay_different() -> None:
    kinds = (
        [canonical_units(s[0]) for s in SAME]
        + [
            canonical_units(u)
            for u in ("mm", "m", "h", "mm s-1", "m h-1", "mm2 h-1", "mm h", "m2 s-2", "m-1 s", "Pa", "hPa")
        ]
        + [canonical_units(u) for u in ("0.1 mm", "0.01 mm", "10 mm", "0.1 mm h-1", "1e-7 m", "10^3 m", "103 m")]
    )
    assert len(set(kinds)) == len(kinds)
    assert canonical_units(None) is None


def test_a_factor_is_part_of_the_units() -> None:
    assert canonical_units("0.1 mm/h") == canonical_units("0.1 mm h-1") == canonical_units("1e-1 mm h-1")
    assert canonical_units("10^-3 m") == canonical_units("10**-3 m") == canonical_units("0.001 m") == "mm"


_POWERS = st.integers(-3, 3).filter(bool)
_TERMS = st.dictionaries(st.sampled_from(["mm", "h", "s", "m", "kg", "K", "dBZ", "degC", "%"]), _POWERS, min_size=1)


@given(_TERMS, st.randoms(use_true_random=False), st.sampled_from(["{}{}", "{}^{}", "{}**{}"]))
def test_neither_the_order_of_terms_nor_the_sign_of_powers_nor_slashes_matter(
    terms: dict[str, int], random: Random, style: str
) -> None:
    shuffled = list(terms.items())
    random.shuffle(shuffled)
    plain = " ".join(f"{n}{p}" for n, p in terms.items())
    above = " ".join(style.format(n, p) for n, p in shuffled if p > 0)
    below = "".join("/" + style.format(n, -p) for n, p in shuffled if p < 0)
    assert canonical_units(above + below) == canonical_units(plain)
    assert canonical_units(canonical_units(plain)) == canonical_units(plain)


@given(st.text(alphabet="mhskgKdBZ%/^*-+ .0123456789e", max_size=12) | st.text(max_size=12))
def test_canonical_units_takes_any_text(text: str) -> None:
    assert isinstance(canonical_units(text), str)


@pytest.mark.parametrize(
    ("attrs", "rain"),
    [
        ({"standard_name": "rainfall_rate", "units": "mm h-1"}, True),
        ({"units": "mm/h"}, True),
        ({"units": "kg m**-2 s**-1"}, True),
        ({"standard_name": "lwe_thickness_of_precipitation_amount", "units": "mm"}, True),
        ({"units": "dBZ"}, False),
        ({"units": "K", "standard_name": "air_temperature"}, False),
        ({"units": "mm"}, False),
        ({}, False),
    ],
)
def test_rain_is_told_by_standard_name_or_units(attrs: dict[str, str], rain: bool) -> None:
    assert is_rain(attrs) is rain


def _array(dims: tuple[str, ...], attrs: dict[str, dict[str, str]] | None = None) -> xr.DataArray:
    coords = {d: (d, np.arange(2.0), a) for d, a in (attrs or {}).items()}
    return xr.DataArray(np.zeros((2,) * len(dims)), dims=dims, coords=coords, name="rain")


def test_axis_wins_over_standard_name_wins_over_units_wins_over_name() -> None:
    da = _array(
        ("time", "x", "y"),
        {"x": {"axis": "Y", "standard_name": "projection_x_coordinate"}, "y": {"axis": "X"}},
    )
    assert (find_dim(da, "y"), find_dim(da, "x")) == ("x", "y")
    da = _array(("time", "x", "y"), {"x": {"standard_name": "latitude"}, "y": {"standard_name": "longitude"}})
    assert (find_dim(da, "y"), find_dim(da, "x")) == ("x", "y")
    da = _array(("time", "x", "y"), {"x": {"units": "degrees_north"}, "y": {"units": "degrees_east"}})
    assert (find_dim(da, "y"), find_dim(da, "x")) == ("x", "y")


def test_a_dimension_of_times_is_time_whatever_its_name() -> None:
    da = xr.DataArray(
        np.zeros((2, 2, 2)),
        dims=("scan", "lat", "lon"),
        coords={"scan": np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[ns]")},
    )
    assert [find_dim(da, r) for r in ("time", "y", "x")] == ["scan", "lat", "lon"]


@pytest.mark.parametrize(
    ("y", "x"), [("y", "x"), ("lat", "lon"), ("Latitude", "Longitude"), ("row", "col"), ("height", "width"), ("j", "i")]
)
def test_common_names_are_known(y: str, x: str) -> None:
    da = _array(("time", y, x))
    assert [find_dim(da, r) for r in ("time", "y", "x")] == ["time", y, x]


def test_two_candidates_are_refused_and_named() -> None:
    da = _array(("time", "a", "b"), {"a": {"axis": "Y"}, "b": {"axis": "Y"}})
    with pytest.raises(DataError, match=r"dimensions a, b could each be y.*name one with y="):
        find_dim(da, "y")


def test_no_candidate_is_refused_with_the_dimensions_listed() -> None:
    with pytest.raises(DataError, match=r"no x dimension among time, p, q.*name it with x="):
        find_dim(_array(("time", "p", "q")), "x")


def test_a_told_name_is_only_checked() -> None:
    da = _array(("time", "y", "x"))
    assert find_dim(da, "y", "x") == "x"
    with pytest.raises(DataError, match="no dimension 'z'"):
        find_dim(da, "y", "z")


def test_the_dimension_left_over_is_the_channel_where_its_name_says_so() -> None:
    known = ("time", "y", "x")
    assert find_channel(_array(known), known) is None
    assert find_channel(_array((*known, "band")), known) == "band"
    assert find_channel(_array((*known, "level")), known, "level") == "level"
    with pytest.raises(DataError, match=r"dimension level \(2\) is neither.*isel\(level=0\).*channel='level'"):
        find_channel(_array((*known, "level")), known)
    with pytest.raises(DataError, match="no channel dimension 'band'"):
        find_channel(_array(known), known, "band")
    with pytest.raises(DataError, match=r"level \(2\)"):
        find_channel(_array((*known, "band", "level")), known, "band")


# WRF, ROMS, CICE, NEMO, rotated poles, HYCOM, NCL's GRIB, swaths, and names that nobody knows.
@pytest.mark.parametrize(
    ("y", "x"),
    [
        ("south_north", "west_east"), ("south_north_stag", "west_east"), ("south_north", "west_east_stag"),
        ("eta_rho", "xi_rho"), ("eta_u", "xi_u"), ("nj", "ni"), ("y", "x"), ("yc", "xc"), ("rlat", "rlon"),
        ("nlat", "nlon"), ("ygrid_0", "xgrid_0"), ("yh", "xh"), ("lines", "pixels"), ("along_track", "across_track"),
        ("a", "b"), ("dim_0", "dim_1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("names", [("XLAT", "XLONG"), ("nav_lat", "nav_lon"), ("p", "q")])
@pytest.mark.parametrize("coords", [True, False])
def test_curvilinear_grids_need_no_names(y: str, x: str, names: tuple[str, str], coords: bool) -> None:
    latitude, longitude = np.mgrid[50:51:4j, 5:6:3j]  # type: ignore[misc]
    units = ({"units": "degrees_north"}, {"standard_name": "longitude"}) if names == ("p", "q") else ({}, {})
    ds = xr.Dataset(
        {
            "rain": (("Time", y, x), np.zeros((2, 4, 3))),
            names[0]: ((y, x), latitude, units[0]),
            names[1]: ((y, x), longitude, units[1]),
        }
    )
    ds = with_positions(ds)
    assert set(names) <= set(ds.coords)
    if coords or y in ("a", "dim_0"):
        assert [find_dim(ds["rain"], r) for r in ("time", "y", "x")] == ["Time", y, x]
    assert grids(ds) == {("Time", y, x): ["rain"]}


def test_two_dimensional_latitude_tells_rows_whatever_the_order_of_a_variable() -> None:
    latitude = xr.DataArray(np.zeros((4, 3)), dims=("a", "b"), attrs={"units": "degrees_north"})
    da = xr.DataArray(np.zeros((3, 2, 4)), dims=("b", "time", "a"), coords={"lat": latitude})
    assert [find_dim(da, r) for r in ("time", "y", "x")] == ["time", "a", "b"]


def test_latitude_that_is_given_for_every_time_tells_rows_too() -> None:
    latitude = xr.DataArray(np.zeros((2, 4, 3)), dims=("Time", "a", "b"), attrs={"units": "degree_north"})
    ds = xr.Dataset({"T2": (("Time", "a", "b"), np.zeros((2, 4, 3))), "XLAT": latitude})
    assert grids(with_positions(ds)) == {("Time", "a", "b"): ["T2"]}


def test_the_grid_of_each_variable_is_found_on_it_alone() -> None:
    ds = xr.Dataset(
        {
            "rain": (("time", "y", "x"), np.zeros((2, 4, 3))),
            "cloud": (("time", "y", "x"), np.zeros((2, 4, 3))),
            "level": (("time", "height", "y", "x"), np.zeros((2, 2, 4, 3))),
            "satellite": (("time", "ys", "xs"), np.zeros((2, 2, 2))),
            "model": (("time_model", "y", "x"), np.zeros((1, 4, 3))),
            "bounds": (("time", "nv"), np.zeros((2, 2))),
        },
        {
            "time_model": ("time_model", np.array(["2024-05-01"], dtype="datetime64[ns]")),
            "ys": ("ys", [1.0, 0.0], {"standard_name": "projection_y_coordinate"}),
            "xs": ("xs", [0.0, 1.0], {"standard_name": "projection_x_coordinate"}),
        },
    )
    assert grids(ds) == {
        ("time", "y", "x"): ["cloud", "level", "rain"],
        ("time_model", "y", "x"): ["model"],
        ("time", "ys", "xs"): ["satellite"],
    }
    assert list(grids(ds, {"y": "ys"})) == list(grids(ds, DimNames(y="ys").by_role)) == [("time", "ys", "xs")]
    assert grids(ds, UNNAMED.by_role) == grids(ds)
    with pytest.raises(DataError, match="dimensions time, time_model could each be time"):
        find_dim(ds, "time")
    assert find_dim(ds[["model"]], "time") == "time_model"
    assert find_dim(ds[["rain", "cloud"]], "y") == "y"


@pytest.mark.parametrize(
    ("values", "attrs", "first", "last"),
    [
        ((np.arange(24) + 168.0 + 180) % 360 - 180, {"units": "degrees_east"}, 168, 191),
        ((np.arange(24) + 168.0 + 180) % 360 - 180, {}, 168, 191),
        ((np.arange(24) + 350.0) % 360, {"standard_name": "longitude"}, 350, 373),
        (((np.arange(24) + 168.0 + 180) % 360 - 180)[::-1], {"units": "degrees_east"}, -169, -192),
        (np.array([170.0, 178.0, -176.0, -170.0]), {"units": "degrees_east"}, 170, 190),
        (np.array([10.0, 8.0, 6.0]), {"units": "degrees_east"}, 10, 6),
        # What is not monotonic modulo 360, uneven and not called longitude, or in metres, stays as it is.
        (np.array([170.0, -170.0, 178.0, -176.0]), {"units": "degrees_east"}, 170, -176),
        (np.array([170.0, 178.0, -176.0, -170.0]), {}, 170, -170),
        ((np.arange(24) + 168.0 + 180) % 360 - 180, {"units": "m"}, 168, -169),
    ],
)
def test_longitudes_are_unwrapped_where_that_makes_them_a_sequence(
    values: np.ndarray, attrs: dict[str, str], first: float, last: float
) -> None:
    found = unwrapped(xr.DataArray(values, dims="x", coords={"x": ("x", values, attrs)})["x"])
    assert (found[0], found[-1]) == (first, last)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (np.linspace(-10, -7.7, 24), np.linspace(-10, -7.7, 24).astype("f4"), True),
        (np.arange(24) * 1000.0, np.arange(24) * 1000.0 + 1e-10, True),
        (np.arange(24) * 1000.0, np.arange(24) * 1000.0 + 0.9, True),  # less than a thousandth of a cell
        (np.arange(24) * 1000.0, np.arange(24) * 1000.0 + 5, False),
        (170 + 0.001 * np.arange(50), (170 + 0.001 * np.arange(50)).astype("f4"), True),  # float32 rounds by 8e-6
        (5e6 + 10.0 * np.arange(50), 5e6 + 10.0 * np.arange(50) + 4, False),  # 0.4 cells far from the origin
        (np.arange(5), np.arange(6), False),
        (np.array([3.0]), np.array([3.0 + 1e-9]), True),
        (np.array(["a", "b"]), np.array(["a", "c"]), False),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), True),
    ],
)
def test_coordinates_are_of_one_grid_where_they_agree_to_a_share_of_a_cell(
    one: np.ndarray, other: np.ndarray, same: bool
) -> None:
    assert same_axis(one, other) is same
