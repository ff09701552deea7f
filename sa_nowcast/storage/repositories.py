"""Icechunk repositories: found, opened at a branch, tag or snapshot, and written by commits.

What is read is one snapshot, whatever is committed meanwhile. What is written is seen when it is committed, and whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import DataError, MissingLibraryError, RecipeError, StorageError, nearest
from sa_nowcast.storage.addresses import is_address, require_address
from sa_nowcast.storage.manifest import MANIFEST, METADATA, is_repository
from sa_nowcast.storage.remote import RemoteStore, anonymous, endpoint_of, library_for

SUFFIX: Final = ".icechunk"
MAIN: Final = "main"
_HEAD: Final = "refs/branch.main/ref.json"  # of format 1
_STATE: Final = "repo"  # of format 2


def is_repository_at(address: str) -> bool:
    """Say whether an Icechunk repository lies at an address; one that cannot be read is an error."""
    if urlsplit(address).scheme != "s3":
        return False
    store = RemoteStore(address)
    return store.whole(_HEAD) is not None or store.whole(_STATE) is not None


def is_target(place: str | os.PathLike[str]) -> bool:
    """Say whether what is written to a place becomes commits: by its ending, or a repository that is there."""
    text = os.fspath(place).rstrip("/")
    return text.endswith(SUFFIX) or (not is_address(text) and is_repository(Path(text).expanduser()))


class SnapshotStore(WrapperStore[Any]):
    """The store of a snapshot, whose errors are one line; another process opens it anew.

    Parameters
    ----------
    store : icechunk.IcechunkStore
    place : str
        What errors call it.
    virtual : sequence of str
        Where the chunks may lie of which it holds references only.
    """

    def __init__(self, store: Any, place: str = "Icechunk", virtual: Iterable[str] = ()) -> None:
        super().__init__(store)
        self.place, self.virtual = place, tuple(virtual)

    def _with_store(self, store: Any) -> SnapshotStore:
        return SnapshotStore(store, self.place, self.virtual)

    def __str__(self) -> str:
        return self.place

    @property
    def far(self) -> bool:
        """Whether chunks are elsewhere, where a request takes long."""
        return any(map(is_address, (self.place, *(v for v in self.virtual if not v.startswith("file:")))))

    @property
    def snapshot(self) -> str:
        """Which snapshot it is."""
        return str(self._store.session.snapshot_id)

    @property
    def supports_consolidated_metadata(self) -> bool:
        """Never: a snapshot has all metadata at hand."""
        return False

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return the bytes of a key; None where there are none."""
        with told(self.place, self.virtual):
            return await super().get(key, prototype, byte_range)

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        """Return parts of the bytes of keys."""
        with told(self.place, self.virtual):
            return await super().get_partial_values(prototype, key_ranges)

    async def exists(self, key: str) -> bool:
        """Say whether there is a key."""
        with told(self.place, self.virtual):
            return await super().exists(key)

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        with told(self.place):
            async for key in super().list():
                yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that begin with a prefix."""
        with told(self.place):
            async for key in super().list_prefix(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield what lies in a folder."""
        with told(self.place):
            async for key in super().list_dir(prefix):
                yield key


