"""A Zarr store that grows beside its name, and is there whole or not at all.

It is laid out first (coordinates and metadata), then written part by part, in any order, by any process that sees its
folder, and gets its name when it is whole. Until then it is called ``<name>.partial``, and beside it stand a lock and a
journal. The journal is a folder: ``plan.json`` says what is being written, and an entry for each part that is done
which files it wrote, with their SHA-256. The same call again keeps the parts whose files are as they were written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

import dask.array
import numpy.typing as npt
import xarray as xr
import zarr

from sa_nowcast._version import __version__
from sa_nowcast.computing import quiet
from sa_nowcast.errors import Interrupted, RecipeError, StorageError
from sa_nowcast.storage.addresses import is_address, plain
from sa_nowcast.storage.manifest import MANIFEST, PARTIAL, may_be_replaced, write_manifest
from sa_nowcast.storage.shards import ShardRecord
from sa_nowcast.storage.whole import locked, put_in_place, remove, require_writable, storage, sync, write_whole

Progress = Callable[[int, int], None]
Entry = dict[str, Any]

JOURNAL: Final = ".journal"
_PLAN: Final = "plan.json"
# In the plan of a store that is about to get its name: by it, the store is known under either name.
_INODE: Final = "inode"


@dataclass(frozen=True)
class Part:
    """What one task writes: some files, and then its entry in the journal."""

    number: int
    store: str
    journal: str
    key: str
    """Of the store that was begun: what a lost worker of a former one notes in the journal is not taken for ours."""
    files: tuple[str, ...]
    size: int
    """How much it counts in progress."""
    label: str
    """What errors call it."""

    @property
    def _entry(self) -> Path:
        return Path(self.journal) / f"{self.number}.json"

    def done(self) -> Entry | None:
        """Return the journal's entry where the files are there as they were written, else None."""
        entry = _read(self._entry)
        try:
            records = records_of(entry) if entry.get("key", "") == self.key else []
        except (KeyError, TypeError):
            return None
        same = tuple(r.path for r in records) == self.files and all(r.still_there(Path(self.store)) for r in records)
        return entry if same else None

    def begun(self) -> int:
        """Return how much of an unfinished part is kept."""
        return 0

    def enter(self, records: Sequence[ShardRecord], **more: Any) -> Entry:
        """Note in the journal what was written and read back."""
        entry = {"key": self.key, "files": [asdict(r) for r in records], **more}
        # By its digest half an entry is known as such: neither a rename nor a sync is needed.
        with storage(self._entry):
            self._entry.write_text(_with_digest(entry), encoding="utf-8")
        return entry


P = TypeVar("P", bound=Part)


