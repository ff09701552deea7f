"""Frames that are missing between others, filled along the motion."""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import Final

import numpy as np
import xarray as xr

from sa_nowcast.derived.fields import one_field
from sa_nowcast.frames import Frames
from sa_nowcast.metadata.attributes import text
from sa_nowcast.times import show_time, with_times
from sa_nowcast.windows import require_whole

FILLED: Final = "sa_nowcast_filled"
"""The attribute that names the times of frames that were filled."""
MOVED_FROM: Final = 3
"""Frames before a gap, at most, whose motion goes on in it."""


def fill_gaps(
    data: xr.DataArray | xr.Dataset,
    longest: int = 1,
    *,
    time: Hashable | None = None,
    y: Hashable | None = None,
    x: Hashable | None = None,
    channel: Hashable | None = None,
) -> xr.DataArray:
    """Return frames with their short gaps filled along the motion, so that a forecast has its history.

    Parameters
    ----------
    data : DataArray or Dataset
        Frames, dims (time, [channel,] y, x) in any order; of a Dataset the only gridded variable. A frame is missing
        where its time is, or where it has no value at all.
    longest : int
        Frames of the longest gap that is filled.
    time, y, x, channel : hashable, optional
        Dimension names, where CF attributes and common names do not tell.

    Raises
    ------
    DataError
        As `sa_nowcast.frames.Frames` refuses data, but for gaps; values that cannot be used.
    RecipeError
        `longest` is no whole number of at least 0.

    Returns
    -------
    DataArray, dims (time, [channel,] y, x)
        The frames, and those that were filled, whose times are in the attribute ``sa_nowcast_filled``. Gaps that are
        longer, or have no frame on one of their sides, stay.

    Notes
    -----
    The frame at a share s of the way from the one before the gap to the one after it is
    ``(1 - s) F_0(x - s d) + s F_1(x + (1 - s) d)`` (Anagnostou and Krajewski 1999,
    doi:10.1175/1520-0426(1999)016<0189:RTRREP>2.0.CO;2), where d is how far the motion carries on the whole way. It is
    the motion over the last three frames, or two, without a gap between them that end before it; where there is one,
    that from one side of the gap to the other. Where no motion is found, as in noise, this is linear interpolation in
    time. A pixel that is missing on one of the sides is missing. Of what comes after a gap the first frame alone takes
    part, so a forecast from that frame knows nothing of later ones.
    """
    import torch

    from sa_nowcast.models.passage import between, motion_of

    require_whole(least=0, longest=longest)
    frames = Frames.from_xarray(one_field(data), time=time, y=y, x=x, channel=channel, gaps="skip")
    places = np.rint((frames.times - frames.times[0]) / frames.step).astype(np.int64)
    values = torch.from_numpy(np.array(frames.read(0, len(frames))))  # (time, channel, row, column)
    there: list[int] = np.flatnonzero(torch.isfinite(values).flatten(1).any(1).numpy()).tolist()
    filled: dict[int, torch.Tensor] = {}
    with torch.inference_mode():
        for first, last in itertools.pairwise(there):
            length = int(places[last] - places[first])
            if not 1 < length <= longest + 1:
                continue
            run = [first]
            while len(run) < MOVED_FROM and run[0] - 1 in there and places[run[0]] - places[run[0] - 1] == 1:
                run.insert(0, run[0] - 1)
            seen, ways = (values[run], length) if len(run) > 1 else (values[[first, last]], 1)
            moved = [ways * motion_of(one) for one in seen.unbind(1)]
            for part in range(1, length):
                pairs = zip(values[first], values[last], moved, strict=True)
                filled[int(places[first]) + part] = torch.stack([between(*pair, part / length) for pair in pairs])
    array = with_times(frames.arrays[0], frames.time_dim, frames.name)
    if not filled:
        return array
    own = dict(zip(places.tolist(), frames.times, strict=True))  # a frame without values has its time
    new = np.array([own.get(place, frames.times[0] + place * frames.step) for place in sorted(filled)])
    result = array.reindex({frames.time_dim: np.union1d(frames.times, new)})
    made = frames.field(torch.stack([filled[place] for place in sorted(filled)]).numpy())
    at = np.searchsorted(result[frames.time_dim].values, new)
    whole = np.array(result.values)
    whole[at] = made if frames.channel_dim is not None else made[:, 0]
    told = [*(text(array.attrs.get(FILLED)) or "").split(), *map(show_time, new)]
    return result.copy(data=whole).assign_attrs({FILLED: " ".join(told)})
