"""Members of a forecast distribution: random fields that travel with the motion, turned into values by the margins.

What the distribution of each pixel leaves open is drawn by a Gaussian field: its scales are those that the forecast has
lost at the lead time, its pattern moves along the flow and changes as fast as these scales do. So members are coherent
in space and time, in Lagrangian coordinates, and sums over areas and hours have the right spread. Each member also has
its own error of the motion, which displaces it the further, the longer the lead time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sa_nowcast.models.candidates import BANDS, BLURS, WIDE_BLURS, finer
from sa_nowcast.models.margins import Law

_BEYOND: Final = 64  # pixels around the grid: opposite edges are independent
_SMOOTH: Final = 32.0  # pixels: the Gaussian that makes an error of the motion smooth
_COARSE: Final = 8  # pixels from one place that it is drawn at to the next
_BINS: Final = 24  # of the logarithm of the wave number
_LEAST_CHANCE: Final = 1e-5  # where a value above the bound is less likely than that, no member has one
_PIXELS: Final = 2**16  # that are turned into values at once


class Distribution(Protocol):
    """The distribution of one forecast of one channel, at all lead times and pixels."""

    @property
    def mean(self) -> Tensor:
        """The mean forecast, (steps, H, W)."""

    def chances(self, levels: Tensor) -> Iterator[Tensor]:
        """Yield for each step how likely the value is above levels (K,), (K, y, x) on the grid that was given."""

    def quantiles(self, probabilities: Sequence[float]) -> npt.NDArray[np.float32]:
        """Return the values that are at most so large with these probabilities, (probability, lead time, y, x)."""

    def members(self, generators: Sequence[np.random.Generator], result: npt.NDArray[np.float32]) -> object:
        """Put members in `result`, (member, lead time, y, x); each generator draws one."""


@dataclass(frozen=True, eq=False)
class Lagrangian:
    """The `Distribution` that a network in Lagrangian coordinates forecasts, with fields that travel."""

    law: Law

    @property
    def mean(self) -> Tensor:
        """The mean forecast, (steps, H, W), on the grid of the network."""
        return self.law.mean

    def chances(self, levels: Tensor) -> Iterator[Tensor]:
        """Yield for each step how likely the value is above levels (K,), (K, y, x)."""
        return map(self.law.as_given, self.law.chances(levels))

    def quantiles(self, probabilities: Sequence[float]) -> npt.NDArray[np.float32]:
        """Return quantiles; see `quantiles_of`."""
        return quantiles_of(self.law, probabilities)

    def members(self, generators: Sequence[np.random.Generator], result: npt.NDArray[np.float32]) -> object:
        """Put members in `result`; see `members`."""
        return members(self.law, generators, result)


class Travelling:
    """Gaussian fields of unit variance, on a periodic domain that is larger than the grid.

    Parameters
    ----------
    law : Law

    Notes
    -----
    As the noise of STEPS (Bowler et al. 2006, doi:10.1256/qj.04.100), of which each scale has the variance that
    autoregression lost; here the autoregression is continuous in the wave number, with correlations along the motion.
    """

    def __init__(self, law: Law) -> None:
        rows, columns, repeat = law.size
        self.shape = rows, columns
        self.domain = fast(rows + _BEYOND), fast(columns + _BEYOND)
        last = law.as_given(law.frames[-1:])[0]
        wave = torch.hypot(torch.fft.fftfreq(self.domain[0])[:, None], torch.fft.rfftfreq(self.domain[1])[None])
        radian = 2 * math.pi * wave
        cut = [torch.exp(-0.5 * (sigma / repeat * radian).square()) for sigma in (0.0, *BLURS, *WIDE_BLURS)]
        bands = torch.stack([a - b for a, b in zip(cut, [*cut[1:], torch.zeros_like(wave)], strict=True)])
        bands = bands / bands.sum(0)
        kept = torch.cummin(law.kept.float().cpu().clamp(1e-3, 0.9999), 0).values
        power = _spectrum(last.float().cpu(), wave)
        # Half of all waves stand in a real transform; those of the other half are their conjugates.
        twice = torch.full_like(wave, 2.0)
        twice[:, 0] = 1.0
        if self.domain[1] % 2 == 0:
            twice[:, -1] = 1.0
        before = torch.ones_like(wave)
        self._follows: list[Tensor] = []
        self._amplitude: list[Tensor] = []
        for at in kept:
            now = torch.exp((at.log().view(BANDS, 1, 1) * bands).sum(0))
            variance = power * (1 - now.square())
            count = self.domain[0] * self.domain[1]
            self._follows.append(now / before)
            self._amplitude.append(power.sqrt() * (count / (variance * twice).sum()).sqrt())
            before = now
        self._places = [self._place(at, repeat) for at in law.arrivals]

    def _place(self, at: Tensor, repeat: int) -> Tensor:
        """Return which value of the domain arrives at each pixel: the nearest, for means of several vary less."""
        there = (at[0, :, repeat // 2 :: repeat, repeat // 2 :: repeat] / repeat).round().long().cpu()
        there = there[:, : self.shape[0], : self.shape[1]]
        return (there[0] % self.domain[0]) * self.domain[1] + there[1] % self.domain[1]

    def draw(self, generator: np.random.Generator) -> Iterator[Tensor]:
        """Yield the field at each lead time, (rows, columns)."""
        state = torch.zeros(self.domain[0], self.domain[1] // 2 + 1, dtype=torch.complex64)
        for follows, amplitude, place in zip(self._follows, self._amplitude, self._places, strict=True):
            new = torch.from_numpy(generator.standard_normal(self.domain, dtype=np.float32))
            state = follows * state + (1 - follows.square()).clamp(min=0).sqrt() * torch.fft.rfft2(new, norm="ortho")
            yield torch.fft.irfft2(state * amplitude, s=self.domain, norm="ortho").view(-1)[place]


def members(
    law: Law, generators: Sequence[np.random.Generator], result: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Return members of a distribution, (member, lead time, y, x) on the grid that was given.

    Parameters
    ----------
    law : Law
    generators : sequence of numpy Generator
        One for each member, which draws from it alone.
    result : ndarray, optional
        Where they are to stand.
    """
    travelling = Travelling(law)
    moved = generators if law.motion_error > 0 else []
    errors = [_unit_displacement(travelling.shape, generator) for generator in moved]
    if result is None:
        result = np.empty((len(generators), len(law.arrivals), *travelling.shape), dtype=np.float32)
    for member, generator in zip(result, generators, strict=True):
        for target, field in zip(member, travelling.draw(generator), strict=True):
            target[:] = field.numpy()
    if law.bound is None:
        for step in range(len(law.arrivals)):
            mean, width = (law.as_given(x[None])[0].float().cpu().numpy() for x in (law.mean[step], law.width_at(step)))
            result[:, step] = mean + width * result[:, step]
        return result
    levels = law.levels()
    for step, (above, expected) in enumerate(law.nearby(levels.to(law.frames))):
        above = law.as_given(above).float().cpu().flatten(1)
        maps = [law.as_given(one[None])[0].float().cpu().flatten() for one in (expected, law.mean[step])]
        possible = np.flatnonzero((above[0] > _LEAST_CHANCE).numpy())
        fields = result[:, step].reshape(len(result), -1)
        for first in range(0, len(possible), _PIXELS):
            some = possible[first : first + _PIXELS]
            chance = 0.5 * torch.erfc(torch.from_numpy(fields[:, some]) / math.sqrt(2))
            drawn = quantiles(levels, above[:, some], chance)
            fields[:, some] = law.values(drawn, step, *(one[some] for one in maps)).numpy()
        dry = np.ones(fields.shape[1], dtype=bool)
        dry[possible] = False
        fields[:, dry] = law.bound
        result[:, step] = fields.reshape(result[:, step].shape)
        if far := law.displacement(step) / law.size[2]:
            for number, error in enumerate(errors):
                by = (far * finer(error, _COARSE)).numpy()
                result[number, step] = _displaced(result[number, step], by)
    return result


