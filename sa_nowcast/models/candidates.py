"""The candidates that a forecast in Lagrangian coordinates mixes, and how each would have forecast the last frame."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

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
    earlier = [carried(x[:, T - 1 - k, None], at) for k, at in enumerate(arrivals(flow, T - 1), 1)]
    return torch.cat([*earlier[::-1], x[:, -1:]], 1)


def trials(
    x: Tensor, mean: Tensor, patch: int, flow_of_all: Tensor, smoothed: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return how each candidate would have forecast the last frame, how long each band of scales lasts, and products.

    First, (B, h, w, 2 * TRIED * candidates): the logarithm of the squared error around each patch, against that of the
    moved last frame, at a lead time of one step, then of two; then the same of the whole window. 0 where the history is
    too short to try. Second, (B, TRIED + (1 + LAGS) * bands), as logarithms: the squared error of the moved last
    frame at these lead times; the variance of each band of the last frame (`smoothed`); and its regression coefficient
    on the same band of one, two and three frames before, along the motion. Third, (B, TRIED, candidates, candidates):
    the mean products of their errors at these lead times, 0 where there are none: those of any mixture follow.
    """
    B, T, H, W = x.shape
    products = x.new_zeros(B, TRIED, CANDIDATES, CANDIDATES)
    around, overall, level, kept = [], [], [], []
    bands = _bands(smoothed, mean, patch)
    for lead in range(1, min(LAGS, T - 1) + 1):
        known = x[:, : T - lead]
        # Of these frames alone: a flow that has seen the last one would flatter all that moves.
        flow = optical_flow(known) if known.shape[1] > 1 else flow_of_all
        fine, wide = moving_maps(aligned_frames(known, flow), known, patch)
        *_, at = arrivals(flow, lead)
        tries = lead <= TRIED
        standing = standing_maps(known) if tries else x[:, :0]
        what, damped = torch.cat([fine, finer(wide, patch)], 1), damped_slope(lead - 1)
        errors = x.new_empty(B, CANDIDATES if tries else 0, H, W)
        both = square = x.new_full((B, BANDS), 1e-9)
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
                products[:, lead - 1] += flat @ flat.mT / (H * W)
                errors[:, :, rows] = missed.square()
        kept.append((both / square).clamp(_LEAST_CORRELATION, 1).log())
        if tries:
            error = F.avg_pool2d(errors, patch) + SURE
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


def _bands(smoothed: tuple[Tensor, Tensor], mean: Tensor, patch: int) -> Tensor:
    """Return what each of the smoothed frames has and the next has not, (B, bands, H, W)."""
    fine, wide = smoothed
    chain = torch.cat([fine[:, :NARROW], finer(wide, patch)], 1)
    chain[:, :-1] -= chain[:, 1:].clone()
    chain[:, -1] -= mean
    return chain


def moving_maps(aligned: Tensor, plain: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Return what may move but the mean of everything: (B, FINE, H, W), the last a slope, and (…, h, w)."""
    fine, wide = moving_without_slope(aligned, plain, patch)
    return torch.stack([*fine, blur(_slope(aligned), 1.0)], 1), wide


def moving_without_slope(aligned: Tensor, plain: Tensor, patch: int) -> tuple[list[Tensor], Tensor]:
    """Return the same as FINE - 1 maps (B, H, W), and (B, wide, h, w)."""
    last, mean = plain[:, -1], aligned.mean(1)
    fine = [last, *(blur(last, sigma) for sigma in BLURS), aligned[:, -2:].mean(1), mean, blur(mean, 2.0)]
    coarse = F.avg_pool2d(last[:, None], patch)[:, 0]
    return fine, torch.stack([blur(coarse, sigma / patch) for sigma in WIDE_BLURS], 1)


def standing_maps(plain: Tensor) -> Tensor:
    """Return what may stand, (B, STANDING, H, W): the last frame, the mean, the mean smoothed, and a slope."""
    return torch.stack([*standing_without_slope(plain), _slope(plain)], 1)


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
    result = weights.new_empty(B, h * patch, w * patch)
    for number, its in enumerate(coarse):
        across = its.new_empty(*its.shape[:2], w * patch)
        along_columns(its.flatten(0, 1), columns, across.flatten(0, 1))
        for given, read, matrix in rows:
            target, matrix = result[number, given], matrix.to(its)
            torch.mm(matrix, across[-1, read], out=target)
            for one, by in zip(maps[number], across[:-1], strict=True):
                target.addcmul_(matrix @ by[read], one[given])
    return result
