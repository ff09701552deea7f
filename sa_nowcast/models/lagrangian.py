"""`LagrangianNetwork`: a recurrent core in Lagrangian coordinates, for ``NetworkConfig.output = "moving"``."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa_nowcast.models.candidates import (
    BANDS,
    BLURS,
    CANDIDATES,
    EDGE,
    FINE,
    LAGS,
    MOVING,
    NARROW,
    SURE,
    TRIED,
    WIDE_BLURS,
    damped_slope,
    finer,
    mixture,
)
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.cores import Core
from sa_nowcast.models.heap import room
from sa_nowcast.models.margins import Law, Margins, score
from sa_nowcast.models.motion import (
    arrivals,
    inside,
    optical_flow,
    sample,
    strips,
)
from sa_nowcast.models.repeats import without_repeats
from sa_nowcast.models.rollout import Forecaster
from sa_nowcast.models.shares import lost, moving_logits, shares, told_by_mixtures
from sa_nowcast.models.tiles import plan_tiles
from sa_nowcast.models.window import Scaled, Window, cut, scaled, window_of

CORE_TILE: Final = 24
"""Positions (patches) a side that the recurrent core sees at once; it bounds what attention costs."""

LEAST_SIDE: Final = 32
"""Pixels; grids with a side below it, or below `LEAST_POSITIONS` patches, are repeated until none is."""

LEAST_POSITIONS: Final = 8

_MAPS: Final = 4  # per frame and pixel, that the core reads
POSITION_SCALARS: Final = 4 + 2 * TRIED * CANDIDATES + TRIED + (1 + LAGS) * BANDS
"""What the core reads per frame and position, besides the pixels and the time."""

_WIDTH: Final = 48  # of the layers that turn what was read, and a lead time, into weights
_SHARP: Final = 5.0  # logits are so many times what the head gives, so that it soon learns to be sure
_AT_FIRST: Final = 1.5  # logit of all smoothed frames together, beside each of the others
# At first a weight falls with this power of the error that a candidate had on the history, at lead time 1 and later:
# on the whole, and at its place compared with the whole.
_BY_TRIAL: Final = (1.5, 1.0)
_BY_PLACE: Final = (0.75, 0.5)
_SLOWLY: Final = -1.5  # logit: share of the decay from lag 1 to 2, beside that from 1 to 3
_LEAST_WEIGHT: Final = 2e-3
_GROWTH: Final = 0.5  # share of the change from trial 1 to trial 2 that goes on with each doubling of the lead time
_FADING: Final = 1.0  # logit that a trend loses with each doubling; what its trials say does not go on
# Share of the speed, beyond a pixel per step, by which the displacement becomes uncertain after the trials.
_WANDERS: Final = 0.2
_BAND_WIDTHS: Final = [0.5 * (a + b) for a, b in pairwise((0.0, *BLURS, *WIDE_BLURS, 2 * WIDE_BLURS[-1]))]  # pixels

WINDOWS_AT_ONCE: Final = 4  # tiles that go through the core together


class LagrangianNetwork(Forecaster):
    """A network that forecasts growth and decay along the motion, which it takes from an optical flow.

    The history is brought to the time of the last frame along the flow. There, in Lagrangian coordinates, the recurrent
    core reads it. From what it has read, and from the lead time, which is an input, small layers give for every patch
    weights to a few candidate forecasts: the last frame, ever more smoothed ones up to the mean of the window, means
    over the history and a damped trend, each advected along the flow; and persistence, means and a trend in Eulerian
    coordinates. To their mixture a smooth change is added. So the smoothing that a rising error asks for, the
    uncertainty of the motion and the regression to the mean are learned, and what is fine in the last frame is not
    reconstructed. Any number of lead times costs one pass of the core.

    Each candidate is tried on the history first: made without its last one or two frames, and compared with the last.
    How well it did around each patch, and overall, is an input of the core, and weighs it from the start; at lead times
    beyond the trials, as its error changed from the first to the second. So on data of a kind that no training held,
    what works there still counts. How much the ever more smoothed frames count by the side of each other follows from
    correlations: along the motion, each band of scales with itself one, two and three frames before, carried on to the
    lead time as in S-PROG; what is finer than a fast motion is certain is lost. How much of the forecast stands where
    it is follows from trials of mixtures of what moves and what stands.

    Values that repeat those of the frame before, in parts of the grid, are moved by their age first; see
    `sa_nowcast.models.repeats`.

    Every window is scaled by its own statistics, so a result follows the input's units: ``a x + b`` gives ``a y + b``
    for a > 0. Channels are forecast each alone by the same weights, and weights fit any number of them. Large grids go
    through the core in overlapping tiles; flow and advection are of the whole grid. What comes in from beyond the edge
    is what the smoothed last frame is along the edge: behind a dry edge, nothing.

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
        self.layers = core(maps_read(config.patch), config)
        self.reads = nn.Linear(config.hidden[-1] + POSITION_SCALARS, _WIDTH)
        self.leads = nn.Linear(2, _WIDTH, bias=False)
        self.between = nn.Linear(_WIDTH, _WIDTH)
        self.head = nn.Linear(_WIDTH, CANDIDATES + 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        trend = torch.zeros(CANDIDATES)
        trend[[FINE - 1, CANDIDATES - 1]] = 1
        self.by_trial = nn.Parameter(torch.tensor(_BY_TRIAL)[:, None].repeat(1, CANDIDATES))
        self.by_place = nn.Parameter(torch.tensor(_BY_PLACE)[:, None].repeat(1, CANDIDATES))
        self.decay = nn.Parameter(torch.tensor([_SLOWLY, 0.0])[:, None].repeat(1, BANDS))
        self.smoothing = nn.Parameter(torch.tensor(_AT_FIRST))
        self.growth = nn.Parameter(_GROWTH * (1 - trend))
        self.fading = nn.Parameter(_FADING * trend)
        self.margins = Margins(config.hidden[-1] + POSITION_SCALARS)

    def forward(self, x_BTCHW: Tensor, steps: int = 1) -> Tensor:
        """Forecast; see `Network.forward`."""
        self.check(x_BTCHW, x_BTCHW.shape[1], steps)
        given = without_repeats(self._windows(x_BTCHW))
        unit, given = scaled(given.frames), given.without_frames()
        window, flow = window_of(unit.values, self.config.patch)
        read = self.reads(torch.cat([self._features(window), window.scalars], -1))
        window = window._replace(aligned=window.plain)  # these the core alone reads: large grids have no room for them
        return self._as_given(given.expected(self._mixed(unit, window, flow, read, steps)), x_BTCHW)

    def inflow(self, x_BTCHW: Tensor, steps: int) -> Tensor:
        """Return where the motion brings in what lay beyond the grid, (B, steps, C, H, W) of bool.

        The motion is that of the forecast from the same frames.
        """
        self.check(x_BTCHW, x_BTCHW.shape[1], steps)
        x = without_repeats(self._windows(x_BTCHW)).frames
        B, T, H, W = x.shape
        flow = optical_flow(scaled(x).values) if T > 1 else x.new_zeros(B, 2, H, W)
        known = torch.cat([inside(at, H, W) for at in arrivals(flow, steps)], 1)
        return self._as_given(known, x_BTCHW) < 1 - 1e-6

    def laws(self, x_BTCHW: Tensor, steps: int) -> list[Law]:
        """Return the distributions of the forecasts from these frames: one for each sample and channel in turn.

        Of all that is learned, only `margins` gets a gradient by them.

        Raises
        ------
        ModelError, RecipeError
            As for `forward`.
        """
        self.check(x_BTCHW, x_BTCHW.shape[1], steps)
        regular = without_repeats(self._windows(x_BTCHW))
        x = regular.frames
        with torch.no_grad():
            unit = scaled(x)
            window, flow = window_of(unit.values, self.config.patch)
            given = torch.cat([self._features(window), window.scalars], -1)
            mean = regular.expected(self._mixed(unit, window, flow, self.reads(given), steps))
            kept = torch.stack([self._kept(window.scalars[:, 0, 0], window.speed, step) for step in range(steps)], 1)
            at = list(arrivals(flow, steps))
            read = self.reads(given)
            stands = self._stands(window, read)
        of_margins = self.margins.reads(given)
        parts = []
        for step in range(steps):
            with torch.no_grad():
                at_first, learned, _ = self._logits(window, read, step)
                moving, standing = shares(at_first, learned, stands - lost(window.speed, step), step, self.training)
            width = self.margins(of_margins, window.local, step)
            # What a trend of chances would be is none: its weight is the last frame's.
            moving = torch.cat(
                [moving[:, :1] + moving[:, FINE - 1 : FINE], moving[:, 1 : FINE - 1], moving[:, FINE:]], 1
            )
            standing = torch.cat([standing[:, :1] + standing[:, -1:], standing[:, 1:-1]], 1)
            parts.append((moving, standing, width * unit.scale[:, None]))
        size = (*x_BTCHW.shape[3:], self._repeat(*x_BTCHW.shape[3:]))
        return [
            Law(
                frames=x[i],
                arrivals=[one[i : i + 1] for one in at],
                flow=flow[i : i + 1],
                mean=mean[i],
                moving=[part[0][i : i + 1] for part in parts],
                standing=[part[1][i : i + 1] for part in parts],
                width=[part[2][i : i + 1] for part in parts],
                bound=float(unit.origin[i]) if unit.bounded[i] else None,
                kept=kept[i],
                patch=self.config.patch,
                size=size,
            )
            for i in range(len(x))
        ]

    def margins_loss(
        self,
        x_BTCHW: Tensor,
        valid_BTCHW: Tensor,
        history: int,
        everywhere: Callable[[Tensor], Tensor] = lambda still: still,
    ) -> Tensor:
        """Return the CRPS of the distributions, by which `margins` is trained, as a share of persistence's error.

        Parameters
        ----------
        x_BTCHW, valid_BTCHW : Tensor
            History and truth, and where values are.
        history : int
        everywhere : callable, optional
            Given persistence's errors of these windows, (steps,), returns those of the windows of all processes.
        """
        laws = self.laws(x_BTCHW[:, :history], x_BTCHW.shape[1] - history)
        truth, valid = (self._windows(part[:, history:]) for part in (x_BTCHW, valid_BTCHW))
        return score(laws, truth, valid, everywhere)

    def _windows(self, x_BTCHW: Tensor) -> Tensor:
        """Return frames as windows (B C, T, H, W) of one channel, with sides that are long enough, in whole patches."""
        B, T, C, H, W = x_BTCHW.shape
        patch, repeat = self.config.patch, self._repeat(H, W)
        x = x_BTCHW.transpose(1, 2).reshape(B * C, T, H, W).to(self.growth.dtype)
        if repeat > 1:
            x = x.repeat_interleave(repeat, 2).repeat_interleave(repeat, 3)
        rows, columns = x.shape[-2:]
        return F.pad(x, (0, -columns % patch, 0, -rows % patch), mode="replicate")

    def _as_given(self, y: Tensor, x_BTCHW: Tensor) -> Tensor:
        """Return maps of windows, (B C, steps, H, W), as frames like those that were given."""
        B, _, C, H, W = x_BTCHW.shape
        repeat = self._repeat(H, W)
        y = y[..., : repeat * H, : repeat * W]
        if repeat > 1:
            y = F.avg_pool2d(y, repeat)
        return y.reshape(B, C, -1, H, W).transpose(1, 2).to(x_BTCHW.dtype)

    def _repeat(self, height: int, width: int) -> int:
        """Return how many times each pixel is repeated along both sides."""
        return -(-max(LEAST_SIDE, LEAST_POSITIONS * self.config.patch) // min(height, width))

    def _mixed(self, given: Scaled, window: Window, flow: Tensor, read: Tensor, steps: int) -> Tensor:
        """Return the `steps` maps of windows, from what is known of them."""
        x = given.values
        B, _, H, W = x.shape
        patch = self.config.patch
        forecast, keeps_graph = [], torch.is_grad_enabled()
        stands = self._stands(window, read)
        result = room(x, 0 if keeps_graph else B, steps, H, W)
        for step, at in enumerate(arrivals(flow, steps)):
            fine, wide, standing = self._weights(window, read, stands, step)
            what = mixture(fine, wide, window.fine)
            # Weights move with the pattern; what they weigh stands.
            at_patches = (F.avg_pool2d(at, patch) - (patch - 1) / 2) / patch
            standing = sample(standing, at_patches)
            still = mixture(standing, torch.zeros_like(wide), window.standing)
            share, entering = 1 - standing[:, :-1].sum(1), sample(window.wide[:, EDGE, None], at_patches)[:, 0]
            share, entering = finer(share, patch), finer(entering, patch)
            parts = []
            for rows in strips(x):
                known = inside(at[:, :, rows], H, W)[:, 0]
                arriving = torch.lerp(entering[:, rows], sample(what[:, None], at[:, :, rows])[:, 0], known)
                y = (share[:, rows] * arriving + still[:, rows]) * given.scale + given.origin
                y = torch.minimum(torch.maximum(y, given.low), given.high)
                if keeps_graph:
                    parts.append(y)
                else:
                    result[:, step, rows] = y
            if keeps_graph:
                forecast.append(torch.cat(parts, 1))
        return torch.stack(forecast, 1) if keeps_graph else result

    def _features(self, window: Window) -> Tensor:
        """Return what the core gives after the last frame, (B, h, w, hidden)."""
        B, h, w, _ = window.scalars.shape
        tiles = plan_tiles(h, w, CORE_TILE)
        if len(tiles) == 1:
            return self._core(window)
        result = window.scalars.new_zeros(B, h, w, self.config.hidden[-1])
        at_once = max(1, WINDOWS_AT_ONCE // B)
        for first in range(0, len(tiles), at_once):
            chosen = tiles[first : first + at_once]
            part = cut(window, [(rows, columns) for rows, columns, _ in chosen], self.config.patch)
            for (rows, columns, counts), its in zip(chosen, torch.split(self._core(part), B), strict=True):
                result[:, rows, columns] += torch.from_numpy(counts).to(its)[..., None] * its
        return result

    def _core(self, window: Window) -> Tensor:
        """Run the recurrent layers over the history; return what the last one gives at its end."""
        T = window.plain.shape[1]
        frames = zip(window.aligned.unbind(1), window.plain.unbind(1), strict=True)
        x = torch.stack([self._read(window, moved, plain, (t - T + 1) / 4) for t, (moved, plain) in enumerate(frames)])
        top, _ = self.layers.read(self.layers.weights(), x)
        return top[-1]

    def _weights(self, window: Window, read: Tensor, stands: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return for a step the weights of the fine maps, what has no details, and the weights of what stands.

        (B, FINE, h, w), (B, h, w) and (B, STANDING, h, w). What moves and what stands each have weights that sum to
        one, but for the slopes: what stands counts as much as its weights say, what moves the rest.
        """
        at_first, learned, change = self._logits(window, read, step)
        moving, standing = shares(at_first, learned, stands - lost(window.speed, step), step, self.training)
        trend = moving[:, FINE - 1 : FINE]
        # By their logits, and not as parts of what the trend leaves: it may have all the weight.
        logits = moving_logits(at_first, learned, step)
        others = torch.softmax(torch.cat([logits[:, : FINE - 1], logits[:, FINE:]], 1), 1)
        moving = torch.cat([others[:, : FINE - 1], trend, others[:, FINE - 1 :]], 1)
        fine = torch.cat([moving[:, : FINE - 1], damped_slope(step) * trend], 1)
        wide = (moving[:, FINE:-1] * window.wide).sum(1) + moving[:, -1] * window.mean
        wide = wide + change * window.local
        trend = standing[:, -1:]
        return fine, wide, torch.cat([standing[:, :1] + trend, standing[:, 1:-1], damped_slope(step) * trend], 1)

    def _logits(self, window: Window, read: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return for a step the logits of the candidates by the history, those that were learned, and a change.

        (B, candidates, h, w) each; the change that is added, in local changes, (B, h, w).
        """
        lead = math.log2(step + 1)
        given = self.leads(read.new_tensor([lead / 4, 1 / (step + 1)]))
        given = self.head(F.silu(self.between(F.silu(read + given))))
        near_1, near_2, whole_1, whole_2 = window.scalars[..., 4 : 4 + 4 * CANDIDATES].chunk(4, -1)
        near, whole, power, by_place = near_1, whole_1, self.by_trial[0], self.by_place[0]
        if step > 0:
            near, whole = (
                (b + self.growth * (lead - 1) * (b - a)).clamp(-6, 6) for a, b in ((near_1, near_2), (whole_1, whole_2))
            )
            power, by_place = self.by_trial[1], self.by_place[1] / lead
        at_first = -power * whole - self.fading * lead
        smoothed, error = self._by_correlation(window, step)
        level_1, level_2 = window.scalars[..., 4 + 4 * CANDIDATES :][..., :TRIED].chunk(TRIED, -1)
        level = level_2 + self.growth[0] * (lead - 1) * (level_2 - level_1) if step > 0 else level_1
        smoothed = smoothed + self.smoothing - power[0] * (error - level).clamp(-6, 6)
        at_first = torch.cat(
            [smoothed[..., :NARROW], at_first[..., NARROW:FINE], smoothed[..., NARROW:], at_first[..., MOVING:]],
            -1,
        )
        at_first = (at_first - by_place * (near - whole)).permute(0, 3, 1, 2)
        return at_first, _SHARP * given[..., :CANDIDATES].permute(0, 3, 1, 2), given[..., -1]

    def _by_correlation(self, window: Window, step: int) -> tuple[Tensor, Tensor]:
        """Return what the correlations of bands say of the smoothed frames at a step, as logarithms.

        Their weights, (B, h, w, bands + 1), and the squared error that their sum should have, (B, h, w, 1). Each band
        counts as much as it is correlated with what it was `step + 1` frames ago: as in S-PROG, but by weights of
        smoothed frames.
        """
        kept = self._kept(window.scalars, window.speed[:, None, None], step)
        variance = window.scalars[..., -(1 + LAGS) * BANDS :][..., :BANDS]
        error = (variance.exp() * (1 - kept.square())).sum(-1, keepdim=True) + SURE
        kept = torch.cummax(kept, -1).values
        weights = torch.cat([kept[..., :1], kept.diff(dim=-1), 1 - kept[..., -1:]], -1)
        return weights.clamp(min=_LEAST_WEIGHT).log(), error.log()

    def _stands(self, window: Window, read: Tensor) -> Tensor:
        """Return how much more stands than the trials of each candidate by itself say, (B, 1, 1), as a logit."""
        more = []
        for step in range(TRIED):
            at_first, learned, _ = self._logits(window, read, step)
            more.append(told_by_mixtures(at_first, learned, window.products[:, step], step))
        return torch.stack(more).mean(0)[:, None, None]

    def _kept(self, scalars: Tensor, speed: Tensor, step: int) -> Tensor:
        """Return how each band is correlated with itself `step + 1` frames on, along the motion; (..., bands).

        The rates are those of the trials; beyond them, the motion becomes uncertain, as a share of its speed, and
        bands that are finer than that are lost.
        """
        first, second, last = scalars[..., -LAGS * BANDS :].chunk(LAGS, -1)
        soon, later = (second - first).clamp(max=0), (last - first).clamp(max=0) / (LAGS - 1)
        rate = torch.lerp(later, soon, self.decay[0].sigmoid())
        wanders = _WANDERS * (speed - 1).clamp(min=0) / scalars.new_tensor(_BAND_WIDTHS)
        rates = first + rate * step ** self.decay[1].exp() if step else first
        return (rates - 0.5 * step * (step + 1) * wanders.square()).exp()

    def _read(self, window: Window, moved: Tensor, plain: Tensor, time: float) -> Tensor:
        """Return a frame as the core reads it, (B, h, w, inputs)."""
        last = window.plain[:, -1]
        maps = torch.stack(
            [
                torch.asinh(moved - window.mean),
                torch.asinh(plain - window.mean),
                torch.asinh((moved - last) / window.change),
                torch.asinh((plain - last) / window.change),
            ],
            1,
        )
        pool = _pool(self.config.patch)
        folded = F.pixel_unshuffle(F.avg_pool2d(maps, pool), self.config.patch // pool).permute(0, 2, 3, 1)
        when = folded.new_full((*folded.shape[:3], 1), time)
        return torch.cat([folded, window.scalars, when], -1)


def maps_read(patch: int) -> int:
    """Return how many maps the core reads of a frame."""
    return _MAPS * (patch // _pool(patch)) ** 2 + POSITION_SCALARS + 1


def _pool(patch: int) -> int:
    """Return over how many pixels a side the core's maps are averaged: its patches need no finer detail."""
    return 2 if patch >= 8 and patch % 2 == 0 else 1
