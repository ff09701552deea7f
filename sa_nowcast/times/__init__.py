"""Times: of data, checked for order and regularity; as users give them; and as text.

Files store times as floating-point numbers of days or hours, so that decoded ones are off by up to 0.3 us (float64 days
since 1970), 5 us (float64 days since the year 1) or seconds (float32 hours of a year). `read_times` takes that off. A
step counts as regular where it is within a thousandth of the cadence: 0.3 s of 5 min, in which rain moves some metres.
"""

from sa_nowcast.times.data import read_times as read_times
from sa_nowcast.times.data import stored_as as stored_as
from sa_nowcast.times.data import stored_rounding as stored_rounding
from sa_nowcast.times.data import times_name as times_name
from sa_nowcast.times.data import valid_times as valid_times
from sa_nowcast.times.data import with_times as with_times
from sa_nowcast.times.given import FIRST_YEAR as FIRST_YEAR
from sa_nowcast.times.given import LAST_YEAR as LAST_YEAR
from sa_nowcast.times.given import Times as Times
from sa_nowcast.times.given import read_leads as read_leads
from sa_nowcast.times.given import read_moments as read_moments
from sa_nowcast.times.given import read_period as read_period
from sa_nowcast.times.given import read_time as read_time
from sa_nowcast.times.regular import Gaps as Gaps
from sa_nowcast.times.regular import most_common_step as most_common_step
from sa_nowcast.times.regular import nearest as nearest
from sa_nowcast.times.regular import numbered as numbered
from sa_nowcast.times.regular import regular_segments as regular_segments
from sa_nowcast.times.regular import tolerance as tolerance
from sa_nowcast.times.shown import show_step as show_step
from sa_nowcast.times.shown import show_time as show_time
