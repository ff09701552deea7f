"""Forecasts from many init times: lazily, or to a Zarr archive that can be stopped and resumed.

An archive is written template first (coordinates and metadata), then shard by shard, in any order, by this process or
by the workers of a dask cluster. A shard holds whole init times. It is the unit of work and of a writer: its
bytes depend on the data, the model and its place alone, so that a task may run twice and two writers never meet. The
archive grows beside its final name with a journal of the shards that are done and of the batches of those under way,
and is renamed when whole.
"""

from sa_nowcast.forecasts.labels import init_positions
from sa_nowcast.hindcast.archive import STATUS
from sa_nowcast.hindcast.calibration import calibrate
from sa_nowcast.hindcast.call import hindcast
from sa_nowcast.storage.growing import JOURNAL

__all__ = ["JOURNAL", "STATUS", "calibrate", "hindcast", "init_positions"]
