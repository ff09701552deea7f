"""What other conventions call a forecast's dimensions and coordinates; `conventions` gives the sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sa_nowcast.metadata import dims


@dataclass(frozen=True)
class Names:
    """What a convention calls things. `order` is that of the first dimensions; the horizontal ones come last."""

    names: Mapping[str, str]
    order: tuple[str, ...]
    geographic: tuple[str, str] = ("latitude", "longitude")  # axes of a grid in latitude and longitude
    curvilinear: tuple[str, str] = ("latitude", "longitude")  # two-dimensional latitude and longitude
    projected: tuple[str, str] | None = None  # axes of other grids; None: as they are
    init_is_dimension: bool = False
    keeps_valid_time: bool = True
    attrs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


NAMES: Final[Mapping[str, Names]] = {
    "ecmwf": Names(
        {dims.INIT_TIME: "time", dims.LEAD_TIME: "step", dims.VALID_TIME: "valid_time", dims.REALIZATION: "number"},
        ("number", "time", "step"),
        projected=("y", "x"),
        attrs={
            dims.INIT_TIME: {"standard_name": "forecast_reference_time", "long_name": "initial time of forecast"},
            dims.LEAD_TIME: {"standard_name": "forecast_period", "long_name": "time since forecast_reference_time"},
            dims.VALID_TIME: {"standard_name": "time", "long_name": "time"},
            dims.REALIZATION: {
                "standard_name": "realization", "long_name": "ensemble member numerical id", "units": "1",
            },
            "y": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"},
            "x": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"},
        },
    ),
    "weatherbench": Names(
        {dims.INIT_TIME: "time", dims.LEAD_TIME: "prediction_timedelta", dims.REALIZATION: "number"},
        ("time", "number", "prediction_timedelta"),
        init_is_dimension=True,
        keeps_valid_time=False,
    ),
    "earth2studio": Names(
        {dims.INIT_TIME: "time", dims.LEAD_TIME: "lead_time", dims.REALIZATION: "ensemble"},
        ("ensemble", "time", "lead_time", dims.VARIABLE),
        geographic=("lat", "lon"),
        curvilinear=("lat", "lon"),
        init_is_dimension=True,
        keeps_valid_time=False,
    ),
    "pysteps": Names(
        {dims.INIT_TIME: "forecast_reference_time", dims.LEAD_TIME: "time", dims.REALIZATION: "ens_number"},
        ("ens_number", "time"),
        geographic=("y", "x"),
        curvilinear=("lat", "lon"),
        projected=("y", "x"),
        keeps_valid_time=False,
        attrs={
            dims.INIT_TIME: {"long_name": "forecast reference time"},
            dims.REALIZATION: {"standard_name": "realization", "long_name": "ensemble member", "units": ""},
        },
    ),
}  # fmt: skip

# The variable of pysteps that holds each of its units.
PYSTEPS_VARIABLES: Final = {
    "mm/h": ("precip_intensity", "instantaneous precipitation rate"),
    "mm": ("precip_accum", "accumulated precipitation"),
    "dBZ": ("reflectivity", "equivalent reflectivity factor"),
}
