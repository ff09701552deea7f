"""Motion in a sequence of maps: an optical flow from the last frames, and where what is seen now came from.

Everything is differentiable torch on (B, H, W) maps without missing values. A flow is (B, 2, H, W): rows and columns
that a pattern moves in one step.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 4
"""The pyramid halves the maps so many times less one, as long as they stay above `COARSEST`."""

COARSEST = 12
"""Pixels a side of the coarsest map, at the least."""

SEARCH = 3
"""Pixels on the coarsest map that the first guess looks in every direction; 24 of a map halved three times."""

WINDOW = 3.0
"""Standard deviation, in pixels, of the Gaussian windows over which a motion is taken as one."""

_RIDGE = 0.05  # of the mean trace of the structure tensors: keeps flat places still
_LENGTH = 0.02  # what a pixel of first guess costs, as a share of the error at rest
_GAIN = (0.04, 0.16)  # how much less the error gets by moving for the motion to be trusted: not at all, wholly


def blur(x: Tensor, sigma: float) -> Tensor:
    """Return maps (..., H, W) under a Gaussian of `sigma` pixels; beyond the edge lies the edge."""
    rows, columns = (_gaussian(size, sigma, matrix_device(x)).to(x) for size in x.shape[-2:])
    return rows @ x @ columns.mT


def matrix_device(x: Tensor) -> str:
    """Return where a matrix that is kept for `x` is made: one without values serves nothing else."""
    return "meta" if x.is_meta else "cpu"


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)  # they serve training later
def _gaussian(size: int, sigma: float, device: str) -> Tensor:
    """Return a Gaussian as a matrix (size, size): a product with it is faster than a convolution of one channel."""
    radius = max(1, math.ceil(2.5 * sigma))
    distance = torch.arange(-radius, radius + 1, dtype=torch.float64, device=device)
    kernel = torch.exp(-0.5 * (distance / sigma) ** 2)
    place = torch.arange(size, device=device)[:, None] + torch.arange(-radius, radius + 1, device=device)
    matrix = torch.zeros(size, size, dtype=torch.float64, device=device)
    matrix.scatter_add_(1, place.clamp(0, size - 1), (kernel / kernel.sum()).expand(size, -1))
    return matrix.float()


def places(height: int, width: int, like: Tensor) -> Tensor:
    """Return the rows and columns of a grid's pixels, (1, 2, H, W)."""
    rows = torch.arange(height, dtype=like.dtype, device=like.device)
    columns = torch.arange(width, dtype=like.dtype, device=like.device)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]


def sample(x_BCHW: Tensor, at_B2HW: Tensor) -> Tensor:
    """Return maps at fractional rows and columns, by bilinear interpolation; beyond the edge lies the edge."""
    height, width = x_BCHW.shape[-2:]
    size = at_B2HW.new_tensor([max(height - 1, 1), max(width - 1, 1)]).view(1, 2, 1, 1)
    grid = (2 * at_B2HW / size - 1).flip(1).permute(0, 2, 3, 1)
    return F.grid_sample(x_BCHW, grid, mode="bilinear", padding_mode="border", align_corners=True)


def inside(at_B2HW: Tensor, height: int, width: int) -> Tensor:
    """Return how far places lie on the grid, (B, 1, H, W): 1 on it, falling to 0 one pixel beyond its edge."""
    low = at_B2HW.amin(1, keepdim=True)
    high = torch.maximum(at_B2HW[:, :1] - (height - 1), at_B2HW[:, 1:] - (width - 1))
    return (1 + torch.minimum(low, -high)).clamp(0, 1)


def trajectories(flow_B2HW: Tensor, steps: int) -> list[Tensor]:
    """Return where what arrives at each pixel after 1, 2, … `steps` steps is now.

    Backward semi-Lagrangian: the flow stays as it is while patterns move through it, as in the extrapolation of
    Germann and Zawadzki (2002), doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2.
    """
    height, width = flow_B2HW.shape[-2:]
    at = places(height, width, flow_B2HW).expand_as(flow_B2HW)
    result = []
    for _ in range(steps):
        at = at - sample(flow_B2HW, at)
        result.append(at)
    return result


def optical_flow(x_BTHW: Tensor) -> Tensor:
    """Return the motion over the last frames, (B, 2, H, W) in pixels per step.

    One flow for all successive pairs: a search for the whole shift on the coarsest level of a pyramid, then least
    squares for the rest on each level (Lucas and Kanade 1981), within Gaussian windows, with large residuals weighed
    down. The motion is found without the last frame first: only as far as it explains that frame better than rest does
    is it taken for a motion, so that noise stands still.

    Parameters
    ----------
    x_BTHW : Tensor
        At least two frames, oldest first.

    Raises
    ------
    ValueError
        Fewer than two frames.
    """
    if x_BTHW.shape[1] < 2:
        raise ValueError("a motion needs two frames")
    mean = x_BTHW.mean((1, 2, 3), keepdim=True)
    deviation = x_BTHW.std((1, 2, 3), keepdim=True).clamp(min=1e-12)
    # Heavy tails would let few pixels decide.
    z = torch.asinh(2 * (x_BTHW - mean) / deviation)
    z = torch.stack([blur(z[:, t], 0.7) for t in range(z.shape[1])], 1)
    flow = _estimate(z)
    trust = _trust(z, _estimate(z[:, :-1])) if z.shape[1] > 2 else _trust(z, flow)
    return flow * trust


