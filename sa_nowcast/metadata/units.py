"""Units by grammar: one spelling for each unit, and which units and standard names are those of rain and counts.

A unit is read as a product of numbers and names with powers, as UDUNITS does, and kept as an exact factor times
powers of base units. Spellings are compared: ``mm/5min`` and ``12 mm h-1`` are two spellings of one unit, ``mm/5min``
and ``mm h-1`` are two units.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any, Final

from sa_nowcast.metadata.attributes import text

_Powers = dict[str, int]

# Exact by definition (SI brochure, 9th edition; the international inch, foot, mile and nautical mile).
_DEFINED: Final[Mapping[str, tuple[str, _Powers]]] = {
    "m": ("1", {"m": 1}), "s": ("1", {"s": 1}), "g": ("1/1000", {"kg": 1}), "K": ("1", {"K": 1}),
    "min": ("60", {"s": 1}), "h": ("3600", {"s": 1}), "d": ("86400", {"s": 1}), "week": ("604800", {"s": 1}),
    "month": ("1", {"month": 1}), "year": ("1", {"year": 1}),
    "in": ("127/5000", {"m": 1}), "ft": ("381/1250", {"m": 1}), "mi": ("201168/125", {"m": 1}),
    "nmi": ("1852", {"m": 1}), "l": ("1/1000", {"m": 3}),
    "Pa": ("1", {"kg": 1, "m": -1, "s": -2}), "bar": ("100000", {"kg": 1, "m": -1, "s": -2}),
    "N": ("1", {"kg": 1, "m": 1, "s": -2}), "J": ("1", {"kg": 1, "m": 2, "s": -2}),
    "W": ("1", {"kg": 1, "m": 2, "s": -3}), "Hz": ("1", {"s": -1}),
    "kt": ("463/900", {"m": 1, "s": -1}), "mph": ("1397/3125", {"m": 1, "s": -1}),
    "1": ("1", {}), "%": ("1/100", {}), "ppm": ("1/1000000", {}),
}  # fmt: skip
_PREFIXES: Final = {"da": 1, "h": 2, "k": 3, "M": 6, "G": 9, "T": 12, "d": -1, "c": -2, "m": -3, "u": -6, "n": -9}
_WORD_PREFIXES: Final = {"hecto": "h", "kilo": "k", "mega": "M", "deci": "d", "centi": "c", "milli": "m", "micro": "u"}
_PREFIXED: Final = frozenset({"m", "s", "g", "l", "Pa", "bar", "N", "J", "W", "Hz", "K"})
_DEGREES: Final = {
    **dict.fromkeys(("degree_north", "degree_n", "degrees_n", "degreen", "degreesn"), "degrees_north"),
    **dict.fromkeys(("degree_east", "degree_e", "degrees_e", "degreee", "degreese"), "degrees_east"),
}
_ALIASES: Final = {
    "meter": "m", "metre": "m", "gram": "g", "sec": "s", "second": "s", "minute": "min", "hr": "h", "hour": "h",
    "day": "d", "mon": "month", "yr": "year", "wk": "week", "inch": "in", "inches": "in", "foot": "ft", "feet": "ft",
    "mile": "mi", "liter": "l", "litre": "l", "L": "l", "knot": "kt", "pascal": "Pa", "joule": "J", "watt": "W",
    "kelvin": "K", "dbz": "dBZ", "degc": "degC", "°c": "degC", "celsius": "degC", "degrees_celsius": "degC",
    "degree_celsius": "degC", "percent": "%", "dimensionless": "1", "unitless": "1", "none": "1",
    **_DEGREES,
}  # fmt: skip
_OWN: Final = frozenset({"degC", "dBZ", "degrees_north", "degrees_east", "count"})
# Written in these where the unit is one of them, or a plain multiple.
_SHOWN: Final = (
    "1", "%", "mm h-1", "m s-1", "mm min-1", "mm s-1", "mm d-1", "km h-1", "mm month-1", "mm year-1", "kg m-2 s-1",
    "kg m-2 h-1", "kg m-2 d-1", "m", "mm", "cm", "km", "s", "min", "h", "d", "kg", "g", "Pa", "hPa", "kPa", "W m-2",
)  # fmt: skip
_LONGEST: Final = 200
_MOST_POWER: Final = 30

_TOKEN: Final = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?:\^\(?(?P<exponent>[+-]?\d{1,2})\)?)?"
    r"|(?P<name>[^\W\d]+|[%°#][^\W\d]*)(?:\^\((?P<braced>[+-]?\d{1,2})\)|\^?(?P<power>[+-]?\d{1,2})(?!\d))?"
    r"|(?P<open>\()|(?P<close>\))(?:\^?(?P<all>[+-]?\d{1,2})(?!\d))?|(?P<slash>/)|(?P<product>[ .])"
)
_SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_GLUED: Final = re.compile(r"\bmm(?=(?:h|hr|hour|d|day|min)\b|(?:h|hr|d|day|min)[\^-])")


@dataclass
class _Unit:
    """A factor times powers of base units, and the names that it was written with."""

    factor: Fraction
    powers: _Powers
    names: frozenset[str] = frozenset()

    def times(self, other: _Unit, power: int) -> _Unit:
        if abs(power) > _MOST_POWER or (not other.factor and power < 1):
            raise ValueError
        powers = dict(self.powers)
        for name, own in other.powers.items():
            powers[name] = powers.get(name, 0) + own * power
        factor = self.factor * other.factor**power
        return _Unit(factor, {n: p for n, p in powers.items() if p}, self.names | other.names)


def canonical_units(units: Any) -> str | None:
    """Return one spelling for the units that CF, pysteps and people spell differently.

    ``mm/h``, ``mm h^-1``, ``mm hr**-1`` and ``mm h-1`` all become ``mm h-1``; ``mm/5min`` and ``0.2 mm min-1`` become
    ``12 mm h-1``. What is no unit stays as it is written. This compares units; it converts none.

    After a slash come a number with its unit (``mm/10 min``) and all names without a power below zero of their own
    (``J/kg K``, but ``kg/m2 s-1``); a number divided by a number is a factor (``1/10 mm``).
    """
    units = text(units)
    return None if units is None else _canonical(units)


@functools.lru_cache(maxsize=1024)
def _canonical(units: str) -> str:
    unit = _read(units)
    return " ".join(units.split()) if unit is None else _written(unit)


@functools.lru_cache(maxsize=1024)
def _read(units: str) -> _Unit | None:
    """Return the unit that a text means; None where it means none."""
    plain = unicodedata.normalize("NFC", units).strip()
    if len(plain) > _LONGEST:
        return None
    plain = re.sub(r"([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: "^" + m[1].translate(_SUPERSCRIPTS), plain)
    plain = plain.replace("**", "^").replace("−", "-").replace("–", "-").replace("µ", "u").replace("μ", "u")
    plain = re.sub(r"[·⋅∙×*\s]+", " ", re.sub(r"[{}$\\]", "", plain))
    plain = re.sub(r"(?i)(?<![^\W\d_])per(?![^\W\d_])", "/", plain)
    plain = re.sub(r"\s*\^\s*", "^", re.sub(r"\s*/\s*", "/", plain)).strip()
    plain = _GLUED.sub("mm ", plain.removesuffix("."))
    if plain in ("", "-"):
        return _Unit(Fraction(1), {}, frozenset({"1"}))
    try:
        unit, end = _product(plain, 0, 0)
        return unit if end == len(plain) and unit.factor > 0 else None
    except (ValueError, OverflowError, ZeroDivisionError, RecursionError):
        return None


def _product(plain: str, at: int, depth: int) -> tuple[_Unit, int]:
    """Read factors up to the end or a closing bracket."""
    unit = _Unit(Fraction(1), {})
    sign, fresh, numbers_only, after_number = 1, False, True, False
    while at < len(plain):
        match = _TOKEN.match(plain, at)
        if match is None:
            raise ValueError
        at = match.end()
        if match["slash"]:
            # In 1/10 mm the slash stands between numbers; in mm/10 min it does not.
            after_number = numbers_only and bool(unit.factor != 1 or plain[: match.start()].strip("( "))
            sign, fresh = -1, True
            continue
        if match["product"]:
            continue
        if match["close"]:
            if not depth:
                raise ValueError
            return _Unit(unit.factor, unit.powers, unit.names), match.start()
        if match["open"]:
            inner, end = _product(plain, at, depth + 1)
            match = _TOKEN.match(plain, end)
            if match is None or not match["close"]:
                raise ValueError
            at, power = match.end(), int(match["all"] or 1)
            numbers_only = False
        elif match["number"]:
            value = Fraction(match["number"])
            if not Fraction(1, 10**30) < value < 10**30:
                raise ValueError
            inner, power = _Unit(value, {}), int(match["exponent"] or 1)
        else:
            inner, power = _named(match["name"]), int(match["power"] or match["braced"] or 1)
            numbers_only = False
        # kg/m2 s-1: a power below zero says itself where it belongs.
        above = sign > 0 or (power < 0 and not fresh)
        unit = unit.times(inner, power if above else -power)
        if fresh and after_number and match["number"]:
            sign = 1
        fresh = False
    if depth:
        raise ValueError
    return unit, at


def _named(name: str) -> _Unit:
    for spelling in (name, name.lower()):
        own = _symbol(spelling)
        if own is not None:
            return own
    return _Unit(Fraction(1), {name: 1}, frozenset({name}))


def _symbol(name: str) -> _Unit | None:
    symbol = _ALIASES.get(name, name)
    if symbol == name and len(name) > 2 and name.endswith("s"):
        singular = name[:-1]
        symbol = _ALIASES.get(singular, singular if singular in _OWN else name)
    if symbol in _DEFINED:
        factor, powers = _DEFINED[symbol]
        return _Unit(Fraction(factor), powers, frozenset({symbol}))
    if symbol in _OWN:
        return _Unit(Fraction(1), {symbol: 1}, frozenset({symbol}))
    for word, prefix in _WORD_PREFIXES.items():
        if name.startswith(word) and (rest := _symbol(name.removeprefix(word))) and rest.names <= _PREFIXED:
            return _prefixed(prefix, rest)
    for prefix in _PREFIXES:
        rest_name = _ALIASES.get(name.removeprefix(prefix), name.removeprefix(prefix)) if name != prefix else ""
        if name.startswith(prefix) and len(name) <= 5 and rest_name in _PREFIXED and len(rest_name) <= 3:
            return _prefixed(prefix, _Unit(Fraction(_DEFINED[rest_name][0]), _DEFINED[rest_name][1], {rest_name}))  # type: ignore[arg-type]
    return None


def _prefixed(prefix: str, unit: _Unit) -> _Unit:
    (name,) = unit.names
    return _Unit(unit.factor * Fraction(10) ** _PREFIXES[prefix], unit.powers, frozenset({prefix + name}))


@functools.cache
def _shown() -> tuple[tuple[str, _Unit], ...]:
    return tuple((shown, unit) for shown in _SHOWN if (unit := _read(shown)) is not None)


def _written(unit: _Unit) -> str:
    alike = [(shown, unit.factor / own.factor) for shown, own in _shown() if own.powers == unit.powers]
    alike = alike or [_with_time(unit, time) for time in ("s", "min", "h", "d")]
    for shown, ratio in alike:
        if ratio == 1:
            return shown
    alike = [(shown, ratio) for shown, ratio in alike if shown != "%"]
    exact = [(number, shown) for shown, ratio in alike if (number := _decimal(ratio))]
    fraction = (f"{alike[0][1].numerator} ({alike[0][1].denominator})-1", alike[0][0])
    number, shown = min(exact, key=lambda each: len(each[0]), default=fraction)
    return number if shown == "1" else f"{number} {shown}"


def _with_time(unit: _Unit, time: str) -> tuple[str, Fraction]:
    """Return a unit's names with `time` in place of seconds, and the factor that is left."""
    powers = {(time if name == "s" else name): power for name, power in unit.powers.items()}
    ordered = sorted(powers.items(), key=lambda item: (item[1] < 0, item[0]))
    shown = " ".join(name if power == 1 else f"{name}{power}" for name, power in ordered)
    return shown, unit.factor / Fraction(_DEFINED[time][0]) ** unit.powers.get("s", 0)


