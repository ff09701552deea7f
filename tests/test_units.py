from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sa_nowcast.metadata.units import (
    amount_name,
    amount_of_rate,
    canonical_units,
    conversion,
    is_amount,
    is_count,
    is_rain,
    is_rain_per_time,
)

# Pairs that UDUNITS finds equal, or that people write for what it knows.
EQUAL = [
    ["mm/5min", "mm (5 min)-1", "0.2 mm min-1", "12 mm h-1", "mm/(5 min)", "mm per 5 min", "mm/5 min", "mm (5 min)^-1"],
    ["mm/6h", "mm/6 h", "mm (6 h)-1", "4 mm d-1"],
    ["mm h-1", "mm·h⁻¹", "mm h^{-1}", "mmh-1", "mm hr^-1", "MM/HR", "l m-2 h-1", "mm per hour", "mm/(1 h)", "mm hrs-1"],
    ["kg m-2 day-1", "kg m-2 d-1", "kg/m2/day", "kg m**-2 day**-1"],
    ["kg m-2 s-1", "kg/m2/s", "kg/m2 s-1", "kg.m-2.s-1", "kg m⁻² s⁻¹"],
    ["inch/hr", "in/h", "in h-1", "inches per hour", "25.4 mm/h"],
    ["cm/h", "10 mm/h"],
    ["1/10 mm", "0.1 mm", "10^-1 mm"],
    ["1/10 mm/h", "0.1 mm/h", "0.1 mm h-1"],
    ["mm/day", "mm d-1", "mm days-1", "mm·d⁻¹"],
    ["hPa", "mbar", "millibar", "100 Pa"],
    ["km/h", "1000 m h-1", "kilometers per hour"],
    ["degrees_north", "degree_N", "Degrees_North"],
    ["1", "", "-", "dimensionless", "unitless"],
]  # fmt: skip


@pytest.mark.parametrize("spellings", EQUAL, ids=lambda s: s[0])
def test_spellings_of_one_unit_compare_equal(spellings: list[str]) -> None:
    assert {canonical_units(s) for s in spellings} == {canonical_units(spellings[0])}


def test_units_that_differ_by_a_factor_or_a_dimension_are_different() -> None:
    kinds = [canonical_units(spellings[0]) for spellings in EQUAL]
    kinds += [canonical_units(u) for u in ("mm", "dBZ", "m s-1", "mm month-1", "count", "degC", "K", "degrees_east")]
    assert len(set(kinds)) == len(kinds)


@given(
    st.fractions(Fraction(1, 60), 1000, max_denominator=60),
    st.sampled_from(["mm", "in", "kg m-2", "dBZ", "vehicles", "K"]),
    st.sampled_from(["s", "min", "h", "d", "week"]),
)
def test_a_factor_stays_exact_and_the_one_spelling_is_its_own(factor: Fraction, above: str, below: str) -> None:
    text = f"{factor.numerator} {above}/({factor.denominator} {below})"
    seconds = {"s": 1, "min": 60, "h": 3600, "d": 86400, "week": 604800}[below]
    one = canonical_units(text)
    assert one == canonical_units(one)
    assert one == canonical_units(f"{factor.numerator} {above} ({factor.denominator * seconds} s)-1")
    assert one != canonical_units(f"{factor.numerator} {above}/({factor.denominator + 1} {below})")


@given(st.text(alphabet="mhskgKdBZ%/^*-+ ().0123456789e⁻²·", max_size=16) | st.text(max_size=16))
def test_any_text_has_one_spelling_that_is_its_own(text: str) -> None:
    one = canonical_units(text)
    assert isinstance(one, str)
    assert canonical_units(one) == one


def test_what_is_no_unit_stays_as_written() -> None:
    for text in ("minutes since 2000-01-01", "10-3 m", "0 m", "mm (h", "m" * 300):
        assert canonical_units(text) == text


RAIN_UNITS = [
    "mm/5min", "mm/day", "mm d-1", "kg m-2 day-1", "inch/hr", "in/h", "cm/h", "mm (5 min)-1", "0.1 mm h-1", "mm/6h",
    "mm per hour", "mm/10 min", "kg/m2/s", "kg m**-2 s**-1", "mm hr^-1", "l m-2 h-1", "millimeters/hour", "mm·h⁻¹",
    "mm s-1", "mm min-1", "mm month-1", "mm/3hr", "mm week-1", "mm/15min", "L/m2/h", "kg m-2 h-1",
]  # fmt: skip
NO_RAIN_UNITS = [
    "m s-1", "cm s-1", "km h-1", "kt", "mm", "dBZ", "K", "1", "", "m3 s-1", "ug m-2 s-1", "h mm-1", "K/day", "kg m-2",
    "mm since 2000", "m d-1",
]  # fmt: skip


@pytest.mark.parametrize("units", RAIN_UNITS)
def test_rain_per_any_time_is_rain(units: str) -> None:
    assert is_rain({"units": units})
    assert is_rain_per_time(canonical_units(units)) or units in ("l m-2 h-1", "L/m2/h")


