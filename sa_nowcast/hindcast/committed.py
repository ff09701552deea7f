"""An archive in an Icechunk repository: a commit for each block of init times, so that readers see whole ones only.

Forecasts are computed and written to a folder beside the repository, by the workers of a cluster too. One process, this
one, commits what is there, in the order of the init times: what branch ``main`` holds is at any time a whole archive of
the first of them, and marked as complete at the end.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
import zarr

from sa_nowcast.computing import quiet
from sa_nowcast.errors import Interrupted, RecipeError, StorageError
from sa_nowcast.forecasts.job import Job
from sa_nowcast.hindcast.archive import STATUS, Archive, status_of
from sa_nowcast.hindcast.shard import Shard
from sa_nowcast.metadata import dims
from sa_nowcast.storage.growing import Entry, Progress, records_of
from sa_nowcast.storage.manifest import ARCHIVE, COMPLETE, may_be_replaced
from sa_nowcast.storage.repositories import Repository, open_snapshot, put
from sa_nowcast.storage.whole import locked, remove, require_writable, storage

_BLOCKS: Final = "sa_nowcast_blocks"
"""The attribute that says how many blocks are committed, and what their bytes depend on."""


class CommittedArchive(Archive):
    """An archive under way in a repository."""

    def __init__(self, job: Job, repository: Repository, batch_size: int | None, shard_size: int | None) -> None:
        super().__init__(job, repository.staging, batch_size, shard_size)
        self.repository, self.name = repository, repository.place

    def stands(self, existing: str) -> bool:
        """Say whether the same hindcast stands there whole; refuse what is another."""
        head = self.repository.head()
        if existing == "replace" or head is None:
            return False
        try:
            theirs = json.loads(str(head[ARCHIVE]))
        except (ValueError, KeyError):
            raise StorageError(
                self.repository.place, "holds something else on branch main", fix="name another path"
            ) from None
        if (other := self.other(Path(self.repository.place), theirs)) is not None:
            raise other
        return COMPLETE in head

    def check(self, existing: str) -> None:
        """Raise what would keep `grow` from beginning; nothing is written."""
        if not self.stands(existing):
            require_writable(self.partial)
            self._require_room()

    def _require_room(self) -> None:
        if self.partial.exists() and not may_be_replaced(self.partial):
            raise StorageError(
                str(self.partial),
                f"something else stands where the {self.kind} would grow",
                fix="remove it, or name another path",
            )

    def grow(self, existing: str, progress: Progress | None) -> None:
        """Write and commit what is not committed yet."""
        tell = progress or (lambda done, total: None)
        if self.cluster is not None and self.repository.local is None:
            raise RecipeError(
                "cluster",
                f"given with {self.repository.place}: workers write to a folder that they share",
                fix="give a folder that workers and this process see, such as archive.icechunk, or leave cluster= out",
            )
        with locked(self.lock, Path(self.repository.place)):
            if not self.stands(existing):
                self._require_room()
                try:
                    self._grow(existing, tell)
                finally:
                    remove(self.partial)
                    remove(self.journal)
        tell(self.total, self.total)

    def opened(self, chunks: Mapping[str, int]) -> xr.Dataset:
        """Open what was committed last."""
        store: Any = open_snapshot(self.repository.place)
        return xr.open_dataset(store, engine="zarr", chunks=dict(chunks), consolidated=False, decode_timedelta=True)

    def _grow(self, existing: str, tell: Progress) -> None:
        head = self.repository.head() if existing != "replace" else None
        plan: Mapping[str, Any] = json.loads(str(head[_BLOCKS])) if head is not None else {}
        self.key = uuid.uuid4().hex
        template, parts, settings = self.design(plan)
        with storage(self.partial):
            for folder in (self.partial, self.journal):
                remove(folder)
                folder.mkdir(parents=True)
            self._lay_out(template)
        committed = int(plan.get("blocks", 0))
        done = sum(p.size for p in parts[:committed])
        waiting: dict[int, Entry] = {}
        try:
            tell(done, self.total)
            for part, found in self.run(parts[committed:]):
                if isinstance(found, int):
                    tell(done + found, self.total)
                    continue
                waiting[part.number] = found
                while committed in waiting:
                    self._commit(template, parts[committed], waiting.pop(committed), settings)
                    done += parts[committed].size
                    committed += 1
                    tell(done, self.total)
        except KeyboardInterrupt:
            raise Interrupted(
                self.repository.place,
                f"stopped after {done} of {self.total} {self.unit}",
                fix="run the same again to go on",
            ) from None
        with self.repository.commit("all init times") as store:
            status = np.asarray(zarr.open_array(store, path=STATUS, mode="r")[:])
            zarr.open_group(store, mode="r+").attrs.update(self.end(status, store))

    def _commit(self, template: xr.Dataset, part: Shard, entry: Entry, settings: Mapping[str, Any]) -> None:
        """Commit a block: its labels and status by xarray, and its shards as they were written and read back."""
        first = part.number * part.plans[0].shards[part.plans[0].time_axis]
        block = template.isel({dims.INIT_TIME: slice(first, first + part.size)})
        block[STATUS] = block[STATUS].copy(data=status_of(entry).astype(np.int64))
        how: dict[str, Any] = {"mode": "w"}
        if part.number:
            # What does not lie along the init times is there; how values are stored is the store's to say.
            block = block.drop_vars([n for n, v in block.variables.items() if dims.INIT_TIME not in v.dims])
            block = block.drop_encoding()
            how = {"mode": "a", "append_dim": dims.INIT_TIME}
        with (
            self.repository.commit(part.label, anew=not part.number) as store,
            quiet.warnings_ignored(zarr.errors.ZarrUserWarning, "Object at", threads="all"),
        ):
            block.to_zarr(
                store, zarr_format=3, consolidated=False, compute=False, write_empty_chunks=True,
                **how,
            )  # fmt: skip
            for record in records_of(entry):
                if not record.still_there(self.partial):
                    raise StorageError(
                        str(self.partial / record.path),
                        "changed after it was written",
                        fix="run the same again to go on",
                    )
                put(store, record.path, (self.partial / record.path).read_bytes())
            group = zarr.open_group(store, mode="r+")
            group.attrs[_BLOCKS] = json.dumps({**settings, "blocks": part.number + 1})
        for record in records_of(entry):
            (self.partial / record.path).unlink()
