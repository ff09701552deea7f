"""Frames, checked as training and forecasting would meet them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from sa_nowcast import dims
from sa_nowcast.conversion import COMPLETE
from sa_nowcast.errors import DataError, SaNowcastError
from sa_nowcast.frames import Frames, grid_mapping_name, jump
from sa_nowcast.opening import chosen, open_data, zarr_attrs
from sa_nowcast.sources.chain import SEQUENCE
from sa_nowcast.sources.paths import is_zarr
from sa_nowcast.sources.store import PARTIAL
from sa_nowcast.sources.store import verify as verify_chunks
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
    time: str | None = None,
    y: str | None = None,
    x: str | None = None,
    channel: str | None = None,
    full: bool = False,
    progress: Progress = lambda done, total: None,
) -> list[Finding]:
    """Check a file, folder, pattern or store of frames.

    Parameters
    ----------
    source, engine, options
        As for `sa_nowcast.opening.open_data`.
    variables : sequence of str, optional
        By default all gridded ones.
    time, y, x, channel : str, optional
        Dimensions, where attributes and common names do not tell.
    full : bool
        Whether every stored chunk is read, in place of a few frames.
    progress : callable
        Called with the frames read and all frames, where `full`.

    Returns
    -------
    list of Finding
        ``opens``, ``completion``, ``dimensions``, ``time``, ``variables``, ``units``, ``grid``, ``storage``,
        ``values`` and, where `full`, ``chunks``; a failure ends the list where nothing further can be looked at.
    """
    try:
        ds = open_data(source, engine=engine, options=options, time=time)
        ds = chosen(ds, variables) if set(variables or ()) <= set(ds.data_vars) else ds  # else `Frames` says which
    except SaNowcastError as error:
        return [Finding.failure("opens", error)]
    found = [Finding("opens", "PASS", _size_line(ds))]
    found += _completion(source)
    names: dict[str, Any] = {}
    told: dict[str, Any] = {"time": time, "y": y, "x": x, "channel": channel}
    looked_at, left_out = dims.with_positions(ds), ""
    if variables is None and len(dims.grids(looked_at)) > 1:
        # As a first recipe does: those of one grid.
        variables, others = channels_of(looked_at, told)
        left_out = f"; on other grids, and not looked at: {', '.join(others)}" if others else ""
    if variables and all(n in looked_at.data_vars for n in variables):
        looked_at = looked_at[list(variables)]
    roles: tuple[dims.Role, ...] = ("time", "y", "x")
    for role in roles:
        try:
            names[role] = dims.find_dim(looked_at, role, told[role])
        except SaNowcastError as error:
            return [*found, Finding.failure("dimensions", error)]
    found.append(Finding("dimensions", "PASS", ", ".join(f"{r}: {d}" for r, d in names.items()) + left_out))
    frames, finding = _frames(ds, variables, told)
    found.append(finding)
    if frames is None:
        return found
    found += [_variables(frames), _units(frames), _grid(frames), _storage(frames)]
    return [*found, *_values(frames, source, full, progress)]


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _size_line(ds: xr.Dataset) -> str:
    sizes = ", ".join(f"{d} {n}" for d, n in ds.sizes.items())
    return f"{_counted(len(ds.data_vars), 'variable')}; {sizes}"


def _completion(source: str) -> list[Finding]:
    path = Path(source).expanduser()
    if not is_zarr(path):
        return []
    if path.name.endswith(PARTIAL):
        error = DataError(
            source, "a store that is still being written", fix="run the same convert or hindcast again to go on"
        )
        return [Finding.failure("completion", error)]
    if COMPLETE in zarr_attrs(path):
        return [Finding("completion", "PASS", "marked as whole by the conversion that wrote it")]
    line = "no completion mark: other software wrote it, and a chunk that is not there would read as missing values"
    return [Finding("completion", "WARN", f"{line}; sa-nowcast convert writes a store that is whole or not there")]


def _frames(ds: xr.Dataset, variables: Sequence[str] | None, told: Mapping[str, Any]) -> tuple[Frames | None, Finding]:
    try:
        frames = Frames.from_xarray(ds, variables=variables, **told)
    except SaNowcastError as error:
        try:
            frames = Frames.from_xarray(ds, variables=variables, gaps="skip", **told)
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
        torn = jump(array[dim])
        if torn is not None:
            return Finding("grid", "WARN", f"{line}; {torn.found} of {dim}; {torn.fix} puts it together")
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
        chunks = _chunks(array)
        if chunks is not None:
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


def _chunks(array: xr.DataArray) -> tuple[int, ...] | None:
    chunks = array.encoding.get("chunksizes") or array.encoding.get("chunks")
    return tuple(chunks) if chunks and len(chunks) == array.ndim else None


def _read_ratio(array: xr.DataArray, frames: Frames, chunks: tuple[int, ...]) -> float:
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
        missing, empty, low, high, count = _scan(frames, full, progress)
    except SaNowcastError as error:
        return [*found, Finding.failure("chunks" if full else "values", error)]
    if full and not found:
        found.append(Finding("chunks", "PASS", f"all {len(frames)} frames were read"))
    seen = f"{'all' if full else 'a sample of'} {count} frames"
    line = f"{low:.5g} to {high:.5g} in {seen}, {missing:.2%} missing"
    if empty == count:
        fault = DataError(frames.name, f"no valid value in {seen}", expected="some", fix="name data with values")
        return [*found, Finding.failure("values", fault)]
    if empty:
        line += f"; {empty} frames without any valid value: recipes need data.gaps: skip"
        return [*found, Finding("values", "WARN", line)]
    if low == high:
        return [*found, Finding("values", "WARN", f"{line}: every value is the same")]
    return [*found, Finding("values", "PASS", line)]


def _scan(frames: Frames, full: bool, progress: Progress) -> tuple[float, int, float, float, int]:
    missing = total = empty = count = 0
    low, high = math.inf, -math.inf
    for values in _parts(frames, full):
        valid = np.isfinite(values)
        missing, total = missing + int((~valid).sum()), total + values.size
        empty += int((~valid.any(axis=(1, 2, 3))).sum())
        if valid.any():
            low, high = min(low, float(values[valid].min())), max(high, float(values[valid].max()))
        count += len(values)
        progress(count, len(frames) if full else min(SAMPLED, len(frames)))
    return missing / total, empty, low, high, count


def _parts(frames: Frames, full: bool) -> Iterator[Any]:
    if full:
        for start in range(0, len(frames), _AT_ONCE):
            yield frames.read(start, min(start + _AT_ONCE, len(frames)))
        return
    for position in np.unique(np.linspace(0, len(frames) - 1, SAMPLED).astype(int)).tolist():
        yield frames.read(position, position + 1)
