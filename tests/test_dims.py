from __future__ import annotations

from random import Random

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from sa_nowcast.dims import canonical_units, find_channel, find_dim, is_rain
from sa_nowcast.errors import DataError

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