def _decimal(number: Fraction) -> str:
    """Return a number as a decimal that is exact, or nothing where there is none of 30 digits."""
    rest = number.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return ""
    with localcontext() as context:
        context.prec = 60
        value = (Decimal(number.numerator) / Decimal(number.denominator)).normalize()
    if Fraction(value) != number or len(value.as_tuple().digits) > 30:
        return ""
    return f"{value:f}" if -8 < value.adjusted() < 12 else str(value)


def conversion(units: Any, wanted: Any) -> float | None:
    """Return what values in `units` are multiplied by to be in `wanted`; None where the two are of other quantities.

    ``mm/5min`` to ``mm h-1`` is 12. Units with a zero of their own, such as degC, are converted to none but themselves.
    """
    one, other = text(units), text(wanted)
    if one is None or other is None:
        return 1.0 if one == other else None
    read = _read(one), _read(other)
    if read[0] is None or read[1] is None:
        return 1.0 if _canonical(one) == _canonical(other) else None
    return float(read[0].factor / read[1].factor) if read[0].powers == read[1].powers else None


_PHASE: Final = r"(stratiform_|convective_|large_scale_|deep_convective_|shallow_convective_|solid_)?"
_RAIN_NAME: Final = re.compile(
    rf"(lwe_)?(thickness_of_)?{_PHASE}(rainfall|precipitation|snowfall|rain)_(rate|flux|amount)", re.IGNORECASE
)
_LENGTHS: Final = frozenset({"mm", "cm", "in"})
_TIMES: Final = ("s", "month", "year")
_COUNTED: Final = frozenset({"1", "count", "number", "#", "vehicles", "vehicle", "persons", "people", "trips"})