class GrowingStore(ABC, Generic[P]):
    """The store being written, new or to be gone on with, and its journal.

    Parameters
    ----------
    place : Path
        Its name when it is whole.
    identity : mapping
        What tells it from others, as JSON can hold it.
    total : int
        The size of all parts, for progress.
    """

    kind: ClassVar[str]
    unit: ClassVar[str]

    def __init__(self, place: Path, identity: Mapping[str, Any], total: int) -> None:
        self.place, self.identity, self.total = place, identity, total
        self.partial = place.with_name(place.name + PARTIAL)
        # Beside the store, not within, where Zarr would take it for damage.
        self.journal = place.with_name(self.partial.name + JOURNAL)
        self.lock = place.with_name(self.partial.name + ".lock")
        self.key = ""  # as in former journals

    @abstractmethod
    def stands(self, existing: str) -> bool:
        """Say whether the same stands there whole, so that nothing is to be done; refuse what is not to be replaced."""

    @abstractmethod
    def other(self, path: Path, theirs: Mapping[str, Any]) -> StorageError | None:
        """Return the error about what is at `path`, where by its identity it is another."""

    @abstractmethod
    def design(self, before: Mapping[str, Any]) -> tuple[xr.Dataset, Sequence[P], Mapping[str, Any]]:
        """Return the template, the parts and the settings that the journal's plan keeps; `before`: of one begun."""

    @abstractmethod
    def run(self, todo: Sequence[P]) -> Iterator[tuple[P, Entry | int]]:
        """Do parts; yield each with its entry, and before, where it takes long, how much of it is kept."""

    @abstractmethod
    def marks(self, entries: Sequence[Entry]) -> Mapping[str, Any]:
        """Write what is known at the end only; return the attributes of the whole store."""

    def check(self, existing: str) -> None:
        """Raise what would keep `grow` from beginning; nothing is written."""
        if not self.stands(existing):
            require_writable(self.place)
            self._plan_to_go_on(existing)

    def grow(self, existing: str, progress: Progress | None) -> None:
        """Write what is not there yet."""
        tell = progress or (lambda done, total: None)
        # Looked at before the lock too: a finished store may stand in a folder that cannot be written.
        if self.stands(existing):
            self.tidy(same=True)
        else:
            with self._locked():
                # Another process may have ended meanwhile.
                if not self._ended_before() and not self.stands(existing):
                    self._write(existing, tell)
                    return
        tell(self.total, self.total)

    def was_ending(self) -> bool:
        """Say whether what stands at the place got there by the same call, which was killed just before its end."""
        plan = _read(self.journal / _PLAN)
        return self.place.exists() and plan.get(_INODE) == self.place.stat().st_ino and self._is_same(plan)

    def tidy(self, *, same: bool) -> None:
        """Remove what a killed process left; where the `same` stands at the place, end what was about to end."""
        if self.journal.exists() or self.lock.exists():
            with contextlib.suppress(StorageError), self._locked():
                if same:
                    self._ended_before()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other process write the same; remove the journal where nothing is under way."""
        with locked(self.lock, self.place):
            try:
                yield
            finally:
                if not self.partial.exists():
                    with contextlib.suppress(OSError):
                        self._clear_journal()  # the plan last: by it the whole store is known
                    shutil.rmtree(self.journal, ignore_errors=True)

    def _clear_journal(self) -> None:
        for child in self.journal.iterdir():
            if child.name != _PLAN:
                remove(child)

    def _is_same(self, plan: Entry) -> bool:
        return self.other(self.partial, plan.get("identity", {})) is None

    def _ended_before(self) -> bool:
        """Do what is left to do for a store that was whole when its process was killed; say whether there is one."""
        plan = _read(self.journal / _PLAN)
        if _INODE not in plan or not self._is_same(plan):
            return False
        with storage(self.place):
            if self.was_ending():
                remove(self.partial)  # the former store
            elif self.partial.exists() and self.partial.stat().st_ino == plan[_INODE]:
                put_in_place(self.partial, self.place)
            else:
                return False
        return True

    def _plan_to_go_on(self, existing: str) -> Entry:
        """Return the plan of what is to be gone on with, or nothing; refuse what is another's."""
        if not self.partial.exists():
            return {}
        plan, error = _read(self.journal / _PLAN), None
        if plan:
            error = self.other(self.partial, plan.get("identity", {}))
        elif not self.partial.is_dir() or any(self.partial.iterdir()):
            error = StorageError(
                str(self.partial),
                f"something else stands where the {self.kind} would grow",
                fix="finish or remove it, or name another path",
            )
        if error and not (existing == "replace" and (plan or may_be_replaced(self.partial))):
            raise error
        return {} if error or not plan.get("laid_out") else plan

    def _write(self, existing: str, tell: Progress) -> None:
        parts, entries = self._begin(existing)
        todo = [p for p in parts if p.number not in entries]
        begun = {p.number: p.begun() for p in todo}
        done = sum(p.size for p in parts if p.number in entries) + sum(begun.values())
        try:
            tell(done, self.total)
            for part, found in self.run(todo):
                now = found if isinstance(found, int) else part.size
                done += now - begun[part.number]
                begun[part.number] = now
                if not isinstance(found, int):
                    entries[part.number] = found
                tell(done, self.total)
        except KeyboardInterrupt:
            raise Interrupted(
                str(self.partial),
                f"stopped after {done} of {self.total} {self.unit}",
                fix="run the same again to go on",
            ) from None
        self._finish([entries[p.number] for p in parts])

    def _begin(self, existing: str) -> tuple[Sequence[P], dict[int, Entry]]:
        """Lay the store out, also where it was left unfinished; return its parts, and the entries of those done."""
        plan = self._plan_to_go_on(existing)
        self.key = plan.get("key", "") if plan else uuid.uuid4().hex
        template, parts, settings = self.design(plan)
        with storage(self.partial):
            if plan:
                entries = {p.number: entry for p in parts if (entry := p.done()) is not None}
                # What else there is, metadata and labels, may have been damaged or be half written.
                stay = {self.partial / r.path for entry in entries.values() for r in records_of(entry)}
                for file in self.partial.rglob("*"):
                    if file not in stay and not file.is_dir():
                        file.unlink()
                self._lay_out(template)
                return parts, entries
            plan = {"identity": self.identity, "key": self.key, **settings, "version": __version__}
            # In this order: killed at any point, what is there is known as the beginning of this store.
            self.partial.mkdir(parents=True, exist_ok=True)
            self.journal.mkdir(exist_ok=True)
            _note(self.journal / _PLAN, plan)
            self._clear_journal()
            for child in self.partial.iterdir():
                remove(child)
            self._lay_out(template)
            _note(self.journal / _PLAN, plan | {"laid_out": True})
        return parts, {}

    def _lay_out(self, template: xr.Dataset) -> None:
        # Of folders that hold shards already, and no metadata yet.
        with quiet.warnings_ignored(zarr.errors.ZarrUserWarning, "Object at", threads="all"):
            template.to_zarr(
                self.partial, mode="a", zarr_format=3, consolidated=False, compute=False, write_empty_chunks=True
            )

    def _finish(self, entries: Sequence[Entry]) -> None:
        """Make sure that every file is there, mark the store complete, and give it its name."""
        records = [r for entry in entries for r in records_of(entry)]
        for record in records:
            file = self.partial / record.path
            if not file.is_file() or file.stat().st_size != record.nbytes:
                raise StorageError(str(file), "a shard vanished or changed while others were written", fix="run again")
        with storage(self.partial):
            for rest in self.partial.rglob(f"*{PARTIAL}"):
                rest.unlink()  # what a process left that was killed while it wrote
            remove(self.partial / MANIFEST)  # likewise; the consolidated metadata must not hold it
            zarr.open_group(self.partial, mode="r+").attrs.update(self.marks(entries))
            # Format 3 does not specify consolidated metadata yet; without them xarray warns every reader.
            with quiet.warnings_ignored(UserWarning, "Consolidated metadata", threads="all"):
                zarr.consolidate_metadata(self.partial)
            write_manifest(self.partial, {r.path: (r.nbytes, r.sha256) for r in records})
            for path in (*self.partial.rglob("*"), self.partial):
                sync(path)
            _note(self.journal / _PLAN, _read(self.journal / _PLAN) | {_INODE: self.partial.stat().st_ino})
            put_in_place(self.partial, self.place)


