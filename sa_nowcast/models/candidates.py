"""The candidates that a forecast in Lagrangian coordinates mixes, and how each would have forecast the last frame."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from sa_nowcast.models.motion import arrivals, bilinear, blur, carried, optical_flow, sample, separable, strips

BLURS: Final = (1.0, 2.0, 4.0)
"""Pixels: standard deviations of the smoothed frames that a forecast may turn to, kept at full resolution."""

WIDE_BLURS: Final = (8.0, 16.0, 32.0, 64.0)
"""The same, on the grid of patches; beyond them comes the mean of the whole window."""

FINE: Final = 5 + len(BLURS)
MOVING: Final = FINE + len(WIDE_BLURS) + 1
STANDING: Final = 4
CANDIDATES: Final = MOVING + STANDING
TRIED: Final = 2  # lead times at which the candidates are tried on the history
_DAMPING: Final = 0.8  # of a trend, per step
_SURE: Final = 1e-3  # of the variance: a smaller error in a trial says no more


def aligned_frames(x: Tensor, flow: Tensor) -> Tensor:
    """Return frames (B, T, H, W) as the flow brings them to the time of the last."""
    T = x.shape[1]
    earlier = [carried(x[:, T - 1 - k, None], at) for k, at in enumerate(arrivals(flow, T - 1), 1)]
    return torch.cat([*earlier[::-1], x[:, -1:]], 1)


def trials(x: Tensor, mean: Tensor, patch: int) -> Tensor:
    """Return how each candidate would have forecast the last frame, (B, h, w, 2 * TRIED * candidates).

    The logarithm of its squared error around each patch, against that of the moved last frame, at a lead time of one
    step, then of two; then the same of the whole window. 0 where the history is too short to try.
    """
    B, T, H, W = x.shape
    h, w = H // patch, W // patch
    around, overall = [], []
    for lead in range(1, TRIED + 1):
        known = x[:, : max(T - lead, 0)]
        if known.shape[1] < 1:
            around.append(x.new_zeros(B, CANDIDATES, h, w))
            overall.append(around[-1])
            continue
        # Of these frames alone: a flow that has seen the last one would flatter all that moves.
        flow = optical_flow(known) if known.shape[1] > 1 else x.new_zeros(B, 2, H, W)
        fine, wide = moving_maps(aligned_frames(known, flow), known, patch)
        standing = standing_maps(known)
        *_, at = arrivals(flow, lead)
        what, damped = torch.cat([fine, finer(wide, patch)], 1), damped_slope(lead - 1)
        errors = x.new_empty(B, CANDIDATES, H, W)
        for rows in strips(x):
            tried = sample(what, at[:, :, rows])
            tried[:, FINE - 1] = tried[:, 0] + damped * tried[:, FINE - 1]
            still = standing[:, :, rows].clone()
            still[:, -1] = still[:, 0] + damped * still[:, -1]
            everything = mean[:, None].expand(B, 1, *tried.shape[2:])
            errors[:, :, rows] = (torch.cat([tried, everything, still], 1) - x[:, -1:, rows]).square()
        error = F.avg_pool2d(errors, patch) + _SURE
        whole = error.mean((2, 3), keepdim=True)
        near = blur(error, max(3.0 / patch, 0.6)) + 0.1 * whole
        around.append((near / near[:, :1]).log().clamp(-6, 6))
        overall.append((whole / whole[:, :1]).log().clamp(-6, 6).expand(B, CANDIDATES, h, w))
    return torch.cat(around + overall, 1).permute(0, 2, 3, 1)


def moving_maps(aligned: Tensor, plain: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Return what may move but the mean of everything: (B, FINE, H, W), the last a slope, and (…, h, w)."""
    last, mean = plain[:, -1], aligned.mean(1)
    blurred = [blur(last, sigma) for sigma in BLURS]
    slope = blur(_slope(aligned), 1.0)
    fine = torch.stack([last, *blurred, aligned[:, -2:].mean(1), mean, blur(mean, 2.0), slope], 1)
    coarse = F.avg_pool2d(last[:, None], patch)[:, 0]
    return fine, torch.stack([blur(coarse, sigma / patch) for sigma in WIDE_BLURS], 1)


def standing_maps(plain: Tensor) -> Tensor:
    """Return what may stand, (B, STANDING, H, W): the last frame, the mean, the mean smoothed, and a slope."""
    mean = plain.mean(1)
    return torch.stack([plain[:, -1], mean, blur(mean, 2.0), _slope(plain)], 1)


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
