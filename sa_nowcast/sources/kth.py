"""KTH human actions (Schuldt, Laptev and Caputo, ICPR 2004): films to (sequence, time, y, x), grey, 128 x 128.

Films are ``person01_boxing_d1_uncomp.avi``, 160 x 120 at 25 frames a second. Each holds the action several times, and
the official file of frame segments says where; sequences never leave a segment. Persons 1 to 16 train, 17 to 25 test.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.sources.moving_mnist import sequences
from sa_nowcast.sources.paths import PathLike, expand
from sa_nowcast.sources.reading import reading, require
from sa_nowcast.windows import require_whole

EXTRA: Final = "kth"
FRAMES_A_SECOND: Final = 25.0
AGAIN: Final = "download it again, or leave it out"
TRAINING_PERSONS: Final = range(1, 17)

Part = Literal["train", "test", "all"]
Segments = Mapping[str, tuple[tuple[int, int], ...]]
Frames = npt.NDArray[np.uint8]

_NAME: Final = re.compile(r"person(?P<person>\d\d)_(?P<action>[a-z]+)_d(?P<scenario>\d)")


@dataclass(frozen=True)
class _Film:
    """A film and the first frames (from 0) of its sequences."""

    path: Path
    name: str
    person: int
    action: str
    scenario: int
    starts: tuple[int, ...]
    segments: tuple[int, ...]


def open_kth(
    source: PathLike | Iterable[PathLike],
    *,
    part: Part = "all",
    length: int = 20,
    stride: int | None = None,
    size: int = 128,
    segments: PathLike | None = None,
) -> xr.Dataset:
    """Open a folder of KTH films.

    Parameters
    ----------
    source : path or iterable of paths
        The folder, searched in depth, or films.
    part : {"all", "train", "test"}
        Persons 1 to 16 train, 17 to 25 test.
    length : int
        Frames a sequence.
    stride : int, optional
        From the start of one sequence to the next within a segment; by default `length`, so that none overlap.
    size : int
        Rows and columns; the films' 160 x 120 are scaled to it bilinearly.
    segments : path, optional
        Another file of segments in the layout of the official ``00sequences.txt``.

    Returns
    -------
    Dataset
        ``intensity`` (sequence, time, y, x), uint8, decoded film by film when it is used; coordinates ``film``,
        ``person``, ``action``, ``scenario``, ``segment``, ``first_frame`` (from 1) and ``part``, each (sequence). A
        segment's end that a film does not reach is cut; the attribute ``films_shorter_than_segments`` lists the films.

    Raises
    ------
    DataError
        No films, a film that cannot be read, one that the segments do not know, or no segment of `length` frames.
    """
    import dask.array
    from dask.delayed import delayed

    array: Any = dask.array  # untyped

    if part not in get_args(Part):
        raise RecipeError("part", repr(part), expected=" or ".join(map(repr, get_args(Part))))
    stride = length if stride is None else stride
    require_whole(length=length, stride=stride, size=size)
    known = official_segments() if segments is None else read_segments(Path(segments))
    films, short = [], []
    for path in expand(source, (".avi",)):
        film, cut = _plan(path, known, length, stride)
        if part == "all" or (film.person in TRAINING_PERSONS) == (part == "train"):
            films.append(film)
            short += [film.name] if cut else []
    films = [film for film in films if film.starts]
    if not films:
        raise DataError(
            str(source), f"no {part} film with a segment of {length} frames", fix="a smaller length, or other films"
        )
    decode = delayed(_sequences, pure=True)
    blocks = [
        array.from_delayed(
            decode(film.path, film.starts, length, size), (len(film.starts), length, size, size), np.uint8
        )
        for film in films
    ]
    counts = [len(film.starts) for film in films]

    def each(values: Iterable[Any], dtype: Any = None) -> tuple[str, npt.NDArray[Any]]:
        return "sequence", np.repeat(np.array(list(values), dtype=dtype), counts)

    ds = sequences(
        array.concatenate(blocks), source="KTH human actions", step=1 / FRAMES_A_SECOND, clock="25 frames a second"
    )
    return ds.assign_coords(
        film=each(film.name for film in films),
        person=each((film.person for film in films), np.int8),
        action=each(film.action for film in films),
        scenario=each((film.scenario for film in films), np.int8),
        segment=("sequence", np.array([s for film in films for s in film.segments], dtype=np.int8)),
        first_frame=("sequence", np.array([s + 1 for film in films for s in film.starts], dtype=np.int32)),
        part=each("train" if film.person in TRAINING_PERSONS else "test" for film in films),
    ).assign_attrs(references="Schuldt, Laptev and Caputo, ICPR 2004", films_shorter_than_segments=" ".join(short))


def official_segments() -> Segments:
    """Return the official frame segments: film name to (first, last) frames, counted from 1."""
    text = (importlib.resources.files("sa_nowcast.sources") / "kth_segments.csv").read_text(encoding="utf-8")
    return _parse_segments(text)


def read_segments(path: Path) -> Segments:
    """Read a file of segments in the layout of ``00sequences.txt``."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), f"cannot be read ({error})", expected="KTH's 00sequences.txt") from error
    found = _parse_segments(text)
    if not found:
        raise DataError(
            str(path), "names no film with frames", expected="lines such as person01_boxing_d1 frames 1-95, 96-185"
        )
    return found


