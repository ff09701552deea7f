"""The candidates that a forecast in Lagrangian coordinates mixes, and how each would have forecast the last frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from sa_nowcast.models.heap import room
from sa_nowcast.models.motion import (
    along_columns,
    arrivals,
    bilinear,
    blur,
    carried,
    inside,
    optical_flow,
    sample,
    separable,
    strips,
)

BLURS: Final = (1.0, 2.0, 4.0)
"""Pixels: standard deviations of the smoothed frames that a forecast may turn to, kept at full resolution."""

WIDE_BLURS: Final = (8.0, 16.0, 32.0, 64.0)
"""The same, on the grid of patches; beyond them comes the mean of the whole window."""

EDGE: Final = WIDE_BLURS.index(16.0)
"""What moves in from beyond the grid is like what lies along the edge, so much smoothed."""

FINE: Final = 5 + len(BLURS)
MOVING: Final = FINE + len(WIDE_BLURS) + 1
STANDING: Final = 4
CANDIDATES: Final = MOVING + STANDING
TRIED: Final = 2  # lead times at which the candidates are tried on the history
NARROW: Final = 1 + len(BLURS)
# The candidates of growing width: the last frame, smoothed ever more, and the mean of the window. What one has and the
# next has not is a band of scales.
SMOOTHED: Final = [*range(NARROW), *range(FINE, MOVING)]
BANDS: Final = len(SMOOTHED) - 1
LAGS: Final = 3  # frames over which the correlation of each band is measured on the history
_DAMPING: Final = 0.5  # of a trend, per step
_LEAST_CORRELATION: Final = 0.02
_UNKNOWN: Final = -0.1  # logarithm of the correlation of all bands where there is one frame
SURE: Final = 1e-3  # of the variance: a smaller error in a trial says no more


def aligned_frames(x: Tensor, flow: Tensor) -> Tensor:
    """Return frames (B, T, H, W) as the flow brings them to the time of the last."""
    T = x.shape[1]
    result = room(x, *x.shape)
    result[:, -1] = x[:, -1]
    for k, at in enumerate(arrivals(flow, T - 1), 1):
        result[:, T - 1 - k, None] = carried(x[:, T - 1 - k, None], at)
    return result


def trials(x: Tensor, mean: Tensor, patch: int, flow_of_all: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return how each candidate would have forecast the last frame, how long each band of scales lasts, and products.

    First, (B, h, w, 2 * TRIED * candidates): the logarithm of the squared error around each patch, against that of the
    moved last frame, at a lead time of one step, then of two; then the same of the whole window. 0 where the history is
    too short to try. Second, (B, TRIED + (1 + LAGS) * bands), as logarithms: the squared error of the moved last
    frame at these lead times; the variance of each band of the last frame; and its regression coefficient on the same
    band of one, two and three frames before, along the motion. Third, (B, TRIED, candidates, candidates): the mean
    products of their errors at these lead times, 0 where there are none: those of any mixture follow.
    """
    B, T, H, W = x.shape
    products = x.new_zeros(B, TRIED, CANDIDATES, CANDIDATES)
    around, overall, level, kept = [], [], [], []
    bands = _bands(x[:, -1], mean, patch)
    for lead in range(1, min(LAGS, T - 1) + 1):
        tries = lead <= TRIED
        correlation, error, product = _tried(x, mean, patch, flow_of_all, bands, lead)
        kept.append(correlation)
        if tries:
            products[:, lead - 1] = product
            error = error + SURE
            whole = error.mean((2, 3), keepdim=True)
            near = blur(error, max(3.0 / patch, 0.6)) + 0.1 * whole
            around.append((near / near[:, :1]).log().clamp(-6, 6))
            level.append(whole[:, 0, :, 0].log())
            overall.append((whole / whole[:, :1]).log().clamp(-6, 6).expand_as(near))
    untried = [x.new_zeros(B, CANDIDATES, H // patch, W // patch)] * (TRIED - len(around))
    while len(kept) < LAGS:
        rate = kept[-1] - kept[-2] if len(kept) > 1 else kept[0] if kept else x.new_full((B, BANDS), _UNKNOWN)
        kept.append(kept[-1] + rate if kept else rate)
    while len(level) < TRIED:
        level.append(level[-1] if level else x.new_zeros(B, 1))
    variance = bands.square().mean((2, 3)) + 1e-9
    variance = variance / variance.sum(1, keepdim=True) * (x[:, -1] - mean).square().mean((1, 2))[:, None]
    tried = torch.cat([*around, *untried, *overall, *untried], 1)
    return tried.permute(0, 2, 3, 1), torch.cat([*level, (variance + 1e-9).log(), *kept], 1), products


def _tried(
    x: Tensor, mean: Tensor, patch: int, flow_of_all: Tensor, bands: Tensor, lead: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return of a lead time, as `trials`: correlations of bands, squared errors around each patch, and products.

    (B, bands) as logarithms, (B, candidates, h, w) and (B, candidates, candidates); the last two are nothing and 0 at
    lead times at which candidates are not tried.
    """
    B, T, H, W = x.shape
    known = x[:, : T - lead]
    # Of these frames alone: a flow that has seen the last one would flatter all that moves.
    flow = optical_flow(known) if known.shape[1] > 1 else flow_of_all
    what = _moving(aligned_frames(known, flow), known, patch)
    for at in arrivals(flow, lead):  # noqa: B007 - the last
        pass
    del flow
    tries, damped = lead <= TRIED, damped_slope(lead - 1)
    standing = standing_maps(known) if tries else x[:, :0]
    products = x.new_zeros(B, CANDIDATES, CANDIDATES)
    both = square = x.new_full((B, BANDS), 1e-9)

    def errors() -> Iterator[Tensor]:
        nonlocal both, square, products
        for rows in strips(x):
            tried = sample(what, at[:, :, rows])
            everything = mean[:, None].expand(B, 1, *tried.shape[2:])
            chain = torch.cat([tried[:, :NARROW], tried[:, FINE:], everything], 1)
            own = (chain[:, :-1] - chain[:, 1:]) * inside(at[:, :, rows], H, W)
            both = both + (own * bands[:, :, rows]).sum((2, 3))
            square = square + own.square().sum((2, 3))
            if tries:
                tried[:, FINE - 1] = tried[:, 0] + damped * tried[:, FINE - 1]
                still = standing[:, :, rows].clone()
                still[:, -1] = still[:, 0] + damped * still[:, -1]
                missed = torch.cat([tried, everything, still], 1) - x[:, -1:, rows]
                flat = missed.flatten(2)
                products += flat @ flat.mT / (H * W)
                yield missed.square()

    error = torch.cat([x.new_empty(B, CANDIDATES, 0, W // patch), *_pooled(errors(), patch)], 2)
    return (both / square).clamp(_LEAST_CORRELATION, 1).log(), error, products


def _pooled(parts: Iterator[Tensor], patch: int) -> Iterator[Tensor]:
    """Yield the means over squares of `patch` pixels a side, of strips (B, C, rows, W) one below the other."""
    rest: list[Tensor] = []  # what is less than a patch high
    for part in parts:
        rest.append(part)
        rows = sum(one.shape[2] for one in rest)
        if rows >= patch:
            whole = rest[0] if len(rest) == 1 else torch.cat(rest, 2)
            yield F.avg_pool2d(whole[:, :, : rows // patch * patch], patch)
            rest = [whole[:, :, rows // patch * patch :]]


def _bands(last: Tensor, mean: Tensor, patch: int) -> Tensor:
    """Return what each of the smoothed last frames has and the next has not, (B, bands, H, W)."""
    smoothed = [last, *(blur(last, sigma) for sigma in BLURS)]
    chain = torch.cat([torch.stack(smoothed, 1), finer(_wide(last, patch), patch)], 1)
    for n in range(BANDS - 1):
        chain[:, n] -= chain[:, n + 1]
    chain[:, -1] -= mean
    return chain


def moving_maps(aligned: Tensor, plain: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Return what may move but the mean of everything: (B, FINE, H, W), the last a slope, and (…, h, w)."""
    fine = room(aligned, len(aligned), FINE, *aligned.shape[2:])
    _put_fine(aligned, plain, fine)
    return fine, _wide(plain[:, -1], patch)


def _moving(aligned: Tensor, plain: Tensor, patch: int) -> Tensor:
    """Return the same at full resolution, (B, FINE + wide, H, W)."""
    result = room(aligned, len(aligned), FINE + len(WIDE_BLURS), *aligned.shape[2:])
    _put_fine(aligned, plain, result)
    result[:, FINE:] = finer(_wide(plain[:, -1], patch), patch)
    return result


def _put_fine(aligned: Tensor, plain: Tensor, result: Tensor) -> None:
    """Put the FINE maps in a result, one after the other."""
    for n, one in enumerate(fine_without_slope(aligned, plain)):
        result[:, n] = one
    result[:, FINE - 1] = blur(_slope(aligned), 1.0, over=True)


def moving_without_slope(aligned: Tensor, plain: Tensor, patch: int) -> tuple[list[Tensor], Tensor]:
    """Return the same as FINE - 1 maps (B, H, W), and (B, wide, h, w)."""
    return list(fine_without_slope(aligned, plain)), _wide(plain[:, -1], patch)


def fine_without_slope(aligned: Tensor, plain: Tensor) -> Iterator[Tensor]:
    """Yield what may move and has details, but a slope: FINE - 1 maps (B, H, W)."""
    last = plain[:, -1]
    yield last
    for sigma in BLURS:
        yield blur(last, sigma)
    yield aligned[:, -2:].mean(1)
    mean = aligned.mean(1)
    yield mean
    yield blur(mean, 2.0)


def _wide(last: Tensor, patch: int) -> Tensor:
    """Return the last frame (B, H, W) so smoothed that it has no details, (B, wide, h, w)."""
    coarse = F.avg_pool2d(last[:, None], patch)[:, 0]
    return torch.stack([blur(coarse, sigma / patch) for sigma in WIDE_BLURS], 1)


def standing_maps(plain: Tensor) -> Tensor:
    """Return what may stand, (B, STANDING, H, W): the last frame, the mean, the mean smoothed, and a slope."""
    result = room(plain, len(plain), STANDING, *plain.shape[2:])
    for n, one in enumerate(standing_without_slope(plain)):
        result[:, n] = one
    result[:, -1] = _slope(plain)
    return result


def standing_without_slope(plain: Tensor) -> list[Tensor]:
    """Return the same as STANDING - 1 maps (B, H, W)."""
    mean = plain.mean(1)
    return [plain[:, -1], mean, blur(mean, 2.0)]


def finer(x: Tensor, times: int) -> Tensor:
    """Return maps (..., h, w) on so many times finer grids, bilinearly."""
    rows, columns = (bilinear(size, times) for size in x.shape[-2:])
    return separable(x, rows, columns)


def damped_slope(step: int) -> float:
    """Return how many times a slope per step is added at a step, of which each counts less than the one before."""
    return float(sum(_DAMPING**k for k in range(1, step + 2)))


def _slope(x: Tensor) -> Tensor:
    """Return the change per step of frames (B, T, H, W), by least squares."""
    T = x.shape[1]
    time = torch.arange(T, dtype=x.dtype, device=x.device) - (T - 1) / 2
    return torch.einsum("bthw,t->bhw", x, time / time.square().sum().clamp(min=1))


def mixture(weights: Tensor, smooth: Tensor, maps: Tensor) -> Tensor:
    """Return maps (B, C, H, W) by weights (B, C, h, w), summed, and to them a map (B, h, w); both bilinearly."""
    B, _, h, w = weights.shape
    patch = maps.shape[-1] // w
    rows, columns = bilinear(h, patch), bilinear(w, patch)
    coarse = torch.cat([weights, smooth[:, None]], 1)
    if torch.is_grad_enabled() or len(rows) == 1:
        fine = separable(coarse, rows, columns)
        return (fine[:, :-1] * maps).sum(1) + fine[:, -1]
    result = room(weights, B, h * patch, w * patch)
    for number, its in enumerate(coarse):
        across = room(its, *its.shape[:2], w * patch)
        along_columns(its.flatten(0, 1), columns, across.flatten(0, 1))
        for given, read, matrix in rows:
            target, matrix = result[number, given], matrix.to(its)
            torch.mm(matrix, across[-1, read], out=target)
            for one, by in zip(maps[number], across[:-1], strict=True):
                target.addcmul_(matrix @ by[read], one[given])
    return result
