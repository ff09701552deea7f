"""Values that are older than their frame, in parts of the grid: each is moved to where it would be by then."""

from __future__ import annotations

from typing import Final, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sa_nowcast.models.motion import blur, optical_flow, places, sample

_LEAST_SIDE: Final = 64  # pixels: on small grids, such as those of counts, values are equal by chance
_BLOCK: Final = 8  # pixels a side over which values are counted
_AROUND: Final = 2.0  # blocks: the Gaussian within which they are
_FEW: Final = 0.05  # of the pixels around have to be above the least value
_REPEATED: Final = 0.95  # share of these values from which on a frame repeats the one before
_CHANGED: Final = 0.6  # and up to which it is another
_MISSING: Final = 0.5  # share of the pixels around: where fewer are missing, they keep what they were filled with
_SMOOTH: Final = 16.0  # pixels: the Gaussian that makes the time between two scans smooth
_TOUCHED: Final = 0.02  # share of pixels around that repeat, from which on a place has scans of its own


class Regular(NamedTuple):
    """Frames that follow each other in equal steps, and how those to come may not."""

    frames: Tensor
    """(B, T, H, W)"""
    last: Tensor
    """(B, 1, H, W): the last frame as it was given."""
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
    T = x.shape[1]
    if _is_small(x):
        return Regular(x, x[:, -1:], None)
    with torch.no_grad():
        held = _held(x)
        if _none(held):
            return Regular(x, x[:, -1:], None)
        seen = _changes(x, held)
        between = (seen.last - seen.first).clamp(min=0) / (seen.news - 1).clamp(min=1)
        # Of the scans that were seen from their beginning to their end, and of the first and last, if these are longer.
        whole = between * (seen.news - 1).clamp(min=0)
        whole = whole + torch.maximum(seen.first, between) + torch.maximum(T - seen.last, between)
        steps = blur(torch.where(seen.news > 0, whole / (seen.news + 1), torch.ones_like(whole)), _SMOOTH)
        touched = blur(held.any(1, keepdim=True).to(x), _SMOOTH) > _TOUCHED
        steps = torch.where(touched, steps.clamp(min=1), 1)
    frames = _moved(x, seen.moved / steps, seen.ages - 0.5 * (steps - 1))
    return Regular(frames, x[:, -1:], 1 - 1 / steps)


def without_gaps(x_BTCHW: Tensor, observed_BTCHW: Tensor) -> Tensor:
    """Return frames (B, T, C, H, W) in which the motion has brought what fills a gap to the time of its frame.

    Where values are missing in an area, those of the frame before were filled in, or of the first one after. The motion
    between the last two frames with values moves them by the steps from their frame to this one. Single pixels, and
    what no frame has, stay as they are.

    Parameters
    ----------
    x_BTCHW : Tensor
        Filled; see `sa_nowcast.stream.prepare`.
    observed_BTCHW : Tensor
        Of bool.
    """
    B, T, C, H, W = x_BTCHW.shape
    x, observed = (part.transpose(1, 2).flatten(0, 1) for part in (x_BTCHW, observed_BTCHW))
    if _is_small(x):
        return x_BTCHW
    with torch.no_grad():
        missing = ~observed & observed.any(1, keepdim=True)
        filled = missing & _finer(_around(missing) > _MISSING, missing)
        if _none(filled):
            return x_BTCHW
        leading = filled.int().cumprod(1)  # what a later frame filled
        seen = _changes(x, (filled & (leading == 0))[:, 1:])
        ages = torch.where(leading > 0, -leading.flip(1).cumsum(1).flip(1), seen.ages)
    frames = _moved(x, seen.moved / blur(seen.gap, _SMOOTH), ages)
    return frames.view(B, C, T, H, W).transpose(1, 2)


def _is_small(x: Tensor) -> bool:
    """Say whether frames show too little of a motion, or have no values, as where only memory is counted."""
    return x.shape[1] < 3 or min(x.shape[2:]) < _LEAST_SIDE or x.is_meta


def _none(old: Tensor) -> bool:
    """Say whether no value is older than its frame.

    A program that is exported or compiled cannot ask: it makes all frames anew, by no motion where none is.
    """
    return not torch.compiler.is_compiling() and not bool(old.any())


def _held(x: Tensor) -> Tensor:
    """Return where each frame but the first repeats the one before, (B, T - 1, H, W) of bool."""
    low = x.amin((1, 2, 3), keepdim=True)
    some = (x[:, 1:] > low) | (x[:, :-1] > low)
    same, some = _around((x[:, 1:] == x[:, :-1]) & some), _around(some)
    share = same / (some + 1e-9)
    held = (some > _FEW) & (share > _REPEATED)
    return _finer(held & ((some > _FEW) & (share < _CHANGED)).any(1, keepdim=True), x)


def _around(what: Tensor) -> Tensor:
    """Return the share of pixels (B, T, H, W) in blocks and around them, (B, T, h, w)."""
    return blur(F.avg_pool2d(what.float(), _BLOCK, ceil_mode=True, count_include_pad=False), _AROUND)


def _finer(blocks: Tensor, like: Tensor) -> Tensor:
    """Return what holds for blocks (B, T, h, w) for their pixels."""
    return blocks.repeat_interleave(_BLOCK, 2).repeat_interleave(_BLOCK, 3)[..., : like.shape[2], : like.shape[3]]


class _Changes(NamedTuple):
    """When values were new, (B, 1, H, W) each but for what is said."""

    moved: Tensor
    """(B, 2, H, W): the motion between the last two frames that differ."""
    gap: Tensor
    """Steps from the one to the other."""
    news: Tensor
    """Frames after the first that were new."""
    first: Tensor
    """The first of them."""
    last: Tensor
    """The last of them."""
    ages: Tensor
    """(B, T, H, W): steps since each value was new."""


def _changes(x: Tensor, held: Tensor) -> _Changes:
    """Return when values of frames were new that are the last frame's where `held`, (B, T - 1, H, W)."""
    T = x.shape[1]
    nothing = torch.zeros_like(x[:, :1])
    before, gap, news, last, ages = x[:, :1], nothing + 1, nothing, nothing, [nothing]
    first = nothing + T
    for t in range(1, T):
        new = ~held[:, t - 1 : t]
        before, gap = torch.where(new, x[:, t - 1 : t], before), torch.where(new, t - last, gap)
        first, last, news = torch.where(new, first.clamp(max=t), first), torch.where(new, t, last), news + new
        ages.append(t - last)
    moved = optical_flow(torch.cat([before, x[:, -1:]], 1))
    return _Changes(moved, gap, news, first, last, torch.cat(ages, 1))


def _moved(x: Tensor, flow: Tensor, ages: Tensor) -> Tensor:
    """Return frames whose values the motion has moved by their ages; others are as they were."""
    here, frames = places(x.shape[2], x.shape[3], x), []
    for t in range(x.shape[1]):
        age = ages[:, t : t + 1]
        frames.append(torch.where(age == 0, x[:, t : t + 1], sample(x[:, t : t + 1], here - age * flow)))
    return torch.cat(frames, 1)