def _parse_segments(text: str) -> Segments:
    found: dict[str, tuple[tuple[int, int], ...]] = {}
    for line in text.splitlines():
        match = _NAME.match(line)
        ranges = tuple((int(a), int(b)) for a, b in re.findall(r"(\d+)-(\d+)", line[match.end() :])) if match else ()
        if match and ranges:
            found[match.group()] = ranges
    return found


def _plan(path: Path, known: Segments, length: int, stride: int) -> tuple[_Film, bool]:
    """Place the sequences of one film; also say whether the film ends before its last segment."""
    match = _NAME.match(path.name)
    if match is None:
        raise DataError(path.name, "is not a KTH film's name", expected="person01_boxing_d1_uncomp.avi")
    if match.group() not in known:
        raise DataError(
            path.name, "the frame segments have no entry for the film", fix="leave the film out, or give segments="
        )
    frames = _frame_count(path)
    starts, numbers = [], []
    for number, (first, last) in enumerate(known[match.group()], start=1):
        inside = range(first - 1, min(last, frames) - length + 1, stride)
        starts += list(inside)
        numbers += [number] * len(inside)
    cut = max(last for _, last in known[match.group()]) > frames
    who, where = int(match["person"]), int(match["scenario"])
    return _Film(path, match.group(), who, match["action"], where, tuple(starts), tuple(numbers)), cut


def _frame_count(path: Path) -> int:
    av = require("av", EXTRA)
    with reading(path, "a film", AGAIN), av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = int(stream.frames) or sum(1 for _ in container.decode(stream))
    if not frames:
        raise DataError(str(path), "the film has no frames", fix="download it again")
    return frames


def _sequences(path: Path, starts: tuple[int, ...], length: int, size: int) -> Frames:
    """Decode one film once and cut its sequences: (sequences, length, size, size)."""
    av = require("av", EXTRA)
    last = max(starts) + length
    wanted = np.zeros(last, dtype=bool)
    for start in starts:
        wanted[start : start + length] = True
    kept: dict[int, Frames] = {}
    with reading(path, "a film", AGAIN), av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(container.streams.video[0])):
            if number >= last:
                break
            if wanted[number]:
                kept[number] = resize(frame.to_ndarray(format="gray"), size)
    missing = [n for n in np.flatnonzero(wanted) if n not in kept]
    if missing:
        found = f"the film ends before frame {missing[0] + 1}"
        raise DataError(str(path), found, expected=f"{last} frames", fix="download it again")
    return np.stack([[kept[n] for n in range(start, start + length)] for start in starts])


def resize(image: Frames, size: int) -> Frames:
    """Scale an image (rows, columns) to `size` x `size` bilinearly, cell centres on cell centres."""
    rows, columns = (_weights(n, size) for n in image.shape)
    scaled: Frames = np.rint(rows @ image.astype(np.float32) @ columns.T).astype(np.uint8)
    return scaled


def _weights(size: int, out: int) -> npt.NDArray[np.float32]:
    """Return the matrix (out, size) of linear interpolation between cell centres, the edge value beyond them."""
    place = np.clip((np.arange(out) + 0.5) * (size / out) - 0.5, 0, size - 1)
    low = np.minimum(place.astype(int), max(size - 2, 0))
    weights = np.zeros((out, size), dtype=np.float32)
    weights[np.arange(out), low] = 1.0 - (place - low)
    weights[np.arange(out), np.minimum(low + 1, size - 1)] += (place - low).astype(np.float32)
    return weights
