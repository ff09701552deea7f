"""Which data they are: known again after a copy or a touch, and not mistaken after a change."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sa_nowcast._version import __version__
from sa_nowcast.errors import DataError
from sa_nowcast.recipe import SAMPLE_PREFIX
from sa_nowcast.storage.whole import nearest_to, storage
from sa_nowcast.workflow.outputs import digest, file_digest

MOST_READ: Final = 2**28
"""Files of together so many bytes are known by their content, larger ones by sizes and times of change."""


def identity_of_all(sources: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells the data of several sources from others; see `data_identity`."""
    if len(sources) == 1:
        return data_identity(sources[0], known)
    found = [data_identity(source, {}) for source in sources]
    return {key: digest([each[key] for each in found]) for key in ("stamp", "identity")}


def data_identity(source: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells the data of `source` from others.

    Parameters
    ----------
    source : str
        Of a recipe: a path, a pattern, or a sample.
    known : mapping
        What this function returned before; files of the same sizes and times are not read again.

    Returns
    -------
    dict
        ``stamp`` (names, sizes and times of the files) and ``identity``.

    Raises
    ------
    DataError
        There is no such file.
    """
    if source.startswith(SAMPLE_PREFIX):
        return {"stamp": source, "identity": digest([source, __version__])}
    found = glob.glob(str(Path(source).expanduser())) if any(c in source for c in "*?[") else []
    roots = sorted(Path(f) for f in found) or [Path(source).expanduser()]
    with storage(roots[0]):
        listed = [
            (f.relative_to(root.parent).as_posix(), f)
            for root in roots
            for f in (sorted(root.rglob("*")) if root.is_dir() else [root])
            if f.is_file()
        ]
        stats = [(name, f.stat()) for name, f in listed]
    if not listed:
        remedy = nearest_to(roots[0]) or (
            f"name data that are there in data.source; relative paths start at {Path.cwd()}"
        )
        raise DataError(source, "no such file or folder", fix=remedy)
    stamp = digest([source, [(name, s.st_size, s.st_mtime_ns) for name, s in stats]])
    if known.get("stamp") == stamp:
        return dict(known)
    if sum(s.st_size for _, s in stats) <= MOST_READ:
        content: Any = [(name, file_digest(f)) for name, f in listed]
    else:
        content = [(name, s.st_size, s.st_mtime_ns) for name, s in stats]
    return {"stamp": stamp, "identity": digest(content)}
