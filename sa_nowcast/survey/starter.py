"""A first recipe for a file: what its frames are decides the fields, and comments say why."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.frames import Frames
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.thresholds import is_rain_rate
from sa_nowcast.scaling import are_counts, bounds_of
from sa_nowcast.sources.chain import SEQUENCE
from sa_nowcast.times import show_step, tolerance
from sa_nowcast.windows import split_in_time, window_starts

# From the most wanted down; each has to leave enough windows in every period.
# The model that training starts from was trained on histories of four frames, and needs two.
_WINDOWS: Final = ((4, 12), (4, 8), (4, 6), (4, 4), (3, 3), (2, 2), (2, 1), (1, 1))
_LEAST_HISTORY: Final = 2
_SHARES: Final = ((0.15, 0.2), (0.2, 0.25), (0.25, 0.3), (0.3, 0.3))
_MANY, _SOME = 24, 4
_MOST_CHANNELS: Final = 4
_SAMPLED: Final = 16
_CROP: Final = 128
_RARE: Final = 1e-3
_CYCLES: Final = 14  # days from which on a climatology is asked for
_RAIN_RATES: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True)
class Look:
    """What was seen of the data, and what follows from it for a recipe.

    Attributes
    ----------
    variables : tuple of str or None
        Those that are taken, where not all gridded ones are.
    gaps : bool
        Whether times or whole frames are missing.
    low, high : float
        Of a sample of frames.
    counts : bool
        Whether all channels are counts: whole numbers from 0 up, without units or with those of a number.
    climatology : bool
        Whether they are counts of two weeks or more, which have a daily cycle that a forecast has to beat.
    """

    frames: Frames
    variables: tuple[str, ...] | None
    left_out: tuple[str, ...]
    gaps: bool
    history: int
    steps: int
    validation: float
    test: float
    guard: int | None
    thresholds: tuple[float, ...] = field(default=())
    low: float = 0.0
    high: float = 0.0
    counts: bool = False
    climatology: bool = False


def look(
    ds: xr.Dataset,
    *,
    variables: Sequence[str] | None = None,
    history: int | None = None,
    steps: int | None = None,
    told: dims.DimNames = dims.UNNAMED,
) -> Look:
    """Look at frames, and choose what a recipe for them says; a few frames are read.

    Parameters
    ----------
    variables : sequence of str, optional
        By default all gridded ones that can be channels together, at most four.
    history, steps : int, optional
        In place of what the number of frames and the step would suggest.
    told : DimNames
        Dimensions, where attributes and common names do not tell.

    Raises
    ------
    DataError
        Frames that cannot be trained on; the message says why.
    """
    chosen, left_out = _variables(ds, told) if variables is None else (tuple(variables), ())
    taken = chosen if left_out or variables is not None else None
    frames, gaps = _frames(ds, taken, told)
    values = _sample(frames)
    if not np.isfinite(values).any():
        found = "no valid value in a sample of frames"
        raise DataError(frames.name, found, expected="some", fix="name data with values")
    gaps = gaps or not np.isfinite(values).any(axis=(1, 2, 3)).all()
    past, ahead, shares, guard = _window(frames, history, steps)
    valid = values[np.isfinite(values)]
    for each in frames.channels:
        bounds_of(each)  # what training would refuse
    counts = all(c.counts for c in frames.channels) and are_counts(valid)
    return Look(
        frames=frames,
        variables=taken,
        left_out=left_out,
        gaps=gaps,
        history=past,
        steps=ahead,
        validation=shares[0],
        test=shares[1],
        guard=guard,
        thresholds=_thresholds(frames, valid),
        low=float(valid.min()),
        high=float(valid.max()),
        counts=counts,
        climatology=counts and _has_cycle(frames, shares),
    )


def starter_recipe(
    ds: xr.Dataset,
    source: str,
    *,
    engine: str | None = None,
    options: Mapping[str, Any] | None = None,
    variables: Sequence[str] | None = None,
    history: int | None = None,
    steps: int | None = None,
    name: str | None = None,
    told: dims.DimNames = dims.UNNAMED,
) -> str:
    """Return a commented recipe for `ds`, which `source` was opened as; it runs as it is.

    Parameters
    ----------
    source, engine, options
        What it was opened from, as the recipe will say.
    variables, history, steps, told
        As for `look`; the recipe says what was given.
    name : str, optional
        By default made from the file's name.
    """
    seen = look(ds, variables=variables, history=history, steps=steps, told=told)
    frames = seen.frames
    called = name or recipe_name(source)
    step, grid = show_step(frames.step), frames.grid
    channels = ", ".join(f"{c.name} [{c.units}]" if c.units else f"{c.name} (no units)" for c in frames.channels)
    ahead = show_step(seen.steps * frames.step)
    parts = [
        f"# A first recipe for {source}: sa-nowcast run {called}.yaml",
        f"# Seen: {channels}; {len(frames)} frames every {step}, {frames.label(0)} to {frames.label(len(frames) - 1)};",
        f"# {grid.height} x {grid.width} pixels, {grid.spacing()}; a sample holds {seen.low:.4g} to {seen.high:.4g}.",
        "# Every field is a starting point. docs/reference/recipe.md lists all of them, with their units.",
        f"name: {_text(called)}",
        f"history: {seen.history} # frames that a forecast starts from, {step} apart",
        f"steps: {seen.steps} # frames that are forecast: up to {ahead} ahead",
        "data:",
        f"  source: {_text(source)} # relative paths start at the working directory",
    ]
    if engine is not None:
        parts.append(f"  engine: {_text(engine)}")
    if options:
        parts.append(f"  options: {json.dumps(dict(options))}")
    parts += [f"  {role}: {_text(str(dim))} # dimension" for role, dim in told._asdict().items() if dim is not None]
    if seen.variables is not None:
        parts.append(f"  variables: {json.dumps(list(seen.variables))} # channels, forecast together")
    if seen.left_out:
        parts.append(f"  # left out: {', '.join(seen.left_out)}; what is put in is forecast too")
    if seen.gaps:
        stretches = [b - a for a, b in frames.segments]
        parts.append(
            f"  gaps: skip # {len(stretches)} stretches without a gap, the longest of {max(stretches)} frames; windows "
            "do not cross gaps, and frames without any value are left out"
        )
    if seen.counts:
        parts.append("  valid_min: 0 # whole numbers from 0 up are taken for counts: no forecast is below")
    parts += [
        "split: # in time order: train, validate, test; scores come from times that were not trained on",
        f"  validation: {seen.validation} # share of the frames; chooses the best weights",
        f"  test: {seen.test} # share of the frames, the latest ones; forecast and scored",
    ]
    if seen.guard is not None:
        parts.append(f"  guard: {seen.guard} # unused frames between periods; one history would leave too few")
    if seen.history < _LEAST_HISTORY:
        parts += [
            "network:",
            "  preset: small # trained from random weights: one frame shows the default model no motion",
        ]
    else:
        parts.append(
            "start: default # training starts from the model that ships, and ends with what is best in validation; a "
            "block network: in its place is trained from random weights"
        )
    parts += [
        "training:",
        "  max_steps: 400 # updates: minutes without a GPU; a run can be resumed",
        "  batch_size: 4",
        f"  crop: {_CROP} # rows and columns of random parts of the grid, where it is larger",
        "  seed: 0",
        "verification:",
    ]
    if seen.thresholds:
        units = frames.channels[0].units
        parts += [
            "  metrics: [mse, csi] # csi: hits / (hits + misses + false alarms) at each threshold",
            f"  thresholds: [{', '.join(f'{t:g}' for t in seen.thresholds)}] # {units}; each seen in 0.1% or more",
        ]
    else:
        parts.append("  metrics: [mse, mae] # csi and others need thresholds, in the data's units")
    if seen.climatology:
        parts.append(
            "  references: [persistence, climatology] # what skill is measured against: nothing changes; beside it the "
            "mean by time of day"
        )
    else:
        parts.append(
            "  references: [persistence] # what skill is measured against: nothing moves; extrapolation needs pysteps"
        )
    parts += ["output:", f"  folder: {_text(f'runs/{called}')} # model, forecasts, scores and picture"]
    return "\n".join(parts) + "\n"


def channels_of(ds: xr.Dataset, told: dims.DimNames = dims.UNNAMED) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the variables that can be channels together, and the other gridded ones; refuse data without any."""
    ds = dims.with_positions(ds)
    of_grids = dims.grids(ds, told.by_role)
    found = {roles: [n for n in names if ds[n].dtype.kind in "fiub"] for roles, names in of_grids.items()}
    everything = sorted(n for names in found.values() for n in names)
    found = {roles: names for roles, names in found.items() if names}
    known: Sequence[Hashable] = dims.likeliest(ds, found) if found else ()
    gridded = [n for roles, names in found.items() if roles == known for n in names]
    if not gridded:
        shown = known or [dims.find_dim(ds, role) for role in dims.ROLES]
        raise DataError(
            "data",
            f"no variable has the dimensions {', '.join(map(str, shown))}",
            fix="name the dimensions with time=, y= and x=",
        )
    chosen = [n for n in gridded if set(ds[n].dims) == set(known)] or gridded[:1]
    return tuple(chosen), tuple(n for n in everything if n not in chosen)


