"""Frames that repeat the one before, in parts of the grid: what was not observed anew is brought to the same time."""

from __future__ import annotations

from typing import Final, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sa_nowcast.models.motion import blur, optical_flow, places, sample

_LEAST_SIDE: Final = 64  # pixels: on small grids, such as those of counts, values are equal by chance
_BLOCK: Final = 8  # pixels a side over which repeated values are counted
_AROUND: Final = 2.0  # blocks: the Gaussian within which they are
_FEW: Final = 0.05  # of the pixels around have to be above the least value
_REPEATED: Final = 0.95  # share of these values from which on a frame repeats the one before
_CHANGED: Final = 0.6  # and up to which it is another
_SMOOTH: Final = 16.0  # pixels: the Gaussian that makes the time between two scans smooth
_TOUCHED: Final = 0.02  # share of pixels around that repeat, from which on a place has scans of its own


class Regular(NamedTuple):
    """Frames that follow each other in equal steps, and how those to come may not."""

    frames: Tensor
    """(B, T, H, W)"""
    last: Tensor
    """(B, 1, H, W): the last frame as it was observed."""
    again: Tensor | None
    """(B, 1, H, W): how likely a frame repeats the one before; None where none has."""

    def expected(self, forecast: Tensor) -> Tensor:
        """Return a forecast (B, steps, H, W) as the mean over when the next scans come: after each step as likely."""
        if self.again is None:
            return forecast
        each = [torch.lerp(one, self.last, self.again ** (n + 1)) for n, one in enumerate(torch.split(forecast, 1, 1))]
        return torch.cat(each, 1)

    def without_frames(self) -> Self:
        """Return the same without what a forecast needs no more once it has the frames in a scale of their own."""
        last = self.last[..., :0] if self.again is None else self.last
        return self._replace(frames=self.frames[:, :0].clone(), last=last.clone())


def without_repeats(x: Tensor) -> Regular:
    """Return frames (B, T, H, W) in which the motion has brought each value to the time of its frame.

    A mosaic of radars has a new scan of some of them only in each of its frames; where none is new it repeats, to the
    last bit, what it had. Taken for observations, repeated values say that nothing moves and that persistence has no
    error. Where a window has nearly equal frames in one step and different ones in another, the motion between the last
    two that differ moves each value by its age: that since its scan, less what is usual, for what comes will be late
    by as much. The frames then follow each other in equal steps. Other windows are returned as they are.

    Equal values have other reasons, too: what never changes in a window, and what changes little by little as the film
    of a still scene does, has no step in which nearly all is equal and another in which most is not.
    """
    _, T, H, W = x.shape
    if T < 3 or min(H, W) < _LEAST_SIDE or x.is_meta:  # without values, where only memory or operations are counted
        return Regular(x, x[:, -1:], None)
    with torch.no_grad():
        held = _held(x)
        # A program that is exported or compiled cannot ask; it makes all frames anew, by no motion where none is held.
        if not torch.compiler.is_compiling() and not bool(held.any()):
            return Regular(x, x[:, -1:], None)
        flow, steps = _motion(x, held)
    usual = 0.5 * (steps - 1)
    age, here, frames = torch.zeros_like(usual), places(H, W, x), []
    for t in range(T):
        if t:
            age = (age + 1) * held[:, t - 1 : t]
        late = age - usual
        moved = sample(x[:, t : t + 1], here - late * flow)
        frames.append(torch.where(late == 0, x[:, t : t + 1], moved))
    return Regular(torch.cat(frames, 1), x[:, -1:], 1 - 1 / steps)


def _held(x: Tensor) -> Tensor:
    """Return where each frame but the first repeats the one before, (B, T - 1, H, W) of bool."""
    low = x.amin((1, 2, 3), keepdim=True)
    some = (x[:, 1:] > low) | (x[:, :-1] > low)
    same, some = _around((x[:, 1:] == x[:, :-1]) & some), _around(some)
    share = same / (some + 1e-9)
    held = (some > _FEW) & (share > _REPEATED)
    held = held & ((some > _FEW) & (share < _CHANGED)).any(1, keepdim=True)
    return held.repeat_interleave(_BLOCK, 2).repeat_interleave(_BLOCK, 3)[..., : x.shape[2], : x.shape[3]]


def _around(what: Tensor) -> Tensor:
    """Return the share of pixels (B, T, H, W) in blocks and around them, (B, T, h, w)."""
    return blur(F.avg_pool2d(what.float(), _BLOCK, ceil_mode=True, count_include_pad=False), _AROUND)


def _motion(x: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Return the motion per step, (B, 2, H, W), and the steps from one scan to the next, (B, 1, H, W).

    The motion is that between the last two frames that differ. The steps are the mean of those between scans that were
    seen, and of the first and the last, where these were longer; 1 where nothing repeats.
    """
    T = x.shape[1]
    before, count = x[:, :1], torch.zeros_like(x[:, :1])
    first, last = torch.full_like(count, T), torch.zeros_like(count)
    for t in range(1, T):
        new = ~held[:, t - 1 : t]
        before = torch.where(new, x[:, t - 1 : t], before)
        first = torch.where(new, first.clamp(max=t), first)
        last = torch.where(new, t, last)
        count = count + new
    between = (last - first).clamp(min=0) / (count - 1).clamp(min=1)
    whole = (last - first).clamp(min=0) + torch.maximum(first, between) + torch.maximum(T - last, between)
    steps = blur(torch.where(count > 0, whole / (count + 1), torch.ones_like(count)), _SMOOTH)
    touched = blur(held.any(1, keepdim=True).to(x), _SMOOTH) > _TOUCHED
    steps = torch.where(touched, steps.clamp(min=1), 1)
    return optical_flow(torch.cat([before, x[:, -1:]], 1)) / steps, steps
