"""`LagrangianNetwork`: a recurrent core in Lagrangian coordinates, for ``NetworkConfig.output = "moving"``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.gates import GatedLayer
from sa_nowcast.models.maps import convolve, normalise, prepared
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
from sa_nowcast.models.rollout import Core, Forecaster, Stack
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

WINDOWS_AT_ONCE: Final = 4  # tiles that go through the core together


class _Window(NamedTuple):
    """What is known of a batch of windows: (B, …) per map, everything in Lagrangian or Eulerian coordinates."""

    aligned: Tensor
    """(B, T, H, W): the frames as the flow brings them to the time of the last."""
    plain: Tensor
    """(B, T, H, W): the frames as they are."""
    moving: Tensor
    """(B, _MOVING - 1, H, W): what may move; see `_moving`."""
    mean: Tensor
    deviation: Tensor
    """(B, 1, 1): standard deviation of all values."""
    change: Tensor
    """(B, 1, 1): root mean square of the changes against the last frame."""
    local: Tensor
    """(B, H, W): the same around each pixel, in Lagrangian coordinates."""
    scalars: Tensor
    """(B, h, w, POSITION_SCALARS - 1): what each position is told besides."""

    def cut(self, tiles: list[tuple[slice, slice]], patch: int) -> _Window:
        """Return tiles, whose rows and columns are those of patches, as so many windows one after the other."""

        def cut(x: Tensor, patch: int, dim: int) -> Tensor:
            parts = []
            for tile in tiles:
                part = x
                for along, span in zip((dim, dim + 1), tile, strict=True):
                    part = part.narrow(along, span.start * patch, (span.stop - span.start) * patch)
                parts.append(part)
            return torch.cat(parts)

        def repeated(x: Tensor) -> Tensor:
            return x.repeat(len(tiles), 1, 1)

        return _Window(
            cut(self.aligned, patch, 2),
            cut(self.plain, patch, 2),
            cut(self.moving, patch, 2),
            repeated(self.mean),
            repeated(self.deviation),
            repeated(self.change),
            cut(self.local, patch, 1),
            cut(self.scalars, 1, 1),
        )


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
        window, flow = self._window(x)
        given = self._given(window, steps)
        last, low, high = x[:, -1], x.amin((1, 2, 3)), x.amax((1, 2, 3))
        bounded = (x == low.view(-1, 1, 1, 1)).float().mean((1, 2, 3)) >= _BOUNDED
        room = 0.5 * (high - low)
        low, high = torch.where(bounded, low, low - room).view(-1, 1, 1), (high + room).view(-1, 1, 1)
        standing = _standing(x)
        share = torch.softmax(self.inflow, 0)
        forecast, keeps_graph = [], torch.is_grad_enabled()
        result = x.new_empty(0 if keeps_graph else B, steps, H, W)
        for step, at in enumerate(arrivals(flow, steps)):
            what, given[step] = self._mixed(window, given[step], step), torch.empty(0)
            parts = []
            for rows in strips(x):
                arriving = sample(what, at[:, :, rows])
                still = torch.stack(_at_rest([m[:, rows] for m in standing], step), 1)
                known = inside(at[:, :, rows], H, W)[:, 0]
                entering = share[0] * last[:, rows] + share[1] * standing[1][:, rows] + share[2] * window.mean
                y = known * (arriving[:, 0] + (arriving[:, 1:] * still).sum(1)) + (1 - known) * entering
                y = torch.minimum(torch.maximum(y, low), high)
                if keeps_graph:
                    parts.append(y)
                else:
                    result[:, step, rows] = y
            if keeps_graph:
                forecast.append(torch.cat(parts, 1))
        return torch.stack(forecast, 1) if keeps_graph else result

    def _window(self, x: Tensor) -> tuple[_Window, Tensor]:
        """Return what is known of frames, and their flow."""
        B, T, H, W = x.shape
        mean, deviation = x.mean((1, 2, 3)).view(-1, 1, 1), x.std((1, 2, 3)).view(-1, 1, 1)
        patch = self.config.patch
        tried = _trials(x, mean, deviation, patch)
        flow = optical_flow(x) if T > 1 else x.new_zeros(B, 2, H, W)
        aligned = _aligned(x, flow)
        tiny = 1e-6 * deviation + 1e-30
        change = (x[:, :-1] - x[:, -1:]).square().mean((1, 2, 3)).sqrt().view(-1, 1, 1) if T > 1 else 0 * deviation
        moved = 0 * x[:, -1]
        for t in range(T - 1):
            moved += (aligned[:, t] - x[:, -1]).square() / (T - 1)
        local = (blur(moved, 4.0) + tiny.square()).sqrt()
        change = change + tiny
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
        scalars = torch.cat([per_window[:, :, None].expand(B, h, w, 3), speed[..., None], tried], -1)
        moving = _moving(aligned, x)
        return _Window(aligned, x, moving, mean, deviation + tiny, change, local, scalars), flow

    def _given(self, window: _Window, steps: int) -> list[Tensor]:
        """Return what the head gives for each step, (B, h, w, _MOVING + _STANDING + patch²)."""
        B, _, H, W = window.plain.shape
        patch = self.config.patch
        h, w = H // patch, W // patch
        tiles = plan_tiles(h, w, CORE_TILE)
        if len(tiles) == 1:
            return list(self._core(window, steps))
        given = [window.plain.new_zeros(B, h, w, self.head.out_features) for _ in range(steps)]
        at_once = max(1, WINDOWS_AT_ONCE // B)
        for first in range(0, len(tiles), at_once):
            chosen = tiles[first : first + at_once]
            part = window.cut([(rows, columns) for rows, columns, _ in chosen], patch)
            for step, values in enumerate(self._core(part, steps)):
                for (rows, columns, counts), its in zip(chosen, torch.split(values, B), strict=True):
                    given[step][:, rows, columns] += torch.from_numpy(counts).to(its)[..., None] * its
        return given

    def _core(self, window: _Window, steps: int) -> Iterator[Tensor]:
        """Run the recurrent layers; yield what the head gives for each step."""
        T, patch = window.plain.shape[1], self.config.patch
        frames = zip(window.aligned.unbind(1), window.plain.unbind(1), strict=True)
        x = torch.stack([self._read(window, moved, plain, (t - T + 1) / 4) for t, (moved, plain) in enumerate(frames)])
        weights = self.layers.weights()
        x, state = self.layers.read(weights, x)
        top = x[-1].clone()
        del x  # the known frames' maps are not needed while forecasting
        read_on = self._reader(window, weights) if steps > 1 else None
        for step in range(steps):
            given = self.head(top)
            yield given
            if read_on is not None and step + 1 < steps:
                moving, standing = self._weights(window, given, step)
                # At rest, what stands is the last frame here: it was not yet moved.
                moving = torch.cat([moving[:, :1] + standing.sum(1, keepdim=True), moving[:, 1:]], 1)
                frame = _mixture(moving, window, patch) + _unfolded(given, patch) * window.local
                top, state = read_on(frame, (step + 1) / 4, state)

    def _reader(self, window: _Window, weights: Any) -> Callable[[Tensor, float, Any], tuple[Tensor, Any]]:
        """Return what runs the recurrent layers on a forecast frame at a time, from a state.

        Of what they read then only two maps change. A convolution is linear: that of all else is reckoned once, where
        the layers are such that begin with one.
        """
        patch, last = self.config.patch, window.plain[:, -1]
        layers, pixels = self.layers, patch**2
        parts = layers.parts if isinstance(layers, Stack) else []
        bottom = parts[0] if parts else None
        # Where kernels are narrowed, a sum of two convolutions would lose more than one does.
        if not isinstance(bottom, GatedLayer) or weights[0][0].input.dtype != last.dtype:
            return lambda frame, time, state: layers.step(weights, self._read(window, frame, last, time), state)
        gates, kernel = bottom.gates, weights[0][0].input
        changing = prepared(torch.cat([kernel[:, :pixels], kernel[:, 2 * pixels : 3 * pixels]], 1))
        still = prepared(torch.cat([kernel[:, pixels : 2 * pixels], kernel[:, 4 * pixels : -1]], 1))
        standardised = torch.asinh((last - window.mean) / window.deviation)[:, None]
        fixed = convolve(torch.cat([_folded(standardised, patch), window.scalars], -1), still)
        by_time = convolve(fixed.new_ones(1, *fixed.shape[1:3], 1), prepared(kernel[:, -1:]))

        def read(frame: Tensor, time: float, state: Any) -> tuple[Tensor, Any]:
            maps = [(frame - window.mean) / window.deviation, (frame - last) / window.change]
            x = convolve(_folded(torch.asinh(torch.stack(maps, 1)), patch), changing) + (fixed + time * by_time)
            x, after = normalise(x, gates.input_scale, gates.bias), []
            for number, (layer, w, before) in enumerate(zip(parts, weights, state, strict=True)):
                x, its = layer.step(w, layer.inputs(w, x) if number else x, before)
                after.append(its)
            return x, after

        return read

    def _weights(self, window: _Window, given: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the weights of the maps of `_moving` and of the mean, (B, _MOVING, h, w), and of what stands."""
        candidates, trial = _MOVING + _STANDING, min(step, _TRIED - 1)
        first = candidates * (trial - _TRIED)
        tried = window.scalars[..., first : first + candidates or None]
        weights = torch.softmax(_SHARP * given[..., :candidates] - self.by_trial[trial] * tried, -1).permute(0, 3, 1, 2)
        trend = weights[:, _MOVING - 1 : _MOVING]
        moving = [weights[:, :1] + trend, weights[:, 1 : _MOVING - 2], _damped(step) * trend]
        return torch.cat([*moving, weights[:, _MOVING - 2 : _MOVING - 1]], 1), weights[:, _MOVING:]

    def _mixed(self, window: _Window, given: Tensor, step: int) -> Tensor:
        """Return what moves at a step, and the weights of what stands, (B, 1 + _STANDING, H, W)."""
        patch = self.config.patch
        moving, standing = self._weights(window, given, step)
        what = _mixture(moving, window, patch) + _unfolded(given, patch) * window.local
        return torch.cat([what[:, None], _finer(standing, patch)], 1)

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
        folded = _folded(maps, self.config.patch)
        when = folded.new_full((*folded.shape[:3], 1), time)
        return torch.cat([folded, window.scalars, when], -1)