def is_rain(attrs: Mapping[Hashable, Any]) -> bool:
    """Say whether the attributes describe rain as a rate or an amount (not reflectivity).

    By a CF standard name of rainfall, snowfall or precipitation; else by units: millimetres, centimetres, inches,
    litres per square metre or kilograms per square metre, per any time. Units alone do not decide where a standard
    name is of something else, such as evaporation; and ``m s-1``, ``cm s-1`` and ``km h-1`` alone are speeds.
    """
    name = text(attrs.get("standard_name"))
    if name:
        if _RAIN_NAME.fullmatch(name):
            return True
        if not re.search("rain|precip|snow", name, re.IGNORECASE):
            return False
    return is_rain_per_time(attrs.get("units"))


def is_rain_per_time(units: Any) -> bool:
    """Say whether units are those of rain per any time; see `is_rain`."""
    written = text(units)
    unit = None if written is None else _read(written)
    if unit is None:
        return False
    times = [name for name in unit.powers if name in _TIMES and unit.powers[name] == -1]
    if len(times) != 1:
        return False
    rest = {name: power for name, power in unit.powers.items() if name != times[0]}
    if rest == {"kg": 1, "m": -2}:
        return "kg" in unit.names
    if rest != {"m": 1}:
        return False
    return "l" in unit.names or bool(unit.names & _LENGTHS and not {"cm", "s"} <= unit.names)


