"""What a finished store has: a mark, and the SHA-256 of every file.

A shard that took another's place is sound in itself, and wrong.

A checksum inside a chunk says that the chunk is what was once compressed, not that it is the chunk of these times; and
nothing inside a store covers its metadata. The list stands in the store as a Zarr group without arrays, which other
readers pass over. It proves damage, not trust: whoever can change the store can change the list.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sa_nowcast.errors import DataError
from sa_nowcast.storage.whole import write_whole

COMPLETE: Final = "sa_nowcast_complete"
"""The attribute of a store that is whole."""
ARCHIVE: Final = "sa_nowcast_hindcast"
"""The attribute that says which hindcast an archive holds."""
PARTIAL: Final = ".partial"
"""Ends the name of a store that is being written."""
MANIFEST: Final = "sa_nowcast_files"
METADATA: Final = "zarr.json"
_LIST: Final = f"{MANIFEST}/{METADATA}"
_FIX: Final = "convert or hindcast again, or copy the store again; check='mark' reads it unchecked"
LARGEST_METADATA: Final = 256 * 2**20
"""Bytes of one metadata file; a million shards take half of it."""

Entry = tuple[int, str]


def write_manifest(root: Path, known: Mapping[str, Entry]) -> None:
    """List every file of a store that is otherwise finished; `known` are files that were read back already."""
    files: dict[str, Entry] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        key = path.relative_to(root).as_posix()
        if not key.startswith(f"{MANIFEST}/"):
            files[key] = known[key] if key in known else (path.stat().st_size, sha256_of(path))
    (root / MANIFEST).mkdir(exist_ok=True)
    attributes = {"files": files, "sha256": _digest(files)}
    content = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    write_whole(root / MANIFEST / METADATA, json.dumps(content, indent=1))


def is_store(path: str | os.PathLike[str]) -> bool:
    """Say whether `path` is one source although it is a folder: a Zarr store, or an Icechunk repository."""
    return is_zarr(path) or is_repository(path)


def is_repository(path: str | os.PathLike[str]) -> bool:
    """Say whether a folder is an Icechunk repository, of format 1 or 2."""
    root = Path(path)
    return (root / "snapshots").is_dir() and ((root / "refs").is_dir() or (root / "repo").is_file())


def is_zarr(path: str | os.PathLike[str]) -> bool:
    """Say whether `path` is the root of a Zarr store of format 2 or 3."""
    root = Path(path)
    return any((root / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata", ".zattrs"))


def may_be_replaced(place: Path) -> bool:
    """Say whether a store stands at `place`, what is left of a finished one that was damaged, or an empty folder."""
    if not place.is_dir():
        return False
    return is_zarr(place) or (place / MANIFEST).is_dir() or not any(place.iterdir())


class Manifest:
    """What the files of a store were when it was finished; `DataError` where the list is missing or damaged."""

    def __init__(self, root: Path) -> None:
        self.root = root
        file = root / MANIFEST / METADATA
        try:
            content = metadata_bytes(file)
        except FileNotFoundError:
            content = None
        except (OSError, ValueError) as error:
            raise _list_damaged(str(root), type(error).__name__) from error
        self.files: Mapping[str, Entry] = listed_files(str(root), content)
        self._sound: dict[str, tuple[int, int, int]] = {}

    def size_fault(self, key: str) -> str | None:
        """Return what is wrong with a file as far as its size tells, or None; it is not read."""
        try:
            found = (self.root / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return "is missing"
        if key not in self.files:
            return "is none that was written"
        wanted = self.files[key][0]
        return None if found == wanted else f"is damaged: it holds {found} bytes, of {wanted} that were written"

    def fault(self, key: str) -> str | None:
        """Return what is wrong with a file, or None.

        It is read whole the first time, and again where it changed since: its first frame may cost what all of them
        do, and the others cost nothing.
        """
        found = self.size_fault(key)
        if found is not None:
            return found
        path = self.root / key
        status = path.stat()
        mark = status.st_ino, status.st_size, status.st_mtime_ns
        if self._sound.get(key) == mark:
            return None
        if sha256_of(path) != self.files[key][1]:
            return "is damaged: it is not the one that was written there (its SHA-256 differs)"
        self._sound[key] = mark
        return None

    def check_metadata(self) -> None:
        """Check every ``zarr.json`` of the store; `DataError` about the first that is damaged or missing."""
        for key in self.files:
            if key == METADATA or key.endswith(f"/{METADATA}"):
                fault = self.fault(key)
                if fault is not None:
                    name = key.removesuffix(METADATA).rstrip("/")
                    raise DataError(
                        name or str(self.root), f"the metadata file {key} {fault}", fix="copy the store again"
                    )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sound": {}}  # another process looks for itself


def listed_files(store: str, content: bytes | None) -> Mapping[str, Entry]:
    """Return the files of the list that a store was finished with; `DataError` where it is missing or damaged."""
    if content is None:
        raise DataError(store, f"the list of its files is missing ({_LIST})", fix=_FIX)
    try:
        attributes: Any = json.loads(content)["attributes"]
        files = {str(k): (int(size), str(digest)) for k, (size, digest) in attributes["files"].items()}
        sound = _digest(files) == attributes["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _list_damaged(store, type(error).__name__) from error
    if not sound:
        raise _list_damaged(store, "")
    return files


def _list_damaged(store: str, how: str) -> DataError:
    return DataError(store, f"the list of its files is damaged ({_LIST}{how and ': ' + how})", fix=_FIX)


def metadata_bytes(file: Path) -> bytes:
    """Return a metadata file's bytes; `ValueError` where it is larger than any that is read."""
    with file.open("rb") as stream:
        content = stream.read(LARGEST_METADATA + 1)
    if len(content) > LARGEST_METADATA:
        raise ValueError(f"more than {LARGEST_METADATA} bytes")
    return content


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(files: Mapping[str, Entry]) -> str:
    text = json.dumps({k: list(v) for k, v in files.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