def _aligned(x: Tensor, flow: Tensor) -> Tensor:
    """Return frames (B, T, H, W) as the flow brings them to the time of the last."""
    T = x.shape[1]
    earlier = [carried(x[:, T - 1 - k, None], at) for k, at in enumerate(arrivals(flow, T - 1), 1)]
    return torch.cat([*earlier[::-1], x[:, -1:]], 1)


def _trials(x: Tensor, mean: Tensor, deviation: Tensor, patch: int) -> Tensor:
    """Return how each candidate would have forecast the last frame, (B, h, w, _TRIED * candidates).

    The logarithm of its squared error around each patch, against that of the moved last frame; first at a lead time of
    one step, then of two. 0 where the history is too short to try.
    """
    B, T, H, W = x.shape
    candidates, found = _MOVING + _STANDING, []
    for lead in range(1, _TRIED + 1):
        known = x[:, : max(T - lead, 0)]
        if known.shape[1] < 1:
            found.append(x.new_zeros(B, candidates, H // patch, W // patch))
            continue
        # Of these frames alone: a flow that has seen the last one would flatter all that moves.
        flow = optical_flow(known) if known.shape[1] > 1 else x.new_zeros(B, 2, H, W)
        moving, standing = _moving(_aligned(known, flow), known), _standing(known)
        *_, at = arrivals(flow, lead)
        errors = x.new_empty(B, candidates, H, W)
        for rows in strips(x):
            tried = sample(moving, at[:, :, rows])
            tried[:, -1] = tried[:, 0] + _damped(lead - 1) * tried[:, -1]
            everything = mean[:, None].expand(B, 1, *tried.shape[2:])
            still = torch.stack(_at_rest([m[:, rows] for m in standing], lead - 1), 1)
            tried = torch.cat([tried[:, :-1], everything, tried[:, -1:], still], 1)
            errors[:, :, rows] = (tried - x[:, -1:, rows]).square()
        error = (blur(errors, 3.0, patch) + _SURE * deviation[:, None].square() + 1e-30).log()
        found.append((error - error[:, :1]).clamp(-6, 6))
    return torch.cat(found, 1).permute(0, 2, 3, 1)


def _moving(aligned: Tensor, plain: Tensor) -> Tensor:
    """Return what may move but the mean of everything, (B, _MOVING - 1, H, W); the last is the slope of a trend."""
    last, mean = plain[:, -1], aligned.mean(1)
    blurred = [blur(last, sigma) for sigma in BLURS]
    slope = blur(_slope(aligned), 1.0)
    return torch.stack([last, *blurred, aligned[:, -2:].mean(1), mean, blur(mean, 2.0), slope], 1)


def _standing(plain: Tensor) -> tuple[Tensor, ...]:
    """Return what `_at_rest` is made of: the last frame, the mean, smoothed too, and the slope of the trend."""
    mean = plain.mean(1)
    return plain[:, -1], mean, blur(mean, 2.0), _slope(plain)


def _at_rest(standing: Sequence[Tensor], step: int) -> list[Tensor]:
    """Return the `_STANDING` maps that may stand where they are."""
    last, mean, soft, slope = standing
    return [last, mean, soft, last + _damped(step) * slope]


def _mixture(weights: Tensor, window: _Window, patch: int) -> Tensor:
    """Return the mixture (B, H, W) of the maps that move, and of the mean, which comes last among the weights."""
    B, _, h, w = weights.shape
    rows, columns = bilinear(h, patch), bilinear(w, patch)
    if torch.is_grad_enabled() or len(rows) == 1:
        fine = separable(weights, rows, columns)
        return (fine[:, :-1] * window.moving).sum(1) + fine[:, -1] * window.mean
    result = weights.new_empty(B, h * patch, w * patch)
    for number, its in enumerate(weights.contiguous()):
        across = its.new_empty(*its.shape[:2], w * patch)
        along_columns(its.flatten(0, 1), columns, across.flatten(0, 1))
        for given, read, matrix in rows:
            target = result[number, given]
            torch.mm(matrix.to(its), across[-1, read], out=target).mul_(window.mean[number])
            for one, by in zip(window.moving[number], across[:-1], strict=True):
                target.addcmul_(matrix.to(its) @ by[read], one[given])
    return result


def _unfolded(given: Tensor, patch: int) -> Tensor:
    """Return the change that the head gives, (B, H, W), as a share of the local one."""
    return F.pixel_shuffle(given[..., _MOVING + _STANDING :].permute(0, 3, 1, 2), patch)[:, 0]


def _folded(maps: Tensor, patch: int) -> Tensor:
    """Return maps (B, C, H, W) as patches (B, h, w, C patch²)."""
    return F.pixel_unshuffle(maps, patch).permute(0, 2, 3, 1)


def _finer(x: Tensor, times: int) -> Tensor:
    """Return maps (..., h, w) on so many times finer grids, bilinearly."""
    rows, columns = (bilinear(size, times) for size in x.shape[-2:])
    return separable(x, rows, columns)


def _damped(step: int) -> float:
    return float(sum(_DAMPING**k for k in range(1, step + 2)))


def _slope(x: Tensor) -> Tensor:
    """Return the change per step of frames (B, T, H, W), by least squares."""
    T = x.shape[1]
    time = torch.arange(T, dtype=x.dtype, device=x.device) - (T - 1) / 2
    return torch.einsum("bthw,t->bhw", x, time / time.square().sum().clamp(min=1))