def amount_of_rate(attrs: Mapping[Hashable, Any]) -> tuple[str, Fraction] | None:
    """Return the units of the amount that a rate gives over time, and the amount of one second at a rate of 1.

    ``mm h-1`` gives millimetres, 1/3600 a second; ``kg m-2 s-1`` gives ``kg m-2``, and ``W m-2`` gives ``J m-2``. None
    where the attributes are of no rate: another power of time, a length per time that neither names nor units tell
    from a speed (see `is_rain`), or months and years, which have no fixed length.
    """
    written = text(attrs.get("units"))
    unit = None if written is None else _read(written)
    if unit is None:
        return None
    shown = None
    for power, work in (("W", "J"), ("W m-2", "J m-2")):
        if unit.powers == _known(power).powers and any(name.endswith("W") for name in unit.names):
            shown = work
    if shown is None:
        if unit.powers.get("s") != -1 or {"month", "year"} & unit.powers.keys():
            return None
        rest = {name: power for name, power in unit.powers.items() if name != "s"}
        if rest == {"m": 1} and not (is_rain(attrs) or is_rain_per_time(written)):
            return None
        named = [n for n in unit.names if _known(n).powers == rest]
        if len(named) == 1 and "l" not in unit.names:
            shown = named[0]
        elif rest in ({"m": 1}, {"kg": 1, "m": -2}):
            shown = "mm" if rest == {"m": 1} else "kg m-2"
        else:
            times = [n for n in unit.names if _known(n).powers == {"s": 1}]
            shown = _written(unit.times(_known(times[0] if len(times) == 1 else "s"), 1))
    return shown, unit.factor / _known(shown).factor


