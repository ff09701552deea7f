"""`SyntheticFields`: sequences of many kinds, made by number, for a model that is to work on data of any kind.

Random fields with sharp and smooth spectra, patchy as rain or dense as temperature, that are carried, turned, sheared
and deformed while they grow and decay; real fields, as they went on or carried likewise; objects before a background;
grids of counts with a daily course; climates with a season; noise; and places without values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sa_nowcast.errors import RecipeError
from sa_nowcast.windows import require_whole

Array = npt.NDArray[np.float32]

KINDS: Final[dict[str, float]] = {
    "rain": 0.18,
    "dense": 0.18,
    "real": 0.20,
    "carried": 0.12,
    "objects": 0.09,
    "counts": 0.10,
    "climate": 0.10,
    "noise": 0.03,
}
"""Kinds of sequences, and the share that each has. Without real fields, ``real`` and ``carried`` become ``rain``."""

_MISSING = 0.06  # of all sequences have places without values
_DOMAIN = 2  # times the size: the periodic domain on which fields evolve
_PER_SHIFT = 8  # pixels, of the coarser grid on which parts of a pattern leave its flow
_FLOOR = 0.004  # of the variance, so that a sequence that hardly changes does not count without bounds


@dataclass(frozen=True)
class RealField:
    """A real sequence that synthetic ones are cut from.

    Attributes
    ----------
    values : ndarray of float32, shape (T, H, W)
        Without missing values, regularly stepped.
    rain : bool
        Whether it is zero where there is nothing; then it is also taken as a logarithm or a root.
    """

    values: Array
    rain: bool = False


class SyntheticFields:
    """An endless source of synthetic fields: sequence k of (T, H, W) maps is a function of (seed, k) alone.

    Parameters
    ----------
    size : int
        Rows and columns, in pixels.
    history, steps : int
        Frames before and after the init time.
    seed : int
    real : sequence of RealField
        Real sequences to cut from; they must be longer than ``history + steps`` frames.
    """

    run = 1  # sequences that are best made together

    def __init__(
        self, size: int = 128, history: int = 4, steps: int = 12, *, seed: int = 0, real: Sequence[RealField] = ()
    ) -> None:
        require_whole(32, size=size)
        require_whole(2, history=history)
        require_whole(steps=steps)
        self.size, self.history, self.length, self.seed = size, history, history + steps, seed
        self.shape, self.real = (size, size), tuple(real)
        for number, field in enumerate(self.real):
            whole = bool(np.isfinite(field.values).all())
            if len(field.values) < self.length or not whole:
                raise RecipeError(
                    f"real field {number}",
                    f"{len(field.values)} frames" + ("" if whole else ", with missing values"),
                    expected=f"at least {self.length} frames, all values there",
                )

    def kind(self, number: int) -> str:
        """Return which kind a sequence is of."""
        drawn = np.random.default_rng((self.seed, number)).random()
        kind = list(KINDS)[int(np.searchsorted(np.cumsum(list(KINDS.values()))[:-1], drawn, side="right"))]
        return "rain" if kind in ("real", "carried") and not self.real else kind

    def describe(self, number: int) -> str:
        """Return which sequence a number is, as errors print it."""
        return f"synthetic fields, seed {self.seed}, sequence {number} ({self.kind(number)})"

    def batch(self, start: int, count: int) -> Array:
        """Return sequences ``start`` to ``start + count``, (count, T, H, W)."""
        return np.stack([self[number] for number in range(start, start + count)])

    def __getitem__(self, number: int) -> Array:
        """Return sequence `number`, (T, H, W): about 0 in its history's mean, about 1 in how much it changes.

        NaN where values are missing. The scale is such that persistence's squared error is about 1: so all sequences
        count alike in a mean of squared errors, whatever their units.
        """
        rng = np.random.default_rng((self.seed, number))
        rng.random()  # the kind
        made: Callable[[np.random.Generator], Tensor] = getattr(self, f"_{self.kind(number)}")
        x = _turned(made(rng), rng).numpy().astype(np.float64)
        known, later, last = x[: self.history], x[self.history :], x[self.history - 1]
        change = 0.5 * np.square(known[:-1] - last).mean() + 0.5 * np.square(later - last).mean()
        scale = math.sqrt(change + _FLOOR * known.var()) or 1.0
        x = (x - known.mean()) / scale
        if rng.random() < _MISSING:
            x[:, _without_values(rng, self.size)] = np.nan
        result: Array = np.ascontiguousarray(x, dtype=np.float32)
        return result

    # What follows makes one sequence of a kind.

    def _rain(self, rng: np.random.Generator) -> Tensor:
        wet = rng.uniform(0.04, 0.6)
        field = self._carried_spectrum(rng, slope=rng.uniform(1.2, 3.2))
        return _patchy(field, wet, rng)

    def _dense(self, rng: np.random.Generator) -> Tensor:
        x = self._carried_spectrum(rng, slope=rng.uniform(2.2, 4.2))
        if rng.random() < 0.4:  # clouds before land, a front before a coast
            behind = _spectrum(rng, self.size, rng.uniform(2, 4))
            share = rng.uniform(0.3, 2)
            x = torch.maximum(x, behind * share) if rng.random() < 0.5 else x + share * behind
        if rng.random() < 0.5:
            time = torch.arange(self.length) / rng.uniform(14, 80)
            course = torch.sin(2 * math.pi * (time + rng.random()))
            where = _spectrum(rng, self.size, 3.5) if rng.random() < 0.5 else self._scene(rng)  # land, and sea
            x = x + rng.uniform(0.2, 3) * course[:, None, None] * (1 + where)
        if rng.random() < 0.3:
            x = x + rng.uniform(0.02, 0.3) * torch.from_numpy(rng.standard_normal(x.shape)).float()
        return x

    def _real(self, rng: np.random.Generator) -> Tensor:
        field = self._any_real(rng)
        most = (len(field.values) - 1) // (self.length - 1)
        stride = int(rng.integers(1, min(most, 4) + 1))
        first = int(rng.integers(0, len(field.values) - (self.length - 1) * stride))
        frames = field.values[first : first + (self.length - 1) * stride + 1 : stride]
        x = self._cut(torch.from_numpy(frames), field, rng)
        if rng.random() < 0.25:
            x = x.flip(0)
        return x

    def _carried(self, rng: np.random.Generator) -> Tensor:
        field = self._any_real(rng)
        frame = field.values[int(rng.integers(len(field.values)))]
        wide = _DOMAIN * self.size
        x = self._cut(torch.from_numpy(frame)[None], field, rng, size=wide)[0]
        if field.rain and rng.random() < 0.7:
            growth = self._evolving(rng, slope=rng.uniform(1.5, 3))
            x = x[None] * torch.exp(rng.uniform(0.2, 1.2) * growth)
        else:
            x = x[None].expand(self.length, wide, wide)
        return self._moved(x, rng)

    def _any_real(self, rng: np.random.Generator) -> RealField:
        """Return one of the real sequences; a larger one has more to show."""
        share = np.sqrt([field.values.size for field in self.real])
        return self.real[int(rng.choice(len(self.real), p=share / share.sum()))]

    def _objects(self, rng: np.random.Generator) -> Tensor:
        size, T = self.size, self.length
        rows = torch.arange(size, dtype=torch.float32)
        x = torch.zeros(T, size, size)
        if rng.random() < 0.8:
            x = x + rng.uniform(0.1, 3) * self._scene(rng)
        for _ in range(int(rng.integers(1, 14))):
            height, width = rng.uniform(2, size / 7, 2)
            at, speed = rng.uniform(0, size, 2), rng.normal(0, rng.uniform(0.2, 5), 2)
            bright, sharp = rng.normal(0, 1.5), rng.uniform(0.5, 4)
            for t in range(T):
                a, b = (_reflected(at[i] + speed[i] * t, size) for i in (0, 1))
                cover = torch.sigmoid(sharp * (height - (rows - a).abs()))[:, None] * torch.sigmoid(
                    sharp * (width - (rows - b).abs())
                )
                x[t] = x[t] + (bright - x[t]) * cover
        if rng.random() < 0.6:
            x = x + rng.uniform(0.01, 0.15) * torch.from_numpy(rng.standard_normal(x.shape)).float()
        return x

    def _scene(self, rng: np.random.Generator) -> Tensor:
        """Return a still background (size, size): rough or smooth, with or without edges."""
        scene = _spectrum(rng, self.size, rng.uniform(0.6, 3))
        if rng.random() < 0.6:
            levels = rng.uniform(0.4, 2)
            edges = (_spectrum(rng, self.size, rng.uniform(2, 3.5)) * levels).round()
            scene = edges + rng.uniform(0, 0.7) * scene
        return scene

    def _counts(self, rng: np.random.Generator) -> Tensor:
        repeat = int(rng.choice([4, 5, 8]))
        n = -(-self.size // repeat)
        base = np.exp(rng.normal(rng.uniform(0, 4), rng.uniform(0.5, 1.5), (n, n)))
        if rng.random() < 0.7:
            base = base * np.exp(rng.uniform(0.3, 1.2) * _spectrum(rng, n, 3.0).numpy())
        day, start = rng.choice([24, 48]), rng.random()
        phase = start + np.arange(self.length) / day
        waves = [(h, rng.uniform(0, 1.2) / h, rng.random()) for h in (1, 2, 3)]
        own = 0.15 * rng.standard_normal((n, n))
        course = sum(
            a * np.sin(2 * np.pi * (h * (phase[:, None, None] + 0.1 * own) + p)) * (1 + own) for h, a, p in waves
        )
        shock = np.exp(rng.uniform(0, 0.15) * np.cumsum(rng.standard_normal(self.length)))[:, None, None]
        rate = base * np.exp(course) * shock
        x = rng.poisson(np.clip(rate, 0, 1e6)) if rng.random() < 0.8 else rate
        maps = torch.from_numpy(np.asarray(x, np.float32))
        wide: Tensor = maps.repeat_interleave(repeat, 1).repeat_interleave(repeat, 2)
        return wide[:, : self.size, : self.size]

    def _climate(self, rng: np.random.Generator) -> Tensor:
        size, T = self.size, self.length
        mean = _spectrum(rng, size, rng.uniform(3, 4.5)) * rng.uniform(0.5, 4)
        season = _spectrum(rng, size, rng.uniform(3, 4.5)) * rng.uniform(0, 2)
        phase = 2 * math.pi * (torch.arange(T) / float(rng.choice([12, 12, 24, 48])) + rng.random())
        x = mean + season * torch.sin(phase)[:, None, None]
        keeps, slope = rng.uniform(0, 0.7), rng.uniform(2.5, 4)
        anomaly = _spectrum(rng, size, slope)
        for t in range(T):
            anomaly = keeps * anomaly + math.sqrt(1 - keeps**2) * _spectrum(rng, size, slope)
            x[t] = x[t] + anomaly
        return x

    def _noise(self, rng: np.random.Generator) -> Tensor:
        T, size = self.length, self.size
        if rng.random() < 0.5:
            x = torch.from_numpy(rng.standard_normal((T, size, size))).float()
        else:
            slope = rng.uniform(0.5, 3)
            x = torch.stack([_spectrum(rng, size, slope) for _ in range(T)])
        if rng.random() < 0.4:
            x = (x - rng.uniform(0, 1.5)).clamp(min=0)
        if rng.random() < 0.4:
            x = x + rng.uniform(0.2, 3) * _spectrum(rng, size, 3)
        return x

    def _carried_spectrum(self, rng: np.random.Generator, slope: float) -> Tensor:
        return self._moved(self._evolving(rng, slope), rng)

    def _evolving(self, rng: np.random.Generator, slope: float) -> Tensor:
        """Return a periodic field that changes in place, small scales sooner than large ones; (T, n, n)."""
        n, T = _DOMAIN * self.size, self.length
        wave = _wave_numbers(n)
        # How long a pattern lives grows with its size: as the Lagrangian persistence of rain (Germann et al. 2006,
        # doi:10.1175/JAS3735.1).
        of_ten = math.exp(rng.uniform(math.log(0.8), math.log(50)))  # steps, of a pattern of 10 pixels
        life = of_ten * (10 * wave).clamp(min=0.05) ** -rng.uniform(0.5, 1.5)
        keeps = torch.exp(-1 / life)
        amplitude = _amplitude(wave, slope, rng)
        field = _white(rng, n)
        frames = []
        for _ in range(T):
            frames.append(field)
            field = keeps * field + (1 - keeps.square()).sqrt() * _white(rng, n)
        x: Tensor = torch.fft.irfft2(torch.stack(frames) * amplitude, s=(n, n))
        x = x / x.std().clamp(min=1e-9)
        if rng.random() < 0.5:  # growth here, decay there
            drift = _spectrum(rng, n, 4.0) if rng.random() < 0.7 else torch.full((n, n), float(rng.normal()))
            x = x + rng.uniform(0.02, 0.15) * _wandering(T, rng)[:, None, None] * drift
        return x

    def _moved(self, x_Tnn: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the middle of a periodic domain whose field is carried by a steady flow; (T, size, size)."""
        T, n = x_Tnn.shape[0], x_Tnn.shape[-1]
        speed = abs(rng.normal(0, 1)) * rng.choice([0.0, 0.6, 2.0, 5.0], p=[0.1, 0.3, 0.4, 0.2])
        towards = rng.uniform(0, 2 * math.pi)
        velocity = torch.tensor([speed * math.sin(towards), speed * math.cos(towards)], dtype=torch.float32)
        gradient = torch.zeros(2, 2)
        if rng.random() < 0.6:  # rotation, shear, stretching and squeezing, up to some pixels per step at the edge
            gradient = torch.from_numpy(rng.normal(0, rng.uniform(0, 3) / self.size, (2, 2))).float()
        middle = rng.uniform(0, self.size, 2)
        # No motion lasts: how it goes on changing is what an extrapolation cannot know.
        change = speed * rng.choice([0.0, 0.03, 0.08]) * torch.stack([_wandering(T, rng) for _ in range(2)], 1)
        wobble = torch.stack([_spectrum(rng, self.size, 4.5) for _ in range(2)]) * rng.choice([0.0, 0.15, 0.5])
        line = torch.arange(self.size, dtype=torch.float32)
        start = torch.stack(torch.meshgrid(line, line, indexing="ij"))
        centre = torch.tensor(middle, dtype=torch.float32)[:, None, None]
        shifts = _turbulence(T, n, rng)
        frames = []
        at = start
        for t in range(T):
            frames.append(_bicubic(x_Tnn[t], at if shifts is None else at + _shift(shifts[t], at, n)))
            # Backwards along the flow, which is linear around the middle but for the wobble.
            flow = velocity[:, None, None] + torch.einsum("ij,jhw->ihw", gradient, at - centre) + wobble
            half = at - 0.5 * flow
            at = at - (velocity[:, None, None] + torch.einsum("ij,jhw->ihw", gradient, half - centre) + wobble)
            at = at - change[t][:, None, None]
            at = at.remainder(n * 4)
        return torch.stack(frames)

    def _cut(self, frames: Tensor, field: RealField, rng: np.random.Generator, size: int | None = None) -> Tensor:
        """Return a square of real frames at some scale, in some transform."""
        size = size or self.size
        cells = int(rng.choice([c for c in (1, 2, 4, 6) if c * size <= min(frames.shape[-2:])] or [1]))
        frames = _square(frames, cells * size, rng)
        if cells > 1:
            frames = F.avg_pool2d(frames[None], cells)[0]
        elif min(frames.shape[-2:]) < size:  # a coarse grid
            factor = size / min(frames.shape[-2:])
            wanted = [math.ceil(s * factor) for s in frames.shape[-2:]]
            frames = F.interpolate(frames[None], size=wanted, mode="bicubic", align_corners=False)[0]
            frames = _square(frames, size, rng)
        if field.rain:
            change = rng.random()
            if change < 0.25:
                frames = torch.log1p(frames.clamp(min=0) * 10)
            elif change < 0.4:
                frames = frames.clamp(min=0).sqrt()
        return frames


