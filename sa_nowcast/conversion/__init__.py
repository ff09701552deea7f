"""From any source to a Zarr store that streams fast and cannot be half there.

`convert` writes, `open_zarr` reads, `verify` reads every chunk once.
"""

from sa_nowcast.conversion.plan import ConversionPlan, VariablePlan
from sa_nowcast.conversion.run import convert
from sa_nowcast.sources.store import COMPLETE, open_zarr, verify

__all__ = ["COMPLETE", "ConversionPlan", "VariablePlan", "convert", "open_zarr", "verify"]