def _estimate(z: Tensor) -> Tensor:
    pyramid = [z]
    while len(pyramid) < LEVELS and min(pyramid[-1].shape[-2:]) >= 2 * COARSEST:
        pyramid.append(F.avg_pool2d(pyramid[-1], 2, ceil_mode=True))
    flow = _searched(pyramid[-1])
    for level in reversed(pyramid):
        if level.shape[-2:] != flow.shape[-2:]:
            flow = 2 * F.interpolate(flow, size=level.shape[-2:], mode="bilinear", align_corners=False)
        for _ in range(2):
            flow = _improved(level, flow)
    return flow


def _searched(z: Tensor) -> Tensor:
    """Return the whole shift that fits best around each pixel."""
    H, W = z.shape[-2:]
    padded = F.pad(z[:, :-1], (SEARCH,) * 4, mode="replicate")
    shifts = [(a, b) for a in range(-SEARCH, SEARCH + 1) for b in range(-SEARCH, SEARCH + 1)]
    errors = []
    for down, right in shifts:
        moved = padded[:, :, SEARCH - down : SEARCH - down + H, SEARCH - right : SEARCH - right + W]
        errors.append(blur((z[:, 1:] - moved).square().mean(1), WINDOW))
    error = torch.stack(errors, 1)
    rest = error[:, shifts.index((0, 0))][:, None] + 1e-3
    length = z.new_tensor([math.hypot(*s) for s in shifts]).view(1, -1, 1, 1)
    weight = torch.softmax(-(error / rest + _LENGTH * length) / 0.02, 1)
    return torch.einsum("bkhw,kc->bchw", weight, z.new_tensor(shifts))


def _improved(z: Tensor, flow: Tensor) -> Tensor:
    """Return the flow after one step of least squares."""
    H, W = z.shape[-2:]
    at = places(H, W, z) - flow
    moved = sample(z[:, :-1], at)
    difference = z[:, 1:] - moved
    average = 0.5 * (moved + z[:, 1:])
    down, right = (_slope(average, d) for d in (2, 3))
    deviation = difference.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-6
    weight = inside(at, H, W) / (1 + (difference / (2 * deviation)).square())
    xx, xy, yy, xt, yt = (
        blur((weight * a * b).mean(1), WINDOW)
        for a, b in ((down, down), (down, right), (right, right), (down, difference), (right, difference))
    )
    ridge = _RIDGE * (xx + yy).mean((1, 2), keepdim=True) + 1e-9
    determinant = (xx + ridge) * (yy + ridge) - xy * xy
    change_down = -((yy + ridge) * xt - xy * yt) / determinant
    change_right = -((xx + ridge) * yt - xy * xt) / determinant
    flow = flow + torch.stack([change_down, change_right], 1).clamp(-1, 1)
    # Where there is little to see, the neighbourhood's motion counts.
    certain = determinant / (xx + yy + 2 * ridge)
    certain = certain / (certain.mean((1, 2), keepdim=True) + 1e-12) + 0.01
    smooth = blur(certain, WINDOW)
    return torch.stack([blur(certain * flow[:, i], WINDOW) / smooth for i in (0, 1)], 1)


def _slope(z: Tensor, dim: int) -> Tensor:
    size = z.shape[dim]
    z = torch.cat([z.narrow(dim, 0, 1), z, z.narrow(dim, size - 1, 1)], dim)
    return (z.narrow(dim, 2, size) - z.narrow(dim, 0, size)) / 2


def _trust(z: Tensor, flow: Tensor) -> Tensor:
    """Return how far to believe a flow, (B, 1, H, W), by how much better than rest it explains the last frame."""
    H, W = z.shape[-2:]
    at = places(H, W, z) - flow
    moved = sample(z[:, -2:-1], at)[:, 0]
    seen = inside(at, H, W)[:, 0]
    # Both sides as smooth as interpolation leaves the moved one: smoothing alone lowers the error of noise.
    soft = blur(z[:, -2], 0.6)
    window = max(2 * WINDOW, min(H, W) / 12)
    error = blur(seen * (z[:, -1] - moved).square(), window)
    rest = torch.minimum(
        blur(seen * (z[:, -1] - z[:, -2]).square(), window), blur(seen * (z[:, -1] - soft).square(), window)
    )
    local = (rest - error) / (rest + 1e-4 + 0.05 * rest.mean((1, 2), keepdim=True))
    overall = (rest - error).mean((1, 2), keepdim=True) / (rest.mean((1, 2), keepdim=True) + 1e-4)
    gain = 0.5 * (local + overall)
    return ((gain - _GAIN[0]) / (_GAIN[1] - _GAIN[0])).clamp(0, 1)[:, None]
