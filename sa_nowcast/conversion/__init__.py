"""From any source to a Zarr store that streams fast and cannot be half there.

`convert` writes, `open_zarr` reads, `verify` reads every chunk once.
"""

from sa_nowcast.conversion.plan import ConversionPlan
from sa_nowcast.conversion.run import convert
from sa_nowcast.sources.store import open_zarr, verify
from sa_nowcast.storage.manifest import COMPLETE
from sa_nowcast.storage.shards import VariablePlan

__all__ = ["COMPLETE", "ConversionPlan", "VariablePlan", "convert", "open_zarr", "verify"]