def _variables(ds: xr.Dataset, told: dims.DimNames) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a first recipe forecasts, and the other gridded variables."""
    chosen, left_out = channels_of(ds, told)
    few = chosen if len(chosen) <= _MOST_CHANNELS else chosen[:1]
    return few, tuple(sorted({*left_out, *chosen} - {*few}))


def _frames(ds: xr.Dataset, variables: Sequence[str] | None, told: dims.DimNames) -> tuple[Frames, bool]:
    frames = Frames.from_xarray(ds, variables=variables, gaps="skip", **told._asdict())
    if SEQUENCE in ds.coords:
        return frames, False
    steps = np.diff(frames.times) / frames.step
    if (np.abs(steps - np.rint(steps)) * int(frames.step.astype(np.int64)) > tolerance(frames.step)).any():
        # Calendar months and the like: no step at all, which this says.
        Frames.from_xarray(ds, variables=variables, **told._asdict())
    return frames, len(frames.segments) > 1


def _window(frames: Frames, history: int | None, steps: int | None) -> tuple[int, int, tuple[float, float], int | None]:
    """Return the longest window of which every period has some, with the shares of the periods and the guard."""
    wanted = dict.fromkeys((history or h, steps or s) for h, s in _WINDOWS)
    last: DataError | None = None
    # A guard of one history is worth more than a longer window, but not than windows to score.
    for guard, fewest in ((None, _MANY), (1, _SOME), (None, _SOME), (1, 1), (0, 1)):
        for past, ahead in wanted:
            for shares in _SHARES:
                try:
                    windows = _windows(frames, past, ahead, shares, past if guard is None else guard)
                except DataError as error:
                    last = error
                    continue
                if windows >= fewest:
                    return past, ahead, shares, guard
    raise last or DataError(
        frames.name,
        f"{len(frames)} frames, the longest stretch without a gap {max(b - a for a, b in frames.segments)}",
        expected="a few windows for training, validation and test each",
        fix="give more frames, or fill the gaps",
    )


def _windows(frames: Frames, history: int, steps: int, shares: tuple[float, float], guard: int) -> int:
    """Return how many windows the period with the fewest of them has."""
    length = history + steps
    split = split_in_time(len(frames), length, validation=shares[0], test=shares[1], guard=guard)
    return min(len(window_starts(frames.segments, length, p)) for p in (split.train, split.validation, split.test))


def _has_cycle(frames: Frames, shares: tuple[float, float]) -> bool:
    """Say whether frames cover two weeks, and those of training every time of day."""
    day = np.timedelta64(1, "D")
    if SEQUENCE in frames.arrays[0].coords or frames.times[-1] - frames.times[0] + frames.step < _CYCLES * day:
        return False
    phases = (frames.times - frames.times[0].astype("datetime64[D]")) % day
    training = phases[: int(len(phases) * (1 - sum(shares)))]
    return bool(np.isin(np.unique(phases), training).all())


def _sample(frames: Frames) -> np.ndarray[Any, np.dtype[np.float32]]:
    places = np.unique(np.linspace(0, len(frames) - 1, _SAMPLED).astype(int)).tolist()
    return np.concatenate([frames.read(p, p + 1) for p in places])


def _thresholds(frames: Frames, valid: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[float, ...]:
    """Return rain rates that are reached often enough to be scored; none for other quantities."""
    if len(frames.channels) > 1 or not is_rain_rate(frames.channels[0].units):
        return ()
    reached = [t for t in _RAIN_RATES if float((valid >= t).mean()) >= _RARE]
    return tuple(reached[:: max(1, len(reached) // 2)][:3])


def recipe_name(source: str) -> str:
    """Return what a recipe for `source` is called by default."""
    stem = Path(source.removeprefix("sample:")).name.split(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_") or "nowcast"


def _text(text: str) -> str:
    """Return a text as YAML holds it; plain where that reads back as the same."""
    if text in ("null", "true", "false"):
        return json.dumps(text)
    return text if re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./:-]*", text) and ": " not in text else json.dumps(text)
