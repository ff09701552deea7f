"""`LagrangianNetwork`: a recurrent core in Lagrangian coordinates, for ``NetworkConfig.output = "moving"``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.motion import blur, inside, matrix_device, optical_flow, sample, trajectories
from sa_nowcast.models.rollout import Core, Forecaster
from sa_nowcast.models.tiles import plan_tiles

CORE_TILE: Final = 24
"""Positions (patches) a side that the recurrent core sees at once; it bounds what attention costs."""

LEAST_SIDE: Final = 32
"""Pixels; smaller grids are repeated until no side is below it."""

BLURS: Final = (1.0, 2.0, 4.0, 8.0)
"""Pixels: standard deviations of the smoothed frames that a forecast may turn to."""

_MAPS: Final = 4  # per frame and pixel, that the core reads
_MOVING: Final = 6 + len(BLURS)
_STANDING: Final = 4
_TRIED: Final = 2  # lead times at which the candidates are tried on the history
POSITION_SCALARS: Final = 5 + _TRIED * (_MOVING + _STANDING)
"""What the core reads per frame and position, besides the pixels."""

_DAMPING: Final = 0.8  # of a trend, per step
_SHARP: Final = 5.0  # logits are so many times what the head gives, so that it soon learns to be sure
_AT_FIRST: Final = 0.3  # what the head gives for the moved last frame before it has learned
# At first a weight falls with this power of the error that a candidate had on the history.
_BY_TRIAL: Final = (1.5, 1.0)
_SURE: Final = 1e-3  # of the variance: a smaller error in a trial says no more
_BOUNDED: Final = 0.01  # share of pixels at the minimum from which on it is taken for a bound

_Mixture = tuple[Tensor, Tensor]


class _Window(NamedTuple):
    """What is known of a batch of windows: (B, …) per map, everything in Lagrangian or Eulerian coordinates."""

    aligned: Tensor
    """(B, T, H, W): the frames as the flow brings them to the time of the last."""
    plain: Tensor
    """(B, T, H, W): the frames as they are."""
    flow: Tensor
    """(B, 2, H, W)"""
    mean: Tensor
    deviation: Tensor
    """(B, 1, 1): standard deviation of all values."""
    change: Tensor
    """(B, 1, 1): root mean square of the changes against the last frame."""
    local: Tensor
    """(B, H, W): the same around each pixel, in Lagrangian coordinates."""
    scalars: Tensor
    """(B, h, w, POSITION_SCALARS - 1): what each position is told besides."""


class LagrangianNetwork(Forecaster):
    """A network that forecasts growth and decay along the motion, which it takes from an optical flow.

    The history is brought to the time of the last frame along the flow. There, in Lagrangian coordinates, the recurrent
    core reads it, and for every lead time and patch gives weights to a few forecasts that are known to be good: the
    last frame, smoothed ones, means over the history, a damped trend, each moved along the flow, and persistence, mean
    and trend at rest; to their mixture it adds a change of its own. So the smoothing that a rising error asks for, the
    doubt in the motion and the pull towards the mean are learned, and what is fine in the last frame need not be
    painted anew.

    Each of these forecasts is tried on the history first: made without its last one or two frames, and compared with
    the last. How well it did around each patch is told to the core, and weighs it from the start. So on data of a kind
    that no training held, what works there still counts.

    Every window is scaled by its own statistics, so a result follows the input's units: ``a x + b`` gives ``a y + b``
    for a > 0. Channels are forecast each alone by the same weights, and weights fit any number of them. Large grids go
    through the core in overlapping tiles; flow and movement are of the whole grid.

    Parameters
    ----------
    config : NetworkConfig
    core : callable
        As for `Network`.

    Notes
    -----
    The motion first, and then what changes in it: as in Germann and Zawadzki (2002),
    doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2; smoothing with lead time as in S-PROG (Seed 2003,
    doi:10.1175/1520-0450(2003)042<0381:ADASSA>2.0.CO;2), learned here instead of prescribed.
    """

    def __init__(self, config: NetworkConfig, core: Callable[[int, NetworkConfig], Core]) -> None:
        nn.Module.__init__(self)
        self.config = config
        pixels = config.patch**2
        self.layers = core(_MAPS * pixels + POSITION_SCALARS, config)
        self.head = nn.Linear(config.hidden[-1], _MOVING + _STANDING + pixels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.bias[0] = _AT_FIRST
        self.by_trial = nn.Parameter(torch.tensor(_BY_TRIAL))
        # What moves in from beyond the edge: persistence, the mean in time there, or the mean of everything.
        self.inflow = nn.Parameter(torch.zeros(3))

    def forward(self, x_BTCHW: Tensor, steps: int = 1) -> Tensor:
        """Forecast; see `Network.forward`."""
        self.check(x_BTCHW, x_BTCHW.shape[1], steps)
        B, T, C, H, W = x_BTCHW.shape
        x = x_BTCHW.transpose(1, 2).reshape(B * C, T, H, W).to(self.inflow.dtype)
        repeat = -(-LEAST_SIDE // min(H, W)) if min(H, W) < LEAST_SIDE else 1
        if repeat > 1:
            x = x.repeat_interleave(repeat, 2).repeat_interleave(repeat, 3)
        rows, columns = x.shape[-2:]
        patch = self.config.patch
        x = F.pad(x, (0, -columns % patch, 0, -rows % patch), mode="replicate")
        y = self._forecast_windows(x, steps)[..., :rows, :columns]
        if repeat > 1:
            y = F.avg_pool2d(y, repeat)
        return y.reshape(B, C, steps, H, W).transpose(1, 2).to(x_BTCHW.dtype)

    def _forecast_windows(self, x: Tensor, steps: int) -> Tensor:
        """Return the `steps` maps after (B, T, H, W), whose sides are multiples of a patch."""
        B, _, H, W = x.shape
        window = self._window(x)
        moving, standing = _candidates(window.aligned, x, window.mean)
        mixture = self._mixtures(window, moving, steps)
        last, low, high = x[:, -1], x.amin((1, 2, 3)), x.amax((1, 2, 3))
        bounded = (x == low.view(-1, 1, 1, 1)).float().mean((1, 2, 3)) >= _BOUNDED
        room = 0.5 * (high - low)
        low, high = torch.where(bounded, low, low - room).view(-1, 1, 1), (high + room).view(-1, 1, 1)
        everything = window.mean.expand(B, H, W)
        share = torch.softmax(self.inflow, 0)
        entering = share[0] * last + share[1] * window.plain.mean(1) + share[2] * everything
        forecast = []
        for step, at in enumerate(trajectories(window.flow, steps)):
            moved_part, weights = mixture[step]
            arriving = sample(torch.cat([moved_part[:, None], weights], 1), at)
            there = (arriving[:, 1:] * standing(step)).sum(1)
            known = inside(at, H, W)[:, 0]
            y = known * (arriving[:, 0] + there) + (1 - known) * entering
            forecast.append(torch.minimum(torch.maximum(y, low), high))
        return torch.stack(forecast, 1)

    def _window(self, x: Tensor) -> _Window:
        B, T, H, W = x.shape
        mean, deviation = x.mean((1, 2, 3)).view(-1, 1, 1), x.std((1, 2, 3)).view(-1, 1, 1)
        flow = optical_flow(x) if T > 1 else x.new_zeros(B, 2, H, W)
        aligned = _aligned(x, flow)
        tiny = 1e-6 * deviation + 1e-30
        change = (x[:, :-1] - x[:, -1:]).square().mean((1, 2, 3)).sqrt().view(-1, 1, 1) if T > 1 else 0 * deviation
        moved = (aligned[:, :-1] - x[:, -1:]).square().mean(1) if T > 1 else 0 * x[:, -1]
        local = (blur(moved, 4.0) + tiny.square()).sqrt()
        change = change + tiny
        patch = self.config.patch
        low = x.amin((1, 2, 3), keepdim=True)
        per_window = torch.cat(
            [
                (moved.mean((1, 2), keepdim=True).sqrt() + tiny).log() - change.log(),
                (change / (deviation + tiny + 1e-30)).clamp(1e-4, 10).log(),
                (x == low).float().mean((1, 2, 3)).view(-1, 1, 1),
            ],
            2,
        )
        speed = F.avg_pool2d(flow.norm(dim=1, keepdim=True), patch)[:, 0].log1p()
        h, w = speed.shape[-2:]
        tried = _trials(x, mean, deviation, patch)
        scalars = torch.cat([per_window[:, :, None].expand(B, h, w, 3), speed[..., None], tried], -1)
        return _Window(aligned, x, flow, mean, deviation + tiny, change, local, scalars)

    def _mixtures(self, window: _Window, moving: Tensor, steps: int) -> list[_Mixture]:
        """Return for each step what moves, (B, H, W), and the weights of what stands, (B, _STANDING, H, W)."""
        B, _, H, W = window.plain.shape
        patch = self.config.patch
        h, w = H // patch, W // patch
        tiles = plan_tiles(h, w, CORE_TILE)
        if len(tiles) == 1:
            return [mixed for _, _, mixed in self._core(window, moving, steps)]
        logits = moving.new_zeros(steps, B, _MOVING + _STANDING, h, w)
        change = moving.new_zeros(steps, B, H, W)
        for rows, columns, counts in tiles:
            pixels = (
                ...,
                slice(rows.start * patch, rows.stop * patch),
                slice(columns.start * patch, columns.stop * patch),
            )
            part = window._replace(
                aligned=window.aligned[pixels],
                plain=window.plain[pixels],
                local=window.local[pixels],
                scalars=window.scalars[:, rows, columns],
            )
            weight = torch.from_numpy(np.asarray(counts)).to(moving)
            fine = F.interpolate(weight[None, None], scale_factor=patch, mode="nearest")[0, 0]
            for step, (tile_logits, tile_change, _) in enumerate(self._core(part, moving[pixels], steps)):
                logits[step][..., rows, columns] += weight * tile_logits
                change[step][pixels] += fine * tile_change
        return [self._mixed(window, moving, s, logits[s], change[s]) for s in range(steps)]

    def _core(self, window: _Window, moving: Tensor, steps: int) -> list[tuple[Tensor, Tensor, _Mixture]]:
        """Run the recurrent layers; return for each step logits (B, K, h, w), change (B, H, W), and their mixture."""
        patch, T, candidates = self.config.patch, window.plain.shape[1], _MOVING + _STANDING
        tried = window.scalars[..., -_TRIED * candidates :].permute(0, 3, 1, 2).chunk(_TRIED, 1)
        last = window.plain[:, -1]
        frames = zip(window.aligned.unbind(1), window.plain.unbind(1), strict=True)
        x = torch.stack([self._read(window, moved, plain, (t - T + 1) / 4) for t, (moved, plain) in enumerate(frames)])
        weights = self.layers.weights()
        x, state = self.layers.read(weights, x)
        top, result = x[-1].clone(), []
        del x  # the known frames' maps are not needed while forecasting
        for step in range(steps):
            out = self.head(top).permute(0, 3, 1, 2)
            trial = min(step, _TRIED - 1)
            logits = _SHARP * out[:, :candidates] - self.by_trial[trial] * tried[trial]
            change = F.pixel_shuffle(out[:, candidates:], patch)[:, 0]
            moved, standing = self._mixed(window, moving, step, logits, change)
            result.append((logits, change, (moved, standing)))
            if step + 1 < steps:
                frame = moved + standing.sum(1) * last
                top, state = self.layers.step(weights, self._read(window, frame, last, (step + 1) / 4), state)
        return result

    def _mixed(self, window: _Window, moving: Tensor, step: int, logits: Tensor, change: Tensor) -> _Mixture:
        weights = _finer(torch.softmax(logits, 1), self.config.patch)
        what = torch.cat([moving[:, :-1], _trend(moving, step)[:, None]], 1)
        return (weights[:, :_MOVING] * what).sum(1) + change * window.local, weights[:, _MOVING:]

    def _read(self, window: _Window, moved: Tensor, plain: Tensor, time: float) -> Tensor:
        """Return a frame as the core reads it, (B, h, w, inputs)."""
        last = window.plain[:, -1]
        maps = torch.stack(
            [
                torch.asinh((moved - window.mean) / window.deviation),
                torch.asinh((plain - window.mean) / window.deviation),
                torch.asinh((moved - last) / window.change),
                torch.asinh((plain - last) / window.change),
            ],
            1,
        )
        folded = F.pixel_unshuffle(maps, self.config.patch).permute(0, 2, 3, 1)
        when = folded.new_full((*folded.shape[:3], 1), time)
        return torch.cat([folded, window.scalars, when], -1)


def _aligned(x: Tensor, flow: Tensor) -> Tensor:
    """Return frames (B, T, H, W) as the flow brings them to the time of the last."""
    T = x.shape[1]
    back = trajectories(flow, T - 1)
    earlier = [sample(x[:, T - 1 - k, None], back[k - 1])[:, 0] for k in range(T - 1, 0, -1)]
    return torch.stack([*earlier, x[:, -1]], 1)


def _trials(x: Tensor, mean: Tensor, deviation: Tensor, patch: int) -> Tensor:
    """Return how each candidate would have forecast the last frame, (B, h, w, _TRIED * candidates).

    The logarithm of its squared error around each patch, against that of the moved last frame; first at a lead time of
    one step, then of two. 0 where the history is too short to try.
    """
    B, T, H, W = x.shape
    found = []
    for lead in range(1, _TRIED + 1):
        known = x[:, : max(T - lead, 0)]
        if known.shape[1] < 1:
            found.append(x.new_zeros(B, _MOVING + _STANDING, H // patch, W // patch))
            continue
        # Of these frames alone: a flow that has seen the last one would flatter all that moves.
        flow = optical_flow(known) if known.shape[1] > 1 else x.new_zeros(B, 2, H, W)
        moving, standing = _candidates(_aligned(known, flow), known, mean)
        what = torch.cat([moving[:, :-1], _trend(moving, lead - 1)[:, None]], 1)
        tried = torch.cat([sample(what, trajectories(flow, lead)[-1]), standing(lead - 1)], 1)
        error = F.avg_pool2d(blur((tried - x[:, -1:]).square(), 3.0), patch)
        error = (error + _SURE * deviation[:, None].square() + 1e-30).log()
        found.append((error - error[:, :1]).clamp(-6, 6))
    return torch.cat(found, 1).permute(0, 2, 3, 1)


def _candidates(aligned: Tensor, plain: Tensor, everything: Tensor) -> tuple[Tensor, Callable[[int], Tensor]]:
    """Return what may move, (B, _MOVING, H, W), whose last is the slope of the trend, and what stands at a step."""
    last, mean = plain[:, -1], aligned.mean(1)
    slope = blur(_slope(aligned), 1.0)
    moving = torch.stack(
        [
            last,
            *(blur(last, sigma) for sigma in BLURS),
            aligned[:, -2:].mean(1),
            mean,
            blur(mean, 2.0),
            everything.expand_as(last),
            slope,
        ],
        1,
    )
    at_rest = plain.mean(1)
    slope_at_rest = _slope(plain)
    soft = blur(at_rest, 2.0)

    def standing(step: int) -> Tensor:
        return torch.stack([last, at_rest, soft, last + _damped(step) * slope_at_rest], 1)

    return moving, standing


def _finer(x: Tensor, times: int) -> Tensor:
    """Return maps (..., h, w) on so many times finer grids, bilinearly."""
    rows, columns = (_bilinear(size, times, matrix_device(x)).to(x) for size in x.shape[-2:])
    return rows @ x @ columns.mT


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _bilinear(size: int, times: int, device: str) -> Tensor:
    """Return the interpolation as a matrix (size * times, size): its backward pass is a product too."""
    place = torch.arange(size * times, dtype=torch.float64, device=device)
    place = ((place + 0.5) / times - 0.5).clamp(0, size - 1)
    low = place.floor().long().clamp(max=max(size - 2, 0))
    share = (place - low)[:, None]
    matrix = torch.zeros(size * times, size, dtype=torch.float64, device=device)
    matrix.scatter_add_(1, low[:, None], 1 - share)
    matrix.scatter_add_(1, (low[:, None] + 1).clamp(max=size - 1), share)
    return matrix.float()


def _trend(moving: Tensor, step: int) -> Tensor:
    return moving[:, 0] + _damped(step) * moving[:, -1]


def _damped(step: int) -> float:
    return float(sum(_DAMPING**k for k in range(1, step + 2)))


def _slope(x: Tensor) -> Tensor:
    """Return the change per step of frames (B, T, H, W), by least squares."""
    T = x.shape[1]
    time = torch.arange(T, dtype=x.dtype, device=x.device) - (T - 1) / 2
    return torch.einsum("bthw,t->bhw", x, time / time.square().sum().clamp(min=1))