def open_snapshot(
    source: str | os.PathLike[str],
    *,
    branch: str | None = None,
    tag: str | None = None,
    snapshot: str | None = None,
    virtual: Iterable[str] = (),
) -> SnapshotStore:
    """Return the store of a snapshot of a repository, by default the newest of branch ``main``.

    Raises
    ------
    RecipeError
        More than one of branch, tag and snapshot, or an address of another kind than ``s3://``.
    DataError
        No repository, or no such branch, tag or snapshot in it: those that there are, are named.
    StorageError
        It cannot be read.
    MissingLibraryError
        icechunk is not installed.
    """
    given = {"branch": branch, "tag": tag, "snapshot": snapshot}
    named = {k: v for k, v in given.items() if v is not None}
    if len(named) > 1:
        raise RecipeError("options", f"{' and '.join(named)}: each says what is opened", expected="one of them")
    repository, place = _opened(source, virtual)
    kind, name = next(iter(named.items()), ("branch", MAIN))
    with told(place):
        if kind != "snapshot":
            known = sorted(repository.list_branches() if kind == "branch" else repository.list_tags())
            if name not in known:
                near = nearest(name, known)
                fix = f"write {kind}={near!r}" if near else "leave it out, which opens branch main"
                found = f"no {kind} {name!r} (there is {', '.join(known[:8]) or 'none'})"
                raise DataError(place, found, fix=fix)
            session = repository.readonly_session(**{kind: name})
        else:
            try:
                session = repository.readonly_session(snapshot_id=name)
            except Exception as error:
                if "not found" not in _cause(error) and "invalid" not in _cause(error):
                    raise
                newest = [s.id for s in _first(repository.ancestry(branch=MAIN), 3)]
                found = f"no snapshot {name!r} (the newest of main are {', '.join(newest)})"
                raise DataError(place, found, fix=f"write snapshot={newest[0]!r}") from None
    return SnapshotStore(session.store, place, virtual)


class Repository:
    """A repository that is written: its branch ``main``, commit by commit.

    Parameters
    ----------
    target : path or address
    """

    def __init__(self, target: str | os.PathLike[str]) -> None:
        text = os.fspath(target)
        self.place = require_address(text) if is_address(text) else str(Path(text).expanduser().absolute())
        self.local = None if is_address(self.place) else Path(self.place)
        if self.local is None and urlsplit(self.place).scheme != "s3":
            raise _not_s3(self.place)
        _library(self.place)
        self._newest: str | None = None  # snapshot that was read or written last

    @property
    def staging(self) -> Path:
        """The path beside which files lie that are not committed yet: the repository's own, or one in the cache."""
        if self.local is not None:
            return self.local
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        digest = hashlib.sha256(self.place.encode()).hexdigest()[:16]
        return cache / "sa_nowcast" / f"{self.place.rpartition('/')[2]}.{digest}"

    def head(self) -> Mapping[str, Any] | None:
        """Return the attributes of what branch main holds; None where there is no repository, or nothing in it.

        Raises
        ------
        StorageError
            Something else stands there.
        """
        if not (is_repository(self.place) if self.local else is_repository_at(self.place)):
            if self.local is not None and self.local.exists() and not _begun(self.local):
                raise StorageError(self.place, "exists and is no Icechunk repository", fix="name another path")
            return None
        store = open_snapshot(self.place)
        self._newest = store.snapshot
        try:
            return dict(zarr.open_group(store, mode="r").attrs)
        except FileNotFoundError:
            return None if sync(store.is_empty("")) else {}

    @contextlib.contextmanager
    def commit(self, message: str, *, anew: bool = False) -> Iterator[Any]:
        """Yield a store to be written, without what it held where `anew`, and commit what was written.

        Nothing is committed where an error comes out.

        Raises
        ------
        StorageError
            Another process committed meanwhile, or nothing can be written there.
        """
        icechunk = _library(self.place)
        with told(self.place, writing=True):
            repository = icechunk.Repository.open_or_create(_storage(icechunk, self.place))
            session = repository.writable_session(MAIN)
            other = StorageError(
                self.place, "another process committed to branch main meanwhile", fix="let it end, and run again"
            )
            if self._newest not in (None, session.snapshot_id):
                raise other
            if anew:
                session.store.sync_clear()
            yield session.store
            try:
                self._newest = session.commit(message)
            except icechunk.ConflictError:
                raise other from None

    def publish(self, root: Path, message: str) -> None:
        """Commit all that a finished Zarr store of format 3 holds, in place of what the repository held."""
        files = [f for f in sorted(root.rglob("*")) if f.is_file() and MANIFEST not in f.parts]
        with self.commit(message, anew=True) as store:
            for file in sorted(files, key=lambda f: f.name != METADATA):  # arrays before their chunks
                put(store, file.relative_to(root).as_posix(), file.read_bytes())


