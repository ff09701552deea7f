"""Times: of data, checked for order and regularity; as users give them; and as text.

Files store times as floating-point numbers of days or hours, so that decoded ones are off by up to 0.3 us (float64 days
since 1970), 5 us (float64 days since the year 1) or seconds (float32 hours of a year). `read_times` takes that off. A
step counts as regular where it is within a thousandth of the cadence: 0.3 s of 5 min, in which rain moves some metres.
"""

from sa_nowcast.times.data import read_times, stored_as, stored_rounding, times_name, valid_times, with_times
from sa_nowcast.times.given import FIRST_YEAR, LAST_YEAR, Times, read_leads, read_moments, read_period, read_time
from sa_nowcast.times.regular import Gaps, most_common_step, nearest, numbered, regular_segments, tolerance
from sa_nowcast.times.shown import show_step, show_time

__all__ = [
    "FIRST_YEAR", "LAST_YEAR", "Gaps", "Times", "most_common_step", "nearest", "numbered", "read_leads", "read_moments",
    "read_period", "read_time", "read_times", "regular_segments", "show_step", "show_time", "stored_as",
    "stored_rounding", "times_name", "tolerance", "valid_times", "with_times",
]  # fmt: skip