def _unit_displacement(shape: tuple[int, int], generator: np.random.Generator) -> Tensor:
    """Return a smooth random displacement of unit variance along each axis, (2, h, w), at every `_COARSE` pixels.

    Of a member it is the same at all lead times, as in Bowler et al. (2006), doi:10.1256/qj.04.100; but not everywhere.
    """
    size = fast(-(-(shape[0] + _BEYOND) // _COARSE)), fast(-(-(shape[1] + _BEYOND) // _COARSE))
    wave = torch.hypot(torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None])
    amplitude = torch.exp(-0.5 * (2 * math.pi * _SMOOTH / _COARSE * wave).square())
    twice = torch.full_like(wave, 2.0)
    twice[:, [0, -1]] = 1.0
    amplitude *= (size[0] * size[1] / (amplitude.square() * twice).sum()).sqrt()
    white = torch.from_numpy(generator.standard_normal((2, *size), dtype=np.float32))
    field: Tensor = torch.fft.irfft2(torch.fft.rfft2(white, norm="ortho") * amplitude, s=size, norm="ortho")
    return field[:, : -(-shape[0] // _COARSE), : -(-shape[1] // _COARSE)]


def _displaced(values: npt.NDArray[np.float32], by: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return a map (H, W) moved by rows and columns, (2, H, W) or larger; beyond the edge lies the edge.

    The nearest values: means of several would vary less.
    """
    height, width = values.shape
    rows = np.rint(np.arange(height)[:, None] - by[0, :height, :width]).clip(0, height - 1).astype(np.int64)
    columns = np.rint(np.arange(width) - by[1, :height, :width]).clip(0, width - 1).astype(np.int64)
    moved: npt.NDArray[np.float32] = values[rows, columns]
    return moved


def quantiles_of(law: Law, probabilities: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return the values that are at most so large with these probabilities, (probability, lead time, y, x)."""
    asked = torch.tensor(list(probabilities))[:, None]
    steps = []
    if law.bound is None:
        deviations = (math.sqrt(2) * torch.erfinv(2 * asked.double() - 1)).float()[..., None].to(law.mean)
        for step, mean in enumerate(law.mean):
            steps.append(law.as_given(mean + deviations * law.width_at(step)))
    else:
        levels = law.levels()
        for step, (above, expected) in enumerate(law.nearby(levels.to(law.frames))):
            averaged = law.as_given(law.over_displacements(torch.stack([*above, expected, law.mean[step]]), step))
            own, maps = averaged[:-2], [one.flatten() for one in averaged[-2:]]
            drawn = quantiles(levels.to(own), own.flatten(1), (1 - asked.to(own)).expand(-1, own[0].numel()))
            steps.append(law.values(drawn, step, *maps).view(-1, *own.shape[1:]))
    return torch.stack(steps, 1).float().cpu().numpy()


def quantiles(levels: Tensor, above: Tensor, chance: Tensor) -> Tensor:
    """Return the values that are exceeded by a chance, (M, N), given the chances (K, N) to be above levels (K,).

    Between levels the value is interpolated by its ratio to the bound, as levels are set: linearly in its logarithm.
    """
    falling = torch.cummin(above, 0).values
    falling[-1] = 0.0
    falling = falling.T.contiguous()
    chance = chance.T.contiguous()
    upper = torch.searchsorted(-falling, -chance).clamp(max=len(levels) - 1)
    lower = (upper - 1).clamp(min=0)
    more, less = falling.gather(1, lower), falling.gather(1, upper)
    share = ((more - chance) / (more - less).clamp(min=1e-12)).clamp(0, 1)
    beyond = levels - levels[0]
    ratio = beyond.clamp(min=1e-30).log()
    geometric = torch.exp(torch.lerp(ratio[lower], ratio[upper], share))
    value = torch.where(lower > 0, geometric, share * beyond[1])
    return torch.where(upper > 0, levels[0] + value, levels[0]).T


def _spectrum(last: Tensor, wave: Tensor) -> Tensor:
    """Return the power of the normal scores of a frame (H, W), as a smooth function of the wave number.

    Ranks, not values: those of a Gaussian field with these margins are what is drawn.
    """
    values, inverse, counts = torch.unique(last, return_inverse=True, return_counts=True)
    flat = torch.ones_like(wave)
    if len(values) < 2:
        return flat
    middle = (counts.cumsum(0) - 0.5 * counts) / last.numel()
    score = (math.sqrt(2) * torch.erfinv(2 * middle.double() - 1)).float()[inverse]
    height, width = last.shape
    taper = torch.hann_window(height + 1)[1:, None] * torch.hann_window(width + 1)[None, 1:]
    power = torch.fft.rfft2((score - score.mean()) * taper, s=_domain_of(wave)).abs().square()
    least = 1 / max(_domain_of(wave))
    place = torch.log(wave.clamp(least, 0.5) / least) / math.log(0.5 / least) * _BINS
    number = place.long().clamp(max=_BINS - 1).flatten()
    sums, found = (torch.zeros(_BINS).index_add_(0, number, x.flatten()) for x in (power, flat))
    there = (found > 0) & (sums > 0)
    middles = (torch.arange(_BINS) + 0.5)[there].numpy()
    smooth = np.interp(place.numpy() + 0.0, middles, (sums[there] / found[there]).log().numpy())
    result = torch.from_numpy(np.exp(smooth - smooth.max())).float()
    result[0, 0] = 0.0
    return result


def _domain_of(wave: Tensor) -> tuple[int, int]:
    """Return the sides of the domain whose wave numbers these are; the second is even."""
    return wave.shape[0], 2 * (wave.shape[1] - 1)


def fast(size: int) -> int:
    """Return the next even number without prime factors above 5, of which a Fourier transform is fast."""
    while True:
        size += size % 2
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1