def records_of(entry: Entry) -> list[ShardRecord]:
    """Return the files of an entry in the journal."""
    return [ShardRecord(**r) for r in entry["files"]]


def no_values(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
    """Return an array for the layout of a store: lazy, and an error where it is computed."""

    def refuse() -> None:
        raise AssertionError("a template of a store was computed; it has no values")

    delayed: Any = dask.delayed  # type: ignore[attr-defined]
    array: Any = dask.array  # untyped
    return array.from_delayed(delayed(refuse)(), shape, dtype)


def require_replaceable(place: Path) -> None:
    """Refuse a place where something else than a store stands."""
    if not may_be_replaced(place):
        raise StorageError(str(place), "exists and is no Zarr store; it is left alone", fix="name another path")


def folder_here(path: str | os.PathLike[str], argument: str) -> Path:
    """Return the absolute path of a folder that is to be written; `argument` is what a user calls it."""
    text = os.path.expanduser(os.fspath(path))
    if is_address(text):
        raise RecipeError(
            argument,
            plain(text),
            expected="a folder of this machine",
            fix="write a folder, then copy it; only a rename is atomic",
        )
    return Path(text).absolute()


def _read(file: Path) -> Entry:
    """Return what `_note` wrote; nothing where it is not there, or not as it was written."""
    try:
        content: Entry = json.loads(file.read_text(encoding="utf-8"))
        digest = content.pop("sha256", None)  # former journals have none
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
    return content if digest in (None, _digest(content)) else {}


def _note(file: Path, content: Mapping[str, Any]) -> None:
    with storage(file):
        write_whole(file, _with_digest(content))


def _with_digest(content: Mapping[str, Any]) -> str:
    return json.dumps({**content, "sha256": _digest(content)})


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