def is_amount(attrs: Mapping[Hashable, Any]) -> bool:
    """Say whether the attributes are of what adds up over time: rain as an amount, or things that are counted.

    By a CF standard name of an amount or of a number of things; else by units that are no rate: millimetres,
    centimetres, inches, litres or kilograms per square metre, or a count that says of what (not ``1``).
    """
    written = text(attrs.get("units"))
    unit = None if written is None else _read(written)
    if unit is None or unit.powers.keys() & set(_TIMES):
        return False
    name = text(attrs.get("standard_name"))
    if name:
        return rain_noun(name) == "amount" or name.startswith("number_of_")
    if unit.powers == {"m": 1}:
        return bool(unit.names & (_LENGTHS | {"l"}))
    if unit.powers == {"kg": 1, "m": -2}:
        return "kg" in unit.names
    return bool(unit.names) and unit.names <= _COUNTED - {"1"}


def rain_noun(standard_name: str | None) -> str | None:
    """Return whether a CF standard name is of a ``rate``, ``flux`` or ``amount`` of rain or snow; None for others."""
    found = _RAIN_NAME.fullmatch(standard_name or "")
    return None if found is None else found[found.re.groups].lower()


# Of the CF standard name table: the phases, and what follows them in a name of an amount.
_PHASES: Final = ("", "convective_", "stratiform_")
_AMOUNTS: Final = frozenset(
    f"{head}{phase}{thing}_amount"
    for phase in _PHASES
    for head, things in (
        ("", ("rainfall", "precipitation", "snowfall")),
        ("thickness_of_", ("rainfall", "snowfall")),
        ("lwe_thickness_of_", ("precipitation", "snowfall")),
    )
    for thing in things
)


def amount_name(standard_name: str | None, units: str) -> str | None:
    """Return the CF standard name of the amount that a rate or flux of this name adds up to; None where CF has none.

    Of a rain rate it is ``thickness_of_rainfall_amount``, of a precipitation rate
    ``lwe_thickness_of_precipitation_amount`` (a length), and of a flux ``rainfall_amount`` (mass per area): `units` are
    those of the amount, and decide which.
    """
    found = _RAIN_NAME.fullmatch(standard_name or "")
    if found is None:
        return None
    lwe, _, phase, thing, noun = (part.lower() if part else "" for part in found.groups())
    unit = _read(units)
    if noun == "amount" or unit is None:
        return standard_name
    of_length = unit.powers == {"m": 1}
    # A flux in mm h-1 is one of water; the thickness of fallen snow would be another quantity.
    water = lwe or ("lwe_" if thing == "precipitation" or (thing == "snowfall" and noun == "flux") else "")
    name = f"{water}thickness_of_{phase}{thing}_amount" if of_length else f"{phase}{thing}_amount"
    return name if name in _AMOUNTS else None


def _known(units: str) -> _Unit:
    """Return a unit that this module itself has written."""
    unit = _read(units)
    assert unit is not None
    return unit


def is_count(attrs: Mapping[Hashable, Any]) -> bool:
    """Say whether the attributes can be those of a count: a standard name of a number of things, or no units.

    Units such as ``1``, ``count`` or ``vehicles`` per any time count too; whatever has other units, or a standard name
    of something else, is no count.
    """
    name = text(attrs.get("standard_name"))
    if name:
        return name.startswith("number_of_")
    written = text(attrs.get("units"))
    unit = None if written is None else _read(written)
    if unit is None:
        return written is None
    if not unit.powers:
        return unit.factor == 1
    counted = unit.names - {"s", "min", "h", "d", "week", "month", "year"}
    return bool(counted) and counted <= _COUNTED
