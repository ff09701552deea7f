"""Motion in a sequence of maps: an optical flow from the last frames, and where what is seen now came from.

Everything is differentiable torch on (B, H, W) maps without missing values. A flow is (B, 2, H, W): rows and columns
that a pattern moves in one step.

Large maps take little more memory than their own, and little time: what is separable is a product with the band of a
matrix, block by block, and what is done pixel by pixel is done strip by strip, in strips that fit into a cache.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from sa_nowcast.models.heap import room

LEVELS = 4
"""The pyramid halves the maps so many times less one, as long as they stay above `COARSEST`."""

COARSEST = 12
"""Pixels a side of the coarsest map, at the least."""

SEARCH = 3
"""Pixels on the coarsest map that the first guess looks in every direction; 24 of a map halved three times."""

WINDOW = 3.0
"""Standard deviation, in pixels, of the Gaussian windows over which a motion is taken as one."""

STRIP = 2**16
"""Values of a map that are worked on at once."""

_BLOCK = 64  # rows or columns of a result that one product gives; up to twice as many are one block

_RIDGE = 0.05  # of the mean trace of the structure tensors: keeps flat places still
_LENGTH = 0.02  # what a pixel of first guess costs, as a share of the error at rest
_SMOOTHINGS = (8.0, 16.0, 32.0)
"""Pixels: standard deviations of smoother flows that are tried beside the one found."""

_SMOOTHEST = 16  # a flow is smoothed over no more than such a part of the shorter side
_BEFORE_TRIAL = (0.1, 0.3, 0.4, 0.2)  # shares of the flow as found and of the smoother ones where trials do not differ
_SHARPNESS = 25.0  # by how much a share falls with the error of a trial, relative to the least
_AROUND = 32.0  # pixels: standard deviation of the window in which trials are compared
_GAIN = (0.04, 0.16)  # how much less the error gets by moving for the motion to be trusted: not at all, wholly

Bands = tuple[tuple[slice, slice, Tensor], ...]
"""A matrix with values near its diagonal alone: rows of it, the columns where these have values, and the values."""


def blur(x: Tensor, sigma: float, pool: int = 1, *, over: bool = False) -> Tensor:
    """Return maps (..., H, W) under a Gaussian of `sigma` pixels; beyond the edge lies the edge.

    With `pool` they are averaged over squares of so many pixels a side, which have to cover the map. With `over` they
    may take the place of `x`, which is not needed any more.
    """
    rows, columns = (_gaussian(size, sigma, pool, _block_of(x, pool)) for size in x.shape[-2:])
    return separable(x, rows, columns, over)


def separable(x: Tensor, rows: Bands, columns: Bands, over: bool = False) -> Tensor:
    """Return ``rows @ x @ columns.T`` of maps (..., H, W); with `over`, of the same size, maybe in place of `x`."""
    if len(rows) == len(columns) == 1:
        return rows[0][2].to(x) @ x @ columns[0][2].to(x).mT
    if torch.is_grad_enabled() and x.requires_grad:
        x = torch.cat([matrix.to(x) @ x[..., read, :] for _, read, matrix in rows], -2)
        return torch.cat([x[..., read] @ matrix.to(x).mT for _, read, matrix in columns], -1)
    result = x if over and x.is_contiguous() else room(x, *x.shape[:-2], rows[-1][0].stop, columns[-1][0].stop)
    between = room(x, rows[-1][0].stop, x.shape[-1])
    rows = tuple((given, read, matrix.to(x)) for given, read, matrix in rows)
    for one, target in zip(x.reshape(-1, *x.shape[-2:]), result.view(-1, *result.shape[-2:]), strict=True):
        for given, read, matrix in rows:
            torch.mm(matrix, one[read], out=between[given])
        along_columns(between, columns, target)
    return result


def along_columns(x: Tensor, columns: Bands, result: Tensor) -> None:
    """Write ``x @ columns.T`` of a map (H, W) into another."""
    for given, read, matrix in columns:
        torch.mm(x[:, read], matrix.to(x).mT, out=result[:, given])


def joined(parts: Iterable[Tensor], height: int) -> Tensor:
    """Return strips, (B, C, rows, W) one below the other, as maps of so many rows.

    Each is written into the maps when it comes, so that memory holds them once; but not where they have a gradient.
    """
    result, kept, row = None, [], 0
    for part in parts:
        if part.shape[2] == height:
            return part
        if part.requires_grad:
            kept.append(part)
            continue
        if result is None:
            result = room(part, *part.shape[:2], height, part.shape[3])
        result[:, :, row : row + part.shape[2]] = part
        row += part.shape[2]
    return torch.cat(kept, 2) if result is None else result


def strips(x: Tensor) -> Iterator[slice]:
    """Yield rows of maps (B, ..., H, W) that are worked on at once: few where that saves memory and time."""
    height = x.shape[-2]
    rows = height if x.is_cuda else max(1, STRIP // (x.shape[0] * x.shape[-1]))
    for first in range(0, height, rows):
        yield slice(first, min(first + rows, height))


def _block_of(x: Tensor, pool: int) -> int:
    return 0 if x.is_cuda else _BLOCK // pool * pool


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)  # they serve training later
def _gaussian(size: int, sigma: float, pool: int, block: int) -> Bands:
    """Return a Gaussian, and averages after it, as a matrix (size / pool, size).

    A product with it is faster than a convolution of one channel.
    """
    radius = max(1, math.ceil(2.5 * sigma))
    distance = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
    kernel = torch.exp(-0.5 * (distance / sigma) ** 2)
    kernel /= kernel.sum()
    found, inner = [], None
    for first, last in _cuts(size, block):
        low, high = max(first - radius, 0), min(last + radius, size)
        within = (first - low, high - last, last - first) == (radius, radius, block)
        if within and inner is not None:
            matrix = inner
        else:
            place = torch.arange(first, last, device="cpu")[:, None] + torch.arange(-radius, radius + 1, device="cpu")
            full = torch.zeros(last - first, high - low, dtype=torch.float64, device="cpu")
            full.scatter_add_(1, place.clamp(0, size - 1) - low, kernel.expand(last - first, -1))
            matrix = full.view(-1, pool, high - low).mean(1).float()
            inner = matrix if within else inner
        found.append((slice(first // pool, last // pool), slice(low, high), matrix))
    return tuple(found)


def _cuts(size: int, block: int) -> list[tuple[int, int]]:
    """Return where blocks begin and end: one of a size up to twice the block."""
    if block == 0 or size <= 2 * block:
        return [(0, size)]
    firsts = list(range(0, size, block))
    return list(zip(firsts, [*firsts[1:], size], strict=True))


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def bilinear(size: int, times: int, block: int = _BLOCK) -> Bands:
    """Return bilinear interpolation on a so many times finer grid as a matrix (size * times, size)."""
    found = []
    for first, last in _cuts(size * times, block):
        place = ((torch.arange(first, last, dtype=torch.float64, device="cpu") + 0.5) / times - 0.5).clamp(0, size - 1)
        low = place.floor().long().clamp(max=max(size - 2, 0))
        share = (place - low)[:, None]
        begin, end = int(low[0]), min(int(low[-1]) + 2, size)
        matrix = torch.zeros(last - first, end - begin, dtype=torch.float64, device="cpu")
        matrix.scatter_add_(1, low[:, None] - begin, 1 - share)
        matrix.scatter_add_(1, (low[:, None] + 1).clamp(max=size - 1) - begin, share)
        found.append((slice(first, last), slice(begin, end), matrix.float()))
    return tuple(found)


def places(height: int, width: int, like: Tensor, rows: slice | None = None) -> Tensor:
    """Return the rows and columns of a grid's pixels, (1, 2, H, W), or those of some of its rows."""
    chosen = slice(0, height) if rows is None else rows
    down = torch.arange(chosen.start, chosen.stop, dtype=like.dtype, device=like.device)
    right = torch.arange(width, dtype=like.dtype, device=like.device)
    return torch.stack(torch.meshgrid(down, right, indexing="ij"))[None]