def _square(frames: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Return a square of frames from anywhere, or what there is of it."""
    row, column = (int(rng.integers(0, max(s - size, 0) + 1)) for s in frames.shape[-2:])
    return frames[:, row : row + size, column : column + size]


def _wave_numbers(n: int) -> Tensor:
    """Return the wave numbers of a real transform of n x n pixels, in cycles per pixel."""
    return torch.hypot(torch.fft.fftfreq(n)[:, None], torch.fft.rfftfreq(n)[None])


def _amplitude(wave: Tensor, slope: float, rng: np.random.Generator) -> Tensor:
    """Return a spectrum that falls with `slope` beyond its largest scale."""
    largest = 1 / rng.uniform(15, 120)
    amplitude = (wave.square() + largest**2) ** (-slope / 2)
    amplitude[0, 0] = 0
    if rng.random() < 0.3:
        amplitude = amplitude * torch.exp(-0.5 * (wave * 2 * math.pi * rng.uniform(0.5, 2)).square())
    return amplitude


def _white(rng: np.random.Generator, n: int) -> Tensor:
    values = rng.standard_normal((2, n, n // 2 + 1), dtype=np.float32)
    return torch.complex(torch.from_numpy(values[0]), torch.from_numpy(values[1]))


def _spectrum(rng: np.random.Generator, n: int, slope: float) -> Tensor:
    """Return a random field of unit variance."""
    x: Tensor = torch.fft.irfft2(_white(rng, n) * _amplitude(_wave_numbers(n), slope, rng), s=(n, n))
    return x / x.std().clamp(min=1e-9)


def _patchy(x: Tensor, wet: float, rng: np.random.Generator) -> Tensor:
    """Return a field as rain has it: nothing below a level, a heavy tail above it."""
    level = torch.quantile(x[:1].flatten(), 1 - wet)
    above = (x - level).clamp(min=0) / x.std()
    tail = rng.uniform(0, 1.6)
    rain = torch.expm1(tail * above) / max(tail, 0.1) if tail > 0.2 else above
    rain = rain.clamp(max=float(rng.uniform(20, 60)))
    if rng.random() < 0.3:  # as images with few colours, or counts of tips
        step = float(rng.uniform(0.02, 0.3))
        rain = (rain / step).round() * step
    return rain


def _bicubic(x: Tensor, at: Tensor) -> Tensor:
    """Return a periodic map at fractional rows and columns (2, H, W)."""
    n, margin = x.shape[-1], 3
    padded = F.pad(x[None, None], (margin,) * 4, mode="circular")
    grid = 2 * (at.remainder(n) + margin) / (n + 2 * margin - 1) - 1
    return F.grid_sample(padded, grid.flip(0).permute(1, 2, 0)[None], mode="bicubic", align_corners=True)[0, 0]


def _wandering(count: int, rng: np.random.Generator) -> Tensor:
    """Return what grows or falls for a while, and then otherwise: at first by about 1 a step, (count,)."""
    keeps, rate, total = rng.uniform(0.7, 0.98), rng.standard_normal(), 0.0
    result = []
    for _ in range(count):
        result.append(total)
        total += rate
        rate = keeps * rate + math.sqrt(1 - keeps**2) * rng.standard_normal()
    return torch.tensor(result, dtype=torch.float32)


def _turbulence(count: int, n: int, rng: np.random.Generator) -> Tensor | None:
    """Return how far parts of a pattern leave its flow, (count, 2, m, m) in pixels, on a periodic domain of n pixels.

    Random walks in Lagrangian coordinates, as of cells in convective rain: no flow foretells them, so fine scales last
    less and less long. None for a third of all sequences.
    """
    if rng.random() < 1 / 3:
        return None
    m, speed, keeps = n // _PER_SHIFT, math.exp(rng.uniform(math.log(0.05), math.log(1.2))), rng.uniform(0, 0.95)
    amplitude = (_wave_numbers(m).square() + (_PER_SHIFT / rng.uniform(16, 80)) ** 2) ** -1.5
    amplitude[0, 0] = 0

    def velocity() -> Tensor:
        x = torch.stack([torch.fft.irfft2(_white(rng, m) * amplitude, s=(m, m)) for _ in range(2)])
        return speed * x / x.std().clamp(min=1e-9)

    now, total, result = velocity(), torch.zeros(2, m, m), []
    for _ in range(count):
        result.append(total)
        total = total + now
        now = keeps * now + math.sqrt(1 - keeps**2) * velocity()
    return torch.stack(result)


def _shift(x: Tensor, at: Tensor, n: int) -> Tensor:
    """Return displacements (2, m, m) of a periodic domain of n pixels at rows and columns, (2, H, W)."""
    m, margin = x.shape[-1], 2
    padded = F.pad(x[None], (margin,) * 4, mode="circular")
    grid = 2 * (at.remainder(n) / _PER_SHIFT + margin) / (m + 2 * margin - 1) - 1
    return F.grid_sample(padded, grid.flip(0).permute(1, 2, 0)[None], mode="bilinear", align_corners=True)[0]


def _turned(x: Tensor, rng: np.random.Generator) -> Tensor:
    for dim in (1, 2):
        if rng.random() < 0.5:
            x = x.flip(dim)
    return x.transpose(1, 2) if rng.random() < 0.5 else x


def _reflected(place: float, size: int) -> float:
    place = place % (2 * size)
    return min(place, 2 * size - place)


def _without_values(rng: np.random.Generator, size: int) -> npt.NDArray[np.bool_]:
    rows, columns = np.ogrid[:size, :size]
    missing = np.zeros((size, size), bool)
    if rng.random() < 0.5:  # beyond a radar's range
        a, b = rng.uniform(0, size, 2)
        return np.asarray((rows - a) ** 2 + (columns - b) ** 2 > (size * rng.uniform(0.5, 0.9)) ** 2)
    for _ in range(int(rng.integers(1, 4))):
        a, b, radius = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(2, size / 5)
        missing |= (rows - a) ** 2 + (columns - b) ** 2 < radius**2
    return missing
