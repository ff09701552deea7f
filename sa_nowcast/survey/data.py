"""Frames, checked as training and forecasting would meet them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError, SaNowcastError
from sa_nowcast.frames import Channel, Frames, grid_mapping_name, jump
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.bounds import KEYS, read_bounds
from sa_nowcast.scaling import are_counts, bounds_of
from sa_nowcast.sources.chain import SEQUENCE
from sa_nowcast.sources.files import zeros_by_default
from sa_nowcast.sources.opening import chosen, open_data, zarr_header
from sa_nowcast.sources.store import verify as verify_chunks
from sa_nowcast.storage.manifest import COMPLETE, PARTIAL, is_zarr
from sa_nowcast.survey.findings import Finding
from sa_nowcast.survey.starter import channels_of
from sa_nowcast.times import show_step, tolerance

SAMPLED: Final = 24
WINDOW: Final = 20
# Read once and kept: how such data are stored decides nothing.
_SMALL: Final = 2**31
_MOST_READ: Final = 4.0
_AT_ONCE: Final = 16

Progress = Callable[[int, int], None]


def check_data(
    source: str,
    *,
    engine: str | None = None,
    options: Mapping[str, Any] | None = None,
    variables: Sequence[str] | None = None,
    told: dims.DimNames = dims.UNNAMED,
    full: bool = False,
    progress: Progress = lambda done, total: None,
) -> list[Finding]:
    """Check a file, folder, pattern or store of frames.

    Parameters
    ----------
    source, engine, options, variables, told
        As for `sa_nowcast.survey.inspection.inspect_path`.
    full : bool
        Whether every stored chunk is read, in place of a few frames.
    progress : callable
        Called with the frames read and all frames, where `full`.

    Returns
    -------
    list of Finding
        ``opens``, ``completion``, ``dimensions``, ``time``, ``variables``, ``units``, ``grid``, ``storage``,
        ``values`` and, where `full`, ``chunks``; ``bounds``, ``fill value`` and ``counts`` where there is something to
        say of them; a failure ends the list where nothing further can be looked at.
    """
    try:
        ds = open_data(source, engine=engine, options=options, time=told.time)
        ds = chosen(ds, variables) if set(variables or ()) <= set(ds.data_vars) else ds  # else `Frames` says which
    except SaNowcastError as error:
        return [Finding.failure("opens", error)]
    sizes = ", ".join(f"{d} {n}" for d, n in ds.sizes.items())
    found = [Finding("opens", "PASS", f"{_counted(len(ds.data_vars), 'variable')}; {sizes}"), *_completion(source)]
    names: dict[str, Any] = {}
    looked_at, left_out = dims.with_positions(ds), ""
    if variables is None and len(dims.grids(looked_at)) > 1:
        # As a first recipe does: those of one grid.
        variables, others = channels_of(looked_at, told)
        left_out = f"; on other grids, and not looked at: {', '.join(others)}" if others else ""
    if variables and all(n in looked_at.data_vars for n in variables):
        looked_at = looked_at[list(variables)]
    for role, dim in told.by_role.items():
        try:
            names[role] = dims.find_dim(looked_at, role, dim)
        except SaNowcastError as error:
            return [*found, Finding.failure("dimensions", error)]
    found.append(Finding("dimensions", "PASS", ", ".join(f"{r}: {d}" for r, d in names.items()) + left_out))
    frames, finding = _frames(ds, variables, told)
    found.append(finding)
    if frames is None:
        return found
    found += [_variables(frames), _units(frames), *_bounds(frames), _grid(frames), _storage(frames)]
    return [*found, *_zeros(frames, source, options), *_values(frames, source, full, progress)]


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _completion(source: str) -> list[Finding]:
    header = zarr_header(source)
    if header is None:
        return []
    if source.endswith(PARTIAL):
        fix = "run the same convert or hindcast again to go on"
        return [Finding.failure("completion", DataError(source, "a store that is still being written", fix=fix))]
    if COMPLETE in header[1]:
        return [Finding("completion", "PASS", "marked as whole by the conversion that wrote it")]
    line = "no completion mark: other software wrote it, and a chunk that is not there would read as missing values"
    return [Finding("completion", "WARN", f"{line}; sa-nowcast convert writes a store that is whole or not there")]


def _frames(ds: xr.Dataset, variables: Sequence[str] | None, told: dims.DimNames) -> tuple[Frames | None, Finding]:
    try:
        frames = Frames.from_xarray(ds, variables=variables, **told._asdict())
    except SaNowcastError as error:
        try:
            frames = Frames.from_xarray(ds, variables=variables, gaps="skip", **told._asdict())
        except SaNowcastError:
            return None, Finding.failure("time", error)
        steps = (np.diff(frames.times) / frames.step).astype(float)
        if SEQUENCE in ds.coords:
            line = f"{len(frames.segments)} sequences of a step of {show_step(frames.step)}"
            return frames, Finding("time", "PASS", line)
        longest = max(b - a for a, b in frames.segments)
        missing = int(sum(round(s) - 1 for s in steps if s > 1))
        odd = int((np.abs(steps - np.round(steps)) > tolerance(frames.step) / int(frames.step.astype(np.int64))).sum())
        line = (
            f"{len(frames)} frames every {show_step(frames.step)}, {len(frames.segments) - 1} gaps ({missing} missing "
            f"times), longest stretch {longest} frames; recipes need data.gaps: skip"
        )
        return frames, Finding("time", "WARN", line + (f"; {odd} steps are no multiple of it" if odd else ""))
    line = f"{len(frames)} frames every {show_step(frames.step)}, {frames.label(0)} to {frames.label(len(frames) - 1)}"
    return frames, Finding("time", "PASS", f"{line}, sorted, without a gap")


def _variables(frames: Frames) -> Finding:
    names = ", ".join(c.name for c in frames.channels)
    kind = "" if frames.channel_dim is None else f" along {frames.channel_dim}"
    return Finding("variables", "PASS", f"{_counted(len(frames.channels), 'channel')}{kind}: {names}")


def _units(frames: Frames) -> Finding:
    without = [c.name for c in frames.channels if c.units is None or not c.units.strip()]
    if without:
        line = f"{', '.join(without)} has no units, so a model cannot refuse data in others"
        return Finding("units", "WARN", f"{line}; set ds[{without[0]!r}].attrs['units']")
    return Finding("units", "PASS", ", ".join(f"{c.name} [{c.units}]" for c in frames.channels))


def _bounds(frames: Frames) -> list[Finding]:
    """Say which bounds a forecast would keep to, and refuse what it would refuse."""
    lines = []
    for channel in frames.channels:
        if not set(KEYS) & set(channel.attrs):
            continue
        try:
            low, high = bounds_of(channel)
        except SaNowcastError as error:
            return [Finding.failure("bounds", error)]
        pairs = (("at least", low), ("at most", high))
        shown = [f"{words} {bound:g}" for words, bound in pairs if bound is not None]
        lines.append(f"forecasts of {channel.name} are {' and '.join(shown) or 'not bounded'}")
    return [Finding("bounds", "PASS", "; ".join(lines))] if lines else []


def _zeros(frames: Frames, source: str, options: Mapping[str, Any] | None) -> list[Finding]:
    path = Path(source).expanduser()
    kept = set(zeros_by_default(path, (options or {}).get("group"))) if is_zarr(path) else set()
    names = [str(a.name) for a in frames.arrays if str(a.name) in kept]
    if not names:
        return []
    line = f"{', '.join(names)} is filled with 0 and has no _FillValue: 0 is a value here, and missing to xr.open_zarr"
    return [Finding("fill value", "WARN", f"{line}; where 0 means missing, set the attribute _FillValue to 0")]


def _grid(frames: Frames) -> Finding:
    grid, array = frames.grid, frames.arrays[0]
    line = f"{grid.height} x {grid.width}, {grid.spacing()}"
    places = [str(n) for n, c in frames.coords.items() if dims.is_position(str(n), c.variable)]
    if places and grid.dy is None:
        line = f"{grid.height} x {grid.width}, two-dimensional {' and '.join(places)}"
        return Finding("grid", "WARN", f"{line}; a model cannot refuse another spacing")
    if grid.dy is None or grid.dx is None:
        return Finding("grid", "WARN", f"{line}; a model cannot refuse another spacing, and forecasts have no place")
    for dim, step in ((grid.y, grid.dy), (grid.x, grid.dx)):
        if (fault := jump(array[dim])) is not None:
            return Finding("grid", "WARN", f"{line}; {fault.found} of {dim}; {fault.fix} puts it together")
        gaps = np.diff(dims.unwrapped(array[dim]))
        off = float(np.abs(gaps / step - 1).max())
        if off > 0.01:
            return Finding("grid", "WARN", f"{line}; spacing along {dim} varies by {off:.1%}; convolutions see pixels")
    units = str(grid.units or "")
    if not units.startswith("degree") and grid_mapping_name(array) not in frames.coords:
        return Finding("grid", "WARN", f"{line}; no grid mapping says where that is")
    mapping = grid.projection.get("grid_mapping_name")
    return Finding("grid", "PASS", line + (f", {mapping}" if mapping else ""))


def _storage(frames: Frames) -> Finding:
    parts, warnings = [], []
    for array in frames.arrays:
        encoding = array.encoding
        stored = np.dtype(encoding.get("dtype", array.dtype))
        packed = [f"{k} {encoding[k]:g}" for k in ("scale_factor", "add_offset") if k in encoding]
        text = f"{array.name} as {stored}" + (f" ({', '.join(packed)})" if packed else "")
        if stored == np.float64:
            warnings.append(f"{array.name} is stored as float64: twice the bytes that are used")
        chunks = encoding.get("chunksizes") or encoding.get("chunks")
        if chunks and len(chunks) == array.ndim:
            text += f", chunks {' x '.join(map(str, chunks))}"
            ratio = _read_ratio(array, frames, chunks)
            if ratio > _MOST_READ and frames.nbytes > _SMALL:
                warnings.append(f"a window of {WINDOW} frames reads {ratio:.0f} times its bytes")
        parts.append(text)
    line = "; ".join(parts)
    if frames.nbytes <= _SMALL:
        line += f"; {frames.nbytes / 1e6:.3g} MB as float32 are read once and kept in memory"
    else:
        line += f"; {frames.nbytes / 1e9:.3g} GB as float32 are streamed"
    if warnings:
        return Finding("storage", "WARN", f"{line}; {'; '.join(warnings)}; sa-nowcast convert lays them out by frames")
    return Finding("storage", "PASS", line)


def _read_ratio(array: xr.DataArray, frames: Frames, chunks: Sequence[int]) -> float:
    """Return how many bytes a window reads, as a multiple of its own; chunks are in the order of the file."""
    order = array.encoding.get("original_shape")
    along = chunks[0] if order is None or len(order) == array.ndim else 1
    touched = math.ceil((WINDOW + along - 1) / along) * along
    return min(touched, len(frames)) / WINDOW


def _values(frames: Frames, source: str, full: bool, progress: Progress) -> list[Finding]:
    found = []
    path = Path(source).expanduser()
    try:
        if full and is_zarr(path) and any(f.status == "PASS" for f in _completion(source)):
            verify_chunks(path)
            found.append(Finding("chunks", "PASS", "every chunk was read, with its checksum"))
        scan = _scan(frames, full, progress)
    except SaNowcastError as error:
        return [*found, Finding.failure("chunks" if full else "values", error)]
    if full and not found:
        found.append(Finding("chunks", "PASS", f"all {len(frames)} frames were read"))
    missing, empty, low, high, count = scan.missing / scan.total, scan.empty, scan.low, scan.high, scan.count
    seen = f"{'all' if full else 'a sample of'} {count} frames"
    line = f"{low:.5g} to {high:.5g} in {seen}, {missing:.2%} missing"
    if empty == count:
        fault = DataError(frames.name, f"no valid value in {seen}", expected="some", fix="name data with values")
        return [*found, Finding.failure("values", fault)]
    names = [c.name for c, counts in zip(frames.channels, scan.counts, strict=True) if counts]
    if names:
        what = f"{', '.join(names)}: whole numbers from 0 up, taken for counts; forecasts are at least 0"
        found.append(Finding("counts", "PASS", what))
    if scan.doubts:
        return [*found, Finding("values", "WARN", f"{line}; {'; '.join(scan.doubts)}")]
    if empty:
        line += f"; {empty} frames without any valid value: recipes need data.gaps: skip"
        return [*found, Finding("values", "WARN", line)]
    if low == high:
        return [*found, Finding("values", "WARN", f"{line}: every value is the same")]
    return [*found, Finding("values", "PASS", line)]


@dataclass
class _Scan:
    """What was seen of the values: numbers of values and frames, extremes, counts by channel, and doubts in words."""

    missing: int = 0
    total: int = 0
    empty: int = 0
    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    counts: list[bool] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def _scan(frames: Frames, full: bool, progress: Progress) -> _Scan:
    scan = _Scan(counts=[c.counts for c in frames.channels])
    extremes = [_Extremes() for _ in frames.channels]
    for values in _parts(frames, full):
        valid = np.isfinite(values)
        scan.missing, scan.total = scan.missing + int((~valid).sum()), scan.total + values.size
        scan.empty += int((~valid.any(axis=(1, 2, 3))).sum())
        scan.count += len(values)
        for c, extreme in enumerate(extremes):
            part = values[:, c][valid[:, c]]
            if part.size:
                extreme.add(part)
                scan.counts[c] = scan.counts[c] and are_counts(part)
        progress(scan.count, len(frames) if full else min(SAMPLED, len(frames)))
    for c, (channel, extreme) in enumerate(zip(frames.channels, extremes, strict=True)):
        scan.low, scan.high = min(scan.low, extreme.low), max(scan.high, extreme.high)
        scan.counts[c] = scan.counts[c] and extreme.size > 0
        scan.doubts += [f"{channel.name} has {doubt}" for doubt in extreme.doubts(channel)]
    return scan


class _Extremes:
    """The least and the largest value of a channel, how often they occur, and the extremes of the others."""

    def __init__(self) -> None:
        self.size, self.values = 0, np.empty(0, np.float32)
        self.numbers = np.empty(0, np.int64)

    def add(self, part: Any) -> None:
        inner = part[(part > part.min()) & (part < part.max())]
        ends = [part.min(), part.max(), *([inner.min(), inner.max()] if inner.size else [])]
        values = np.union1d(self.values, np.array(ends, np.float32))
        numbers = np.array([int((part == v).sum()) for v in values])
        numbers[np.searchsorted(values, self.values)] += self.numbers
        # The two extreme values of either end are enough, and a few frames may have others.
        keep = np.unique(np.r_[np.arange(min(4, len(values))), np.arange(max(0, len(values) - 4), len(values))])
        self.values, self.numbers, self.size = values[keep], numbers[keep], self.size + part.size

    @property
    def low(self) -> float:
        return float(self.values[0]) if self.size else math.inf

    @property
    def high(self) -> float:
        return float(self.values[-1]) if self.size else -math.inf

    def doubts(self, channel: Channel) -> list[str]:
        """Say what looks like a fill value that nobody declared, or is beyond the channel's bounds."""
        found = []
        if len(self.values) >= 4:
            for end, rest in ((0, self.values[1:]), (-1, self.values[:-1])):
                value, number = float(self.values[end]), int(self.numbers[end])
                near, far = (float(rest[0]), float(rest[-1])) if end == 0 else (float(rest[-1]), float(rest[0]))
                if number > 1 and abs(value - near) > abs(far - near) > 0:
                    found.append(
                        f"{number} values of {value:g}, far from all others ({min(near, far):g} to "
                        f"{max(near, far):g}): where they mean missing, ds.where(ds != {value:g}) says so"
                    )
        lower, upper = read_bounds(channel.attrs) or (None, None)
        # A margin of float32's rounding; signs make the one test serve both bounds.
        for sign, bound, value, beyond in (
            (1, lower, self.low, "below valid_min"),
            (-1, upper, self.high, "above valid_max"),
        ):
            if bound is None or not self.size:
                continue
            if sign * (bound - value) > 1e-5 * max(abs(bound), abs(value)):
                found.append(f"values {beyond} ({bound:g}), to which forecasts are cut")
        return found


def _parts(frames: Frames, full: bool) -> Iterator[Any]:
    if full:
        for start in range(0, len(frames), _AT_ONCE):
            yield frames.read(start, min(start + _AT_ONCE, len(frames)))
        return
    for position in np.unique(np.linspace(0, len(frames) - 1, SAMPLED).astype(int)).tolist():
        yield frames.read(position, position + 1)