def sample(x_BCHW: Tensor, at_B2HW: Tensor) -> Tensor:
    """Return maps at fractional rows and columns, by bilinear interpolation; beyond the edge lies the edge."""
    height, width = x_BCHW.shape[-2:]
    size = at_B2HW.new_tensor([max(width - 1, 1), max(height - 1, 1)]).view(1, 2, 1, 1)
    grid = 2 * at_B2HW.flip(1) / size - 1
    return F.grid_sample(x_BCHW, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="border", align_corners=True)


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
    return list(arrivals(flow_B2HW, steps))


def arrivals(flow_B2HW: Tensor, steps: int) -> Iterator[Tensor]:
    """Yield what `trajectories` returns, one step after the other."""
    batch, _, height, width = flow_B2HW.shape

    def earlier(at: Tensor | None) -> Iterator[Tensor]:
        for rows in strips(flow_B2HW):
            now = places(height, width, flow_B2HW, rows).expand(batch, -1, -1, -1) if at is None else at[:, :, rows]
            yield now - sample(flow_B2HW, now)

    at = None
    for _ in range(steps):
        at = joined(earlier(at), height)
        yield at


def carried(x_BCHW: Tensor, at_B2HW: Tensor) -> Tensor:
    """Return `sample`, strip by strip."""
    return joined((sample(x_BCHW, at_B2HW[:, :, rows]) for rows in strips(at_B2HW)), at_B2HW.shape[2])


