"""What lies between maps along the motion: a map between two, and sums over time. Torch, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sa_nowcast.models.motion import optical_flow, places, sample

MOST_PARTS = 16
"""Parts of a step, at most: each costs two interpolations of a map."""


def motion_of(history_THW: Tensor) -> Tensor:
    """Return the motion over some maps, (1, 2, H, W) in pixels per step; missing values count as the least one."""
    known = torch.isfinite(history_THW)
    if len(history_THW) < 2 or not known.any():
        return torch.zeros(1, 2, *history_THW.shape[-2:])
    low = history_THW[known].min()
    return optical_flow(torch.where(known, history_THW, low)[None])


def between(before_HW: Tensor, after_HW: Tensor, moved_B2HW: Tensor, share: float) -> Tensor:
    """Return the map (H, W) at a share of the way from one map to another.

    A pattern is where the motion has brought it, and turns from the one into the other: the map at a share s is
    ``(1 - s) F_0(x - s d) + s F_1(x + (1 - s) d)``, where d is by how much it moves on the whole way.

    Parameters
    ----------
    before_HW, after_HW : Tensor
        NaN where missing: there, and wherever it takes part, the result is missing.
    moved_B2HW : Tensor
        (1, 2, H, W): rows and columns that a pattern moves from the one to the other.
    share : float
        From 0 to 1.
    """
    height, width = before_HW.shape
    here = places(height, width, before_HW)
    came = sample(before_HW[None, None], here - share * moved_B2HW)
    comes = sample(after_HW[None, None], here + (1 - share) * moved_B2HW)
    return ((1 - share) * came + share * comes)[0, 0]


def parts_of(flow_B2HW: Tensor) -> int:
    """Return in how many parts a step is taken so that nothing moves by more than a pixel in one."""
    return min(max(1, math.ceil(float(flow_B2HW.norm(dim=1).max()))), MOST_PARTS)


def passed(maps_THW: Tensor, flow_B2HW: Tensor, ends: Sequence[int]) -> list[Tensor]:
    """Return the sums over time of what passes each pixel, from the first map up to some later ones.

    Between two maps the field is that of `between`, as in the correction of rain amounts for advection by Anagnostou
    and Krajewski (1999), doi:10.1175/1520-0426(1999)016<0189:RTRREP>2.0.CO;2. Time is in steps, and the sum is by the
    trapezoidal rule over parts of a step in which nothing moves by more than a pixel.

    Parameters
    ----------
    maps_THW : Tensor
        Successive maps, one step apart; NaN where missing, and wherever it takes part.
    flow_B2HW : Tensor
        (1, 2, H, W), in pixels per step.
    ends : sequence of int
        Positions of maps, ascending, at which a sum ends.

    Returns
    -------
    list of Tensor
        (H, W) each.
    """
    parts = parts_of(flow_B2HW)
    total, results = torch.zeros_like(maps_THW[0]), []
    for step in range(1, max(ends) + 1):
        before, after = maps_THW[step - 1], maps_THW[step]
        total += (before + after) / (2 * parts)
        for part in range(1, parts):
            total += between(before, after, flow_B2HW, part / parts) / parts
        if step in ends:
            results.append(total.clone())
    return results
