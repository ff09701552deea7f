"""The probability-matched forecast: the pattern of the mean forecast, with the distribution of what was observed.

A forecast of least squared error fades where it is uncertain: peaks are too low, and light rain covers too much. Its
order is still the best that there is: which pixels have more, and which less. `matched` keeps this order, and takes the
values from the last observed frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sa_nowcast.forecasts.job import taken
from sa_nowcast.forecasts.method import AS_ASKED, Statuses, Values
from sa_nowcast.forecasts.of_nowcaster import OfNowcaster
from sa_nowcast.frames import Frames
from sa_nowcast.windows import Positions

Sorted = npt.NDArray[np.float64]

COMMENT: Final = "probability-matched: the pattern of the mean forecast, the distribution of the observed values"
BOUNDED: Final = 0.01
"""Share of values at the minimum from which on it stands for nothing there, such as no rain."""
DAMPING: Final = 0.9
"""Of a trend, per step."""
STEEPEST: Final = 0.1
"""The largest trend that is believed, of a logarithm per step."""
ALIKE: Final = 0.3
"""The least correlation of frames for a shift between them to be taken for a motion."""
FARTHEST: Final = 0.5
"""Share of a side by which a pattern may have moved: what is left must be enough to know a distribution by."""


@dataclass(frozen=True, eq=False)
class Matched(OfNowcaster):
    """The `Method` whose forecasts are those of a nowcaster, probability-matched; see `matched`.

    Each is of its own history alone, after tiles were blended: batches and tiles do not show.
    """

    @property
    def identity(self) -> str:
        """What tells it from others, the same model's mean forecast among them."""
        return f"{self.nowcaster.identity}, matched"

    def attributes(self, frames: Frames, positions: Positions, steps: int) -> dict[str, Any]:
        """Return the attributes that say which model and product a forecast is by."""
        told = frames.arrays[0].attrs.get("comment") if len(frames.arrays) == 1 else None
        return {
            **self.nowcaster.attributes(frames, positions, steps),
            "sa_nowcast_product": "matched",
            "comment": "; ".join([*([str(told)] if told else []), COMMENT]),
        }

    def block(
        self, frames: Frames, positions: Positions, steps: int, device: str, tile: int = 0
    ) -> tuple[Values, Statuses]:
        """Forecast as the nowcaster does, and give each forecast the distribution that its history lets expect."""
        if frames.loaded is None:  # read once for both
            frames, positions = taken(frames, positions, self.history)
            frames = frames.load()
        values, status = self.nowcaster.block(frames, positions, steps, device, tile)
        # (init time, lead time, channel, y, x), and the same memory.
        if frames.channel_dim is None:
            view = values[:, :, None]
        else:
            view = values.swapaxes(1, 2) if len(frames.arrays) > 1 else values
        for i, position in enumerate(positions):
            if status[i] == AS_ASKED:
                history = frames.read(int(position) + 1 - self.history, int(position) + 1)
                view[i] = matched(view[i], frames.field(history))
        return values, status


def matched(mean: Values, history: Values) -> Values:
    """Return the mean forecast with the distribution of values that is expected at each lead time.

    Parameters
    ----------
    mean : ndarray, shape (lead time, channel, y, x)
        A forecast of least squared error.
    history : ndarray, shape (time, channel, y, x)
        What was observed up to the init time, at the step of the forecast and in its units; NaN where missing.

    Returns
    -------
    ndarray, shape (lead time, channel, y, x)
        float32; NaN where `mean` is. Each value is a function, which never falls, of the value of `mean` at the same
        lead time: the order of the pixels stays, and equal ones stay equal.

    Notes
    -----
    Probability matching is by Ebert (2001), doi:10.1175/1520-0493(2001)129<2461:AOAPMT>2.0.CO;2. The distribution is
    that of the last frame, of those pixels alone that are still in the domain at the lead time by the motion of the
    whole pattern (Germann and Zawadzki 2002, doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2). What comes in from
    beyond the edge gets its values by the same function.

    Where many values are at the minimum (no rain), the rest goes on growing or decaying with lead time as it did over
    the history, ever less: its area, and its mean above the minimum. Other fields are as far from their mean as they
    were, and take the mean of the forecast.
    """
    parts = [_matched(mean[:, i], history[:, i]) for i in range(mean.shape[1])]
    return np.stack(parts, 1)


def _matched(mean: Values, frames: Values) -> Values:
    """Return the same for one channel: (lead time, y, x) and (time, y, x)."""
    last = frames[-1]
    if not np.isfinite(last).any():
        return mean
    motion = _motion(frames)
    trend = _trend(frames, motion)
    least, most = float(np.nanmin(frames)), float(np.nanmax(frames))
    result = mean.copy()
    for lead, forecast in enumerate(mean, 1):
        here, there = _overlap(last.shape, motion * lead)
        arrived = np.full_like(last, np.nan)
        arrived[there] = last[here]
        known = np.isfinite(arrived) & np.isfinite(forecast)
        if known.any():
            values = np.sort(arrived[known]).astype(np.float64)
            values = _expected(values, trend, lead, float(forecast[known].mean(dtype=np.float64)))
            # Within whatever bounds the observed values and the mean forecast are.
            values = values.clip(min(least, float(np.nanmin(forecast))), max(most, float(np.nanmax(forecast))))
            result[lead - 1] = _ranked(forecast, known, values)
    return result


