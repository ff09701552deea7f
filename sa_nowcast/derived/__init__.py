"""What is derived from fields of forecasts and observations: sums over time, series at points, means over areas.

Each function takes a forecast, a hindcast or observed frames, keeps all dimensions but those that it is about (members,
init times, lead times), and is lazy where the data are. Also frames that are missing, filled from those beside them.
"""

from sa_nowcast.derived.areas import over
from sa_nowcast.derived.filling import fill_gaps
from sa_nowcast.derived.passing import accumulate_passing, rain_spell
from sa_nowcast.derived.points import at
from sa_nowcast.derived.sums import accumulate

__all__ = ["accumulate", "accumulate_passing", "at", "fill_gaps", "over", "rain_spell"]