def _begun(folder: Path) -> bool:
    """Say whether a folder is empty, or holds what a process left that was killed while it made a repository."""
    own = {"config.yaml", "repo", "refs", "snapshots", "manifests", "chunks", "transactions", "overwritten"}
    return folder.is_dir() and {child.name for child in folder.iterdir()} <= own


def put(store: Any, key: str, content: bytes) -> None:
    """Write the bytes of a key; metadata without copies of others, which a repository does not hold."""
    if key == METADATA:
        content = json.dumps({k: v for k, v in json.loads(content).items() if k != "consolidated_metadata"}).encode()
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(content)))


@contextlib.contextmanager
def told(place: str, virtual: Iterable[str] = (), *, writing: bool = False) -> Iterator[None]:
    """Turn an error of icechunk into one line about `place`."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("icechunk"):
            raise
        cause = _cause(error)
        if "virtual" in str(error).lower():
            raise DataError(
                place,
                f"a chunk that it refers to cannot be read ({cause})",
                fix="allow where the chunks lie by virtual=, such as virtual='s3://bucket/' or 'file:///data/'",
            ) from None
        if "not found" in str(error).lower():
            raise DataError(place, f"it lost a part ({cause})", fix="copy the repository again") from None
        done = "written" if writing else "read"
        raise StorageError(place, f"cannot be {done} ({cause})", fix="run it again later") from None


def _cause(error: BaseException) -> str:
    """Return the last cause that icechunk names, in one line."""
    lines = [line.strip(" `->|x\t") for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)[:160]


def _first(items: Iterable[Any], count: int) -> list[Any]:
    return [item for item, _ in zip(items, range(count), strict=False)]


def _opened(source: str | os.PathLike[str], virtual: Iterable[str]) -> tuple[Any, str]:
    text = os.fspath(source)
    place = require_address(text) if is_address(text) else str(Path(text).expanduser().absolute())
    icechunk = _library(place)
    if not is_address(place):
        found = is_repository(place)
    elif urlsplit(place).scheme == "s3":
        found = is_repository_at(place)
    else:
        raise _not_s3(place)
    if not found:
        raise DataError(
            place, "is no Icechunk repository", expected="snapshots and refs", fix="name one, or leave engine= out"
        )
    allowed = {}
    for prefix in virtual:
        s3 = icechunk.s3_anonymous_credentials if anonymous("s3") else icechunk.s3_from_env_credentials
        allowed[prefix] = s3() if prefix.startswith("s3://") else None
    with told(place):
        return icechunk.Repository.open(
            _storage(icechunk, place),
            authorize_virtual_chunk_access=allowed and icechunk.containers_credentials(allowed),
        ), place


def _storage(icechunk: Any, place: str) -> Any:
    if not is_address(place):
        # It warns of concurrent commits to a folder on stderr; here a lock keeps them apart.
        quiet = "ICECHUNK_LOG" not in os.environ
        if quiet:
            icechunk.set_logs_filter("icechunk=error")
        try:
            return icechunk.local_filesystem_storage(place)
        finally:
            if quiet:
                icechunk.set_logs_filter(None)
    _, bucket, key, *_ = urlsplit(place)
    endpoint = endpoint_of("s3")
    # By the environment and not by its values: they would go along to other processes.
    who: dict[str, Any] = {"anonymous": True} if anonymous("s3") else {"from_env": True}
    return icechunk.s3_storage(
        bucket=bucket,
        prefix=key.strip("/") or None,
        region=os.environ.get("AWS_REGION") or "us-east-1",
        endpoint_url=endpoint or None,
        allow_http=endpoint.startswith("http://"),
        force_path_style=bool(endpoint),
        **who,
    )


def _not_s3(place: str) -> RecipeError:
    return RecipeError(
        place, "is no place for an Icechunk repository", expected="a folder of this machine, or an address s3://..."
    )


def _library(place: str) -> Any:
    try:
        import icechunk
    except ImportError as error:
        raise MissingLibraryError(place, "icechunk is not installed", fix=install("icechunk")) from error
    if is_address(place):
        library_for(place)
    return icechunk