@pytest.mark.parametrize("units", NO_RAIN_UNITS)
def test_speeds_amounts_and_other_units_are_no_rain_by_themselves(units: str) -> None:
    assert not is_rain({"units": units})


@pytest.mark.parametrize(
    ("name", "units", "rain"),
    [
        ("lwe_precipitation_rate", "m s-1", True),
        ("convective_precipitation_flux", "kg m-2 s-1", True),
        ("lwe_thickness_of_stratiform_precipitation_amount", "m", True),
        ("water_evapotranspiration_flux", "kg m-2 s-1", False),
        ("lwe_water_evaporation_rate", "mm d-1", False),
        ("tendency_of_air_temperature_due_to_precipitation", "K s-1", False),
        ("precipitation", "mm/h", True),
        (b"rainfall_rate", None, True),
    ],
)
def test_a_standard_name_decides_before_units(name: str, units: str | None, rain: bool) -> None:
    assert is_rain({"standard_name": name, "units": units}) is rain


@pytest.mark.parametrize(
    ("attrs", "count"),
    [
        ({}, True),
        ({"units": ""}, True),
        ({"units": "1"}, True),
        ({"units": "counts"}, True),
        ({"units": "vehicles/30min"}, True),
        ({"units": "K"}, False),
        ({"units": "s"}, False),
        ({"units": "%"}, False),
        ({"units": "mm h-1"}, False),
        ({"standard_name": "number_of_observations"}, True),
        ({"standard_name": "air_temperature_anomaly", "units": "1"}, False),
    ],
)
def test_counts_have_no_units_or_those_of_a_number(attrs: dict[str, str], count: bool) -> None:
    assert is_count(attrs) is count


@pytest.mark.parametrize(
    ("units", "name", "amount"),
    [
        ("mm h-1", None, ("mm", Fraction(1, 3600))),
        ("mm/5min", None, ("mm", Fraction(1, 300))),
        ("l m-2 h-1", None, ("mm", Fraction(1, 3600))),
        ("in d-1", None, ("in", Fraction(1, 86400))),
        ("kg m-2 s-1", "precipitation_flux", ("kg m-2", Fraction(1))),
        ("m s-1", "lwe_precipitation_rate", ("m", Fraction(1))),
        ("mm d-1", "lwe_water_evaporation_rate", ("mm", Fraction(1, 86400))),
        ("kW m-2", None, ("J m-2", Fraction(1000))),
        ("W", None, ("J", Fraction(1))),
        ("vehicles/30min", None, ("vehicles", Fraction(1, 1800))),
        ("K h-1", None, ("K", Fraction(1, 3600))),
        ("m s-1", None, None),
        ("km h-1", "wind_speed", None),
        ("m s-2", None, None),
        ("N m-1", None, None),
        ("mm month-1", None, None),
        ("mm", None, None),
        ("K", None, None),
        (None, None, None),
    ],
)
def test_a_rate_gives_an_amount_over_time_and_nothing_else_does(
    units: str | None, name: str | None, amount: tuple[str, Fraction] | None
) -> None:
    assert amount_of_rate({"units": units, "standard_name": name}) == amount


@pytest.mark.parametrize(
    ("attrs", "amount"),
    [
        ({"units": "mm"}, True),
        ({"units": "kg m-2", "standard_name": "rainfall_amount"}, True),
        ({"units": "vehicles"}, True),
        ({"units": "1", "standard_name": "number_of_observations"}, True),
        ({"units": "kg m-2", "standard_name": "atmosphere_mass_content_of_water_vapor"}, False),
        ({"units": "mm", "standard_name": "rainfall_rate"}, False),
        ({"units": "m"}, False),
        ({"units": "1"}, False),
        ({"units": "mm h-1"}, False),
        ({}, False),
    ],
)
def test_amounts_are_of_rain_or_count_something(attrs: dict[str, str], amount: bool) -> None:
    assert is_amount(attrs) is amount


def test_names_of_amounts_go_by_their_units() -> None:
    assert amount_name("rainfall_rate", "mm") == "thickness_of_rainfall_amount"
    assert amount_name("rainfall_rate", "kg m-2") == "rainfall_amount"
    assert amount_name("convective_precipitation_flux", "mm") == "lwe_thickness_of_convective_precipitation_amount"
    assert amount_name("snowfall_flux", "mm") == "lwe_thickness_of_snowfall_amount"
    assert amount_name("rainfall_amount", "kg m-2") == "rainfall_amount"
    assert amount_name("solid_precipitation_flux", "kg m-2") is None
    assert amount_name("air_temperature", "K") is None
    assert amount_name(None, "mm") is None


@pytest.mark.parametrize(
    ("units", "wanted", "factor"),
    [
        ("mm/5min", "mm h-1", 12.0), ("cm h-1", "mm h-1", 10.0), ("mm h-1", "mm/h", 1.0), (None, None, 1.0),
        ("degC", "K", None), ("kg m-2", "mm", None), (None, "mm", None), ("dBZ", "dBZ", 1.0), ("°C?", "°C?", 1.0),
    ],
)  # fmt: skip
def test_values_are_converted_between_units_of_one_quantity(units, wanted, factor) -> None:
    assert conversion(units, wanted) == factor
