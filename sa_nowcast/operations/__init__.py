"""A service on one machine: from an arriving frame to a published forecast.

`watch` runs one as its recipe says; `replay` feeds it data of a past day, with faults. What it publishes is described
in docs/reference/published.md.
"""

from sa_nowcast.operations.faults import Faults
from sa_nowcast.operations.judging import Report
from sa_nowcast.operations.replay import replay
from sa_nowcast.operations.service import watch

__all__ = ["Faults", "Report", "replay", "watch"]
