"""One or several sources become checked sequences on one axis of frames, and the windows that lie on it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.frames import Frames
from sa_nowcast.metadata import dims
from sa_nowcast.storage.addresses import SCHEMES, is_address
from sa_nowcast.storage.references import is_references, refuse_parquet
from sa_nowcast.times import Times, show_step
from sa_nowcast.windows import Positions, split_in_time, window_starts

Source = str | os.PathLike[str] | Store | xr.Dataset | xr.DataArray | Frames
Period = Literal["train", "validation", "test"]


def open_sequences(sources: Sequence[Source], **names: Any) -> list[Frames]:
    """Open and check sources by the names of `Frames.from_xarray`; those that differ are a `DataError`."""
    if not sources:
        raise RecipeError("source", "an empty list", expected="at least one path, Dataset or DataArray")
    sequences = [_frames(s, names) for s in sources]
    for number, (one, given) in enumerate(zip(sequences, sources, strict=True)):
        _require_alike(one, sequences[0], called(given, number), called(sources[0], 0))
    return sequences


def starts_of(
    sequences: Sequence[Frames], length: int, stride: int, period: Period | None, **shares: Any
) -> list[Positions]:
    """Return the starts of the windows of each sequence, within a period by the shares of `split_in_time`."""
    ranges = [(0, len(f)) for f in sequences]
    if period is not None:
        axis = np.unique(np.concatenate([f.times for f in sequences]))
        begin, end = getattr(split_in_time(len(axis), length, **shares), period)
        ranges = [_within(f.times, axis, begin, end) for f in sequences]
    return [window_starts(f.segments, length, r, stride=stride) for f, r in zip(sequences, ranges, strict=True)]


def _within(times: Times, axis: Times, begin: int, end: int) -> tuple[int, int]:
    """Return the positions of a sequence's frames at ``axis[begin:end]``."""
    if begin >= end:
        return 0, 0
    return int(np.searchsorted(times, axis[begin])), int(np.searchsorted(times, axis[end - 1], side="right"))


def _frames(source: Source, names: dict[str, Any]) -> Frames:
    if isinstance(source, Frames):
        return source
    if not isinstance(source, xr.Dataset | xr.DataArray):
        opened = _opened(source)
        # A Zarr store without consolidated metadata lists its variables in whatever order the disk does.
        source = opened[sorted(opened.data_vars, key=str)]
    return Frames.from_xarray(source, **names)


def _opened(source: str | os.PathLike[str] | Store) -> xr.Dataset:
    from sa_nowcast.conversion import COMPLETE, open_zarr
    from sa_nowcast.sources import open_source

    if is_address(source) and urlsplit(source).scheme in SCHEMES:
        return open_source(source)
    if isinstance(source, Store) or "://" in str(source):
        try:
            remote = zarr.open_group(source, mode="r")
            consolidated = remote.metadata.consolidated_metadata is not None
            opened: xr.Dataset = xr.open_zarr(source, chunks=None, consolidated=consolidated)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                str(source), f"cannot be opened as a Zarr store ({error})", fix="give the address of a Zarr store"
            ) from error
        return opened
    path = Path(source).expanduser()
    if is_references(path):
        return open_source(path)
    refuse_parquet(path)
    if not path.exists() and path.suffix == ".zarr":
        return open_zarr(path)  # which says whether a conversion did not end
    try:
        group = zarr.open_group(path, mode="r")
    except (OSError, ValueError, KeyError):
        return open_source(path)
    if COMPLETE in group.attrs:
        return open_zarr(path)
    return open_source(path, engine="zarr", consolidated=group.metadata.consolidated_metadata is not None)


def called(source: Source, number: int) -> str:
    """Return what errors call a source."""
    if isinstance(source, str | os.PathLike):
        return str(source)
    kept = source.encoding.get("source") if isinstance(source, xr.Dataset) else None
    return str(kept) if kept else f"source {number + 1}"


def _require_alike(one: Frames, first: Frames, name: str, first_name: str) -> None:
    def of(frames: Frames) -> list[tuple[str, Any]]:
        grid = frames.grid
        return [
            ("step", show_step(frames.step)),
            ("grid", f"{grid.height} x {grid.width}"),
            ("spacing", grid.spacing()),
            ("projection", grid.projection.get("grid_mapping_name", "none") if grid.projection else "none"),
            ("channels", ", ".join(c.name for c in frames.channels)),
            ("units", ", ".join(str(dims.canonical_units(c.units)) for c in frames.channels)),
        ]

    for (what, found), (_, expected) in zip(of(one), of(first), strict=True):
        if found != expected:
            raise DataError(
                f"{name}, {what}",
                str(found),
                expected=f"{expected} as in {first_name}",
                fix="open sequences of one grid, cadence and variable together, and others on their own",
            )
    if dict(one.grid.projection) != dict(first.grid.projection):
        raise DataError(f"{name}, projection", "other parameters", expected=f"those of {first_name}")