def optical_flow(x_BTHW: Tensor) -> Tensor:
    """Return the motion over the last frames, (B, 2, H, W) in pixels per step.

    One flow for all successive pairs: a search for the whole shift on the coarsest level of a pyramid, then least
    squares for the rest on each level (Lucas and Kanade 1981), within Gaussian windows, with large residuals weighed
    down. The motion is found without the last frame first: how much it is smoothed is told by how well flows of several
    widths explain that frame, and only as far as it does so better than rest does is it taken for a motion, so that
    noise stands still.

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
    z = room(x_BTHW, *x_BTHW.shape)
    for t, frame in enumerate(x_BTHW.unbind(1)):
        # Heavy tails would let few pixels decide.
        z[:, t] = blur(torch.asinh(2 * (frame - mean[:, 0]) / deviation[:, 0]), 0.7, over=True)
    flow = _estimate(z)
    before = _estimate(z[:, :-1]) if z.shape[1] > 2 else None
    shares = _shares(x_BTHW[:, -2:] / deviation, before, flow)
    flow = _smoothed(flow, shares)
    tried = flow if before is None else _smoothed(before, shares)
    del before, shares
    return flow * _trust(z, tried)


def _widths(flow: Tensor) -> list[float]:
    """Return over which Gaussians a flow may be smoothed."""
    most = min(flow.shape[-2:]) / _SMOOTHEST
    return sorted({min(width, most) for width in _SMOOTHINGS})


def _shares(last_two: Tensor, before: Tensor | None, flow: Tensor) -> Tensor:
    """Return the shares of a flow and of smoother ones, (B, 1 + widths, H, W), by how each explains the last frame.

    `before` is the flow without the last frame. In the scale of the values, as the forecast is scored: light rain and
    noise do not decide.
    """
    B, _, H, W = flow.shape
    widths = _widths(flow)
    kept = [*_BEFORE_TRIAL[: len(widths)], sum(_BEFORE_TRIAL[len(widths) :])]
    prior = flow.new_tensor(kept).log().view(1, -1, 1, 1)
    if before is None:
        return torch.softmax(prior, 1).expand(B, -1, H, W)
    error = room(flow, B, 1 + len(widths), H, W)
    for number, width in enumerate([0.0, *widths]):
        tried = blur(before, width) if number else before
        for rows in strips(flow):
            at = places(H, W, flow, rows) - tried[:, :, rows]
            missed = sample(last_two[:, :1], at) - last_two[:, 1:, rows]
            error[:, number, None, rows] = inside(at, H, W) * missed.square()
    del last_two, tried
    whole = error.mean((2, 3), keepdim=True) + 1e-9
    error = blur(error, _AROUND, over=True)

    def told() -> Iterator[Tensor]:
        for rows in strips(flow):
            near = error[:, :, rows] + 0.05 * whole.amin(1, keepdim=True)
            ratio = near / near.amin(1, keepdim=True) * (whole / whole.amin(1, keepdim=True))
            yield torch.softmax(prior - _SHARPNESS * (ratio.sqrt() - 1), 1)

    return joined(told(), H)


def _smoothed(flow: Tensor, shares: Tensor) -> Tensor:
    """Return a flow and smoother ones by their shares."""
    result = shares[:, :1] * flow
    for number, width in enumerate(_widths(flow), 1):
        smoother = blur(flow, width)
        for rows in strips(flow):
            result[:, :, rows] += shares[:, number, None, rows] * smoother[:, :, rows]
    return result


def _estimate(z: Tensor) -> Tensor:
    pyramid = [z]
    while len(pyramid) < LEVELS and min(pyramid[-1].shape[-2:]) >= 2 * COARSEST:
        pyramid.append(F.avg_pool2d(pyramid[-1], 2, ceil_mode=True))
    flow = _searched(pyramid[-1])
    while pyramid:
        level = pyramid.pop()
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
        shifted = padded[:, :, SEARCH - down : SEARCH - down + H, SEARCH - right : SEARCH - right + W]
        errors.append(blur((z[:, 1:] - shifted).square().mean(1), WINDOW))
    error = torch.stack(errors, 1)
    rest = error[:, shifts.index((0, 0))][:, None] + 1e-3
    length = z.new_tensor([math.hypot(*s) for s in shifts]).view(1, -1, 1, 1)
    weight = torch.softmax(-(error / rest + _LENGTH * length) / 0.02, 1)
    return torch.einsum("bkhw,kc->bchw", weight, z.new_tensor(shifts))


def _improved(z: Tensor, flow: Tensor) -> Tensor:
    """Return the flow after one step of least squares."""
    T, H, W = z.shape[1:]
    total = z.new_zeros(len(z), 1, 1, 1)

    def arriving() -> Iterator[Tensor]:
        nonlocal total
        for rows in strips(z):
            came = sample(z[:, :-1], places(H, W, z, rows) - flow[:, :, rows])
            total = total + (z[:, 1:, rows] - came).square().sum((1, 2, 3), keepdim=True)
            yield came

    arrived = joined(arriving(), H)
    products = joined(_products(z, flow, arrived, (total / ((T - 1) * H * W)).sqrt() + 1e-6), H)
    del arrived
    found = joined(_least_squares(flow, blur(products, WINDOW, over=True)), H)
    del products
    mean = found[:, :1].mean((1, 2, 3), keepdim=True) + 1e-12

    def weighed() -> Iterator[Tensor]:
        for rows in strips(z):
            certain = found[:, :1, rows] / mean + 0.01
            yield torch.cat([certain, certain * found[:, 1:, rows]], 1)

    smooth = blur(joined(weighed(), H), WINDOW, over=True)
    return joined((smooth[:, 1:, rows] / smooth[:, :1, rows] for rows in strips(z)), H)


def _products(z: Tensor, flow: Tensor, arrived: Tensor, deviation: Tensor) -> Iterator[Tensor]:
    """Yield strips of what least squares sum up, (B, 5, rows, W), given where a flow brings all frames but the last."""
    H, W = z.shape[2:]
    for rows in strips(z):
        wide = slice(max(rows.start - 1, 0), min(rows.stop + 1, H))
        inner = slice(rows.start - wide.start, rows.stop - wide.start)
        came, now = arrived[:, :, wide], z[:, 1:, wide]
        average = 0.5 * (came + now)
        # Beside the strip lie its neighbours' rows, and beyond the edge lies the edge.
        down = _slope(average, 2)[:, :, inner] if wide != rows else _slope(average, 2)
        right, difference = _slope(average[:, :, inner], 3), (now - came)[:, :, inner]
        weight = inside(places(H, W, z, rows) - flow[:, :, rows], H, W)
        weight = weight / (1 + (difference / (2 * deviation)).square())
        by_down, by_right = weight * down, weight * right
        pairs = ((by_down, down), (by_down, right), (by_right, right), (by_down, difference), (by_right, difference))
        yield torch.stack([(a * b).mean(1) for a, b in pairs], 1)


def _least_squares(flow: Tensor, products: Tensor) -> Iterator[Tensor]:
    """Yield strips, (B, 3, rows, W), of how certain the motion is, and of the flow after a step."""
    ridge = _RIDGE * (products[:, 0] + products[:, 2]).mean((1, 2), keepdim=True) + 1e-9
    for rows in strips(flow):
        xx, xy, yy, xt, yt = products[:, :, rows].unbind(1)
        determinant = (xx + ridge) * (yy + ridge) - xy * xy
        down = -((yy + ridge) * xt - xy * yt) / determinant
        right = -((xx + ridge) * yt - xy * xt) / determinant
        # Where there is little to see, the neighbourhood's motion counts.
        certain = determinant / (xx + yy + 2 * ridge)
        yield torch.cat([certain[:, None], flow[:, :, rows] + torch.stack([down, right], 1).clamp(-1, 1)], 1)


def _slope(z: Tensor, dim: int) -> Tensor:
    size = z.shape[dim]
    z = torch.cat([z.narrow(dim, 0, 1), z, z.narrow(dim, size - 1, 1)], dim)
    return (z.narrow(dim, 2, size) - z.narrow(dim, 0, size)) / 2


def _trust(z: Tensor, flow: Tensor) -> Tensor:
    """Return how far to believe a flow, (B, 1, H, W), by how much better than rest it explains the last frame."""
    H, W = z.shape[-2:]
    # Both sides as smooth as interpolation leaves the moved one: smoothing alone lowers the error of noise.
    soft = blur(z[:, -2], 0.6)

    def errors() -> Iterator[Tensor]:
        for rows in strips(z):
            at = places(H, W, z, rows) - flow[:, :, rows]
            seen, now = inside(at, H, W), z[:, -1:, rows]
            others = torch.cat([sample(z[:, -2:-1], at), z[:, -2:-1, rows], soft[:, None, rows]], 1)
            yield seen * (now - others).square()

    window = max(2 * WINDOW, min(H, W) / 12)
    error, still, smoothed = blur(joined(errors(), H), window, over=True).unbind(1)
    rest = torch.minimum(still, smoothed)
    local = (rest - error) / (rest + 1e-4 + 0.05 * rest.mean((1, 2), keepdim=True))
    overall = (rest - error).mean((1, 2), keepdim=True) / (rest.mean((1, 2), keepdim=True) + 1e-4)
    gain = 0.5 * (local + overall)
    return ((gain - _GAIN[0]) / (_GAIN[1] - _GAIN[0])).clamp(0, 1)[:, None]