def _motion(frames: Values) -> Sorted:
    """Return the rows and columns that the whole pattern moves in one step, by the correlation of successive frames."""
    frames = frames[[bool(np.isfinite(f).any()) for f in frames]]
    height, width = frames.shape[1:]
    if len(frames) < 2:
        return np.zeros(2)
    deviation = np.stack([np.nan_to_num(f - np.nanmean(f, dtype=np.float64), nan=0.0) for f in frames])
    waves = np.fft.rfft2(deviation)
    correlation = np.fft.irfft2((waves[1:] * waves[:-1].conj()).sum(0), s=(height, width))
    row, column = (int(i) for i in np.unravel_index(int(np.argmax(correlation)), correlation.shape))
    energy = float(np.sqrt(np.square(deviation[1:]).sum() * np.square(deviation[:-1]).sum()))
    if correlation[row, column] <= ALIKE * energy:
        return np.zeros(2)
    return np.array(
        [
            _peak(correlation[:, column], row),
            _peak(correlation[row], column),
        ]
    )


def _peak(line: Sorted, place: int) -> float:
    """Return the shift at which a periodic correlation is largest, between whole pixels by a parabola."""
    before, here, after = (float(line[(place + i) % line.size]) for i in (-1, 0, 1))
    bend = before - 2 * here + after
    fine = 0.5 * (before - after) / bend if bend < -1e-9 * here else 0.0  # a flat top has no middle
    return (place + fine + line.size / 2) % line.size - line.size / 2


def _overlap(shape: tuple[int, ...], shift: Sorted) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return where what stays in the domain comes from, and where it arrives."""
    here, there = [], []
    for size, moved in zip(shape, shift, strict=True):
        most = int(size * FARTHEST)
        by = min(max(round(float(moved)), -most), most)
        here.append(slice(max(-by, 0), size - max(by, 0)))
        there.append(slice(max(by, 0), size - max(-by, 0)))
    return (here[0], here[1]), (there[0], there[1])


def _trend(frames: Values, motion: Sorted) -> tuple[float, float, float] | None:
    """Return the minimum, and of what is above it the change of area and intensity: of their logarithms, per step.

    None where few values are at the minimum: then it is like any other.
    """
    low = float(np.nanmin(frames))
    last = frames[-1][np.isfinite(frames[-1])]
    if (last == low).mean() < BOUNDED:
        return None
    weight, changes = 0.0, np.zeros(2)
    for lag in range(1, len(frames)):
        here, there = _overlap(frames.shape[1:], motion * lag)
        before, after = frames[-1 - lag][here], frames[-1][there]
        seen = np.isfinite(before) & np.isfinite(after)
        (n0, sum0), (n1, sum1) = (
            (int((v > 0).sum()), float(v.sum())) for v in (a[seen].astype(np.float64) - low for a in (before, after))
        )
        if not n0 or not n1:
            continue
        grown = float(np.log(n1 / n0))
        changes += lag * np.array([grown, float(np.log(sum1 / sum0)) - grown])
        weight += lag**2
    area, intensity = np.clip(changes / max(weight, 1.0), -STEEPEST, STEEPEST)
    return low, float(area), float(intensity)


def _expected(values: Sorted, trend: tuple[float, float, float] | None, steps: int, mean: float) -> Sorted:
    """Return the ascending values that are expected after some steps for those that were observed."""
    if trend is None:
        shifted: Sorted = values + (mean - values.mean())
        return shifted
    low, area, intensity = trend
    damped = sum(DAMPING**k for k in range(1, steps + 1))
    above = values[values > low]
    count = min(round(above.size * float(np.exp(damped * area))), values.size)
    result = np.full(values.size, low)
    if count:
        at = (np.arange(count) + 0.5) * (above.size / count) - 0.5
        stretched = np.interp(at, np.arange(above.size), above) - low
        result[values.size - count :] += stretched * float(np.exp(damped * intensity))
    return result


def _ranked(forecast: Values, known: npt.NDArray[np.bool_], values: Sorted) -> Values:
    """Return `values`, one for each known pixel, in the order of the forecast; equal pixels get the middle one."""
    finite = np.isfinite(forecast)
    flat = forecast[finite]
    order = np.argsort(flat, kind="stable")
    ascending = flat[order]
    first = np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]]))
    count = np.concatenate([[0], np.cumsum(known[finite][order])])
    below, through = count[first], count[np.append(first[1:], flat.size)]
    # Where no known pixel is equal, the next lower one counts.
    place = np.where(through > below, (below + through - 1) // 2, np.maximum(below - 1, 0))
    ranked = np.empty(flat.size, dtype=np.float32)
    ranked[order] = np.repeat(values[place], np.diff(np.append(first, flat.size)))
    result = np.full(forecast.shape, np.nan, dtype=np.float32)
    result[finite] = ranked
    return result
