"""A checked sequence of gridded frames: regular step, units, grid, gaps, mask.

`Frames` is the trusted type of the package: whoever holds one knows that its times are unique, sorted and regular
but for known gaps, that its dimensions are found, and that `Frames.read` gives float32 values in one fixed layout
with NaN where the input had nothing. Only `Frames.from_xarray` makes one.
"""

from sa_nowcast.frames.grid import Grid as Grid
from sa_nowcast.frames.grid import grid_mapping_name as grid_mapping_name
from sa_nowcast.frames.grid import jump as jump
from sa_nowcast.frames.selection import one_grid as one_grid
from sa_nowcast.frames.sequence import Frames
from sa_nowcast.frames.values import LARGEST as LARGEST
from sa_nowcast.frames.values import Channel as Channel
from sa_nowcast.frames.values import fill_values as fill_values
from sa_nowcast.frames.values import infinite_values as infinite_values
from sa_nowcast.frames.values import require_usable as require_usable

__all__ = ["Frames"]
