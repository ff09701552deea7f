"""Stores at an address: S3, Google, Azure and plain web servers, read through zarr's store over obstore.

The only place that knows addresses, credentials and what goes wrong on the way. Credentials are the environment's and
are never written anywhere: a store that is sent to another process connects there anew, errors are made of the status
that a server gave and not of its text, and an address that holds a secret is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from zarr.storage import ObjectStore

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import DataError, MissingLibraryError, RecipeError, SaNowcastError, StorageError, nearest
from sa_nowcast.storage.addresses import CREDENTIALS, plain, require_address
from sa_nowcast.storage.manifest import MANIFEST, METADATA, Entry, listed_files

RETRIES: Final = 12
"""Waits double from a quarter of a second, with jitter: about ten seconds in all, which is what throttling takes to
pass and more than a lost connection needs."""
RETRY_SECONDS: Final = 60.0
"""No retry begins later; a hindcast of hours is not to wait longer for one chunk before it says so."""
REQUEST_SECONDS: Final = 60.0
"""For one request with its answer: a shard of 64 MB at 1 MB/s. With the retries, an error is there in two minutes."""
_CONNECT_SECONDS: Final = 5.0
FIRST_WAIT: Final = 0.25
_LONGEST_WAIT: Final = 5.0
_ROOTS: Final = ("zarr.json", ".zmetadata", ".zgroup")


class RemoteStore(ObjectStore[Any]):
    """A Zarr store at an address, to be read only; another process connects with its own environment.

    Parameters
    ----------
    address : str
        As `require_address` returns it.
    listed : bool
        Whether `sa_nowcast.convert` or a hindcast wrote it: then the list of its files is read, and a file that is not
        there, or another than was written, is an error and not missing values. Where a part of a file is read, its
        chunks' checksums tell.
    """

    def __init__(self, address: str, *, listed: bool = False) -> None:
        self.address, self.listed = address, listed
        super().__init__(_connected(address), read_only=True)

    def __str__(self) -> str:
        return self.address

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and (self.address, self.listed) == (other.address, other.listed)

    __hash__ = None  # type: ignore[assignment]  # as zarr's stores

    def __getstate__(self) -> dict[Any, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("store", "files")}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self.__dict__.update(state)
        self.store = _connected(self.address)

    def with_read_only(self, read_only: bool = False) -> RemoteStore:
        """Return this store, which is read only in any case."""
        if not read_only:
            raise RecipeError(self.address, "is opened for reading only", expected="a folder to write")
        return self

    @cached_property
    def files(self) -> Mapping[str, Entry]:
        """The files that were written; empty where there is no list of them."""
        if not self.listed:
            return {}
        content = self.whole(f"{MANIFEST}/{METADATA}")
        return listed_files(self.address, content)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return an object or a part of it; None where there is none."""
        with told(self.address):
            found = await super().get(key, prototype, byte_range)
        self._check(key, None if found is None else found.as_numpy_array(), byte_range is None)
        return found

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        """Return parts of objects; None for those that there are not."""
        with told(self.address):
            return await super().get_partial_values(prototype, key_ranges)

    async def exists(self, key: str) -> bool:
        """Say whether there is an object."""
        with told(self.address):
            return await super().exists(key)

    async def list(self) -> AsyncIterator[str]:  # type: ignore[override]
        """Yield all keys."""
        with told(self.address, listing=True):
            async for key in super().list():
                yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        """Yield the keys that begin with a prefix."""
        with told(self.address, listing=True):
            async for key in super().list_prefix(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        """Yield what lies in a folder."""
        with told(self.address, listing=True):
            async for key in super().list_dir(prefix):
                yield key

    def whole(self, key: str) -> bytes | None:
        """Return an object at once, or None; for use outside zarr's event loop."""
        with told(self.address), contextlib.suppress(FileNotFoundError):
            return bytes(self.store.get(key).bytes())
        return None

    def part(self, key: str, start: int, stop: int | None = None) -> memoryview:
        """Return bytes of an object, from the end where `start` is negative; `FileNotFoundError` where it is missing.

        For threads: the interpreter is free meanwhile.
        """
        with told(self.address), self._missed(key):
            if start < 0:
                return memoryview(self.store.get(key, options={"range": {"suffix": -start}}).bytes())
            if stop is None:
                content = memoryview(self.store.get(key).bytes())
                self._check(key, content, whole=True)
                return content
            return memoryview(self.store.get_range(key, start=start, end=stop))

    @contextlib.contextmanager
    def _missed(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            self._check(key, None, whole=False)
            raise

    def _check(self, key: str, content: Any, whole: bool) -> None:
        if not self.listed or key == f"{MANIFEST}/{METADATA}" or key not in self.files:
            return
        if content is None:
            fault = "is missing"
        elif whole and hashlib.sha256(content).hexdigest() != self.files[key][1]:
            fault = "is damaged: it is not the one that was written there (its SHA-256 differs)"
        else:
            return
        raise DataError(f"{self.address}/{key}", f"the object {fault}", fix="copy the store there again")


@contextlib.contextmanager
def told(address: str, *, listing: bool = False) -> Iterator[None]:
    """Turn an error of obstore into one line about `address`; what is not there is left to the caller."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("obstore"):
            raise
        # Not chained: what obstore says may hold the signed address of the request.
        raise _error(address, error, listing) from None


def _error(address: str, error: Exception, listing: bool) -> SaNowcastError:
    text, scheme = str(error), urlsplit(address).scheme
    status, code = (m[1] if (m := re.search(p, text)) else "" for p in (r"status: (\d+)", r"<Code>(\w+)</Code>"))
    answer = f"{status} {code}".strip()
    retried = re.search(r"after (\d+) retries", text)
    after = f" after {retried[1]} retries" if retried else ""
    if code == "NoSuchBucket":
        return _no_bucket(address)
    if listing and scheme.startswith("http"):
        return DataError(
            address,
            "has no consolidated metadata, and a web server does not list what a store holds",
            fix="run zarr.consolidate_metadata on the store where it is written, or give its s3:// address",
        )
    if status in ("401", "403"):
        return _forbidden(address, answer)
    if status in ("429", "503"):
        return StorageError(
            address,
            f"the server throttles the requests ({answer}){after}",
            fix="run it again later, or with fewer workers",
        )
    if scheme == "s3" and (status == "301" or code == "AuthorizationHeaderMalformed" or "redirect" in text):
        return StorageError(
            address,
            f"the bucket is in another region than {os.environ.get('AWS_REGION') or 'us-east-1'}",
            fix="set AWS_REGION to the region of the bucket",
        )
    kind = m[1] if (m := re.search(r"kind: (Timeout|Connect)", text)) else ""
    if kind:
        endpoint = endpoint_of(scheme)
        server = plain(endpoint) if endpoint else urlsplit(address).netloc if scheme.startswith("http") else scheme
        found = "does not answer in time" if kind == "Timeout" else "cannot be reached"
        own = f", and AWS_ENDPOINT_URL, which is {server}" if endpoint else ""
        return StorageError(address, f"the server {server} {found}{after}", fix=f"check the network{own}")
    return StorageError(
        address, f"cannot be read ({answer or 'the connection was lost'}){after}", fix="run it again later"
    )


def _forbidden(address: str, answer: str) -> StorageError:
    scheme = urlsplit(address).scheme
    if scheme not in CREDENTIALS:
        return StorageError(address, f"may not be read ({answer})", fix="give an address that anyone may read")
    variables = CREDENTIALS[scheme][1]
    if anonymous(scheme):
        found = f"may not be read without credentials, and the environment has none ({answer})"
        return StorageError(address, found, fix=f"set {variables} in the environment")
    public = ", or set AWS_SKIP_SIGNATURE=true where the bucket is public" if scheme == "s3" else ""
    return StorageError(
        address,
        f"may not be read with the credentials of the environment ({answer})",
        fix=f"set {variables} to those of an account that may list and read it{public}",
    )


def _no_bucket(address: str) -> DataError:
    parts = urlsplit(address)
    endpoint = endpoint_of(parts.scheme)
    where = f" at {plain(endpoint)}" if endpoint else ""
    elsewhere = ", or set AWS_ENDPOINT_URL to the server that has it" if parts.scheme == "s3" else ""
    return DataError(address, f"no such bucket{where}: {parts.netloc}", fix=f"name a bucket that is there{elsewhere}")


def absent(store: RemoteStore) -> SaNowcastError:
    """Return why nothing was found at an address: no bucket, no such store, or a web server's 404."""
    address, (scheme, bucket, key, *_) = store.address, urlsplit(store.address)
    looked = f"no Zarr store there: looked for {', '.join(_ROOTS)}"
    if scheme.startswith("http"):
        return DataError(address, looked, fix="give the address of the folder that holds one of them")
    parent, _, name = key.strip("/").rpartition("/")
    try:
        with told(f"{scheme}://{bucket}"):
            above = _connected(f"{scheme}://{bucket}").list_with_delimiter(prefix=parent or None)
    except SaNowcastError as error:
        return error
    names = [str(p).rpartition("/")[2] for p in above["common_prefixes"]]
    names += [str(o["path"]).rpartition("/")[2] for o in above["objects"]]
    near = nearest(name, names)
    if near is not None and near != name:
        fix = f"write {scheme}://{bucket}/{f'{parent}/{near}' if parent else near}"
    else:
        shown = ", ".join(sorted(names)[:5]) or "nothing"
        fix = f"name a store that is there; {scheme}://{bucket}/{parent} holds {shown}"
    return DataError(address, looked, fix=fix)


def stamp_of(address: str) -> list[tuple[str, int, str]]:
    """Return name, size and entity tag of every object of a store; of a web server's, of its metadata only.

    Of an address that ends in ``.json``, of that object.
    """
    store = RemoteStore(require_address(address))
    obstore = library_for(store.address)
    found: list[Any] = []
    with told(store.address):
        if store.address.endswith(".json"):
            root, _, name = store.address.rpartition("/")
            with contextlib.suppress(FileNotFoundError):
                found.append(obstore.head(_connected(root), name))
        elif urlsplit(store.address).scheme.startswith("http"):
            for name in _ROOTS:
                with contextlib.suppress(FileNotFoundError):
                    found.append(obstore.head(store.store, name))
        else:
            found = [one for batch in obstore.list(store.store) for one in batch]
    if not found:
        raise absent(store)
    return sorted((str(o["path"]), int(o["size"]), str(o.get("e_tag"))) for o in found)


def _connected(address: str) -> Any:
    """Return obstore's store for an address, with the credentials of the environment, or none."""
    library = library_for(address)
    scheme, place, key, *_ = urlsplit(address)
    options: dict[str, Any] = {
        "timeout": timedelta(seconds=REQUEST_SECONDS),
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        "allow_http": scheme != "https",  # where the settings name a server by http://; others are asked by https
    }
    retries = {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_SECONDS),
        "backoff": {
            "init_backoff": timedelta(seconds=FIRST_WAIT), "max_backoff": timedelta(seconds=_LONGEST_WAIT), "base": 2,
        },
    }  # fmt: skip
    how: dict[str, Any] = {"client_options": options, "retry_config": retries}
    if scheme.startswith("http"):
        return library.store.HTTPStore.from_url(address, **how)
    kinds = {"s3": library.store.S3Store, "gs": library.store.GCSStore, "az": library.store.AzureStore}
    config = {"skip_signature": True} if anonymous(scheme) else None
    try:
        return kinds[scheme](place, prefix=key.strip("/") or None, config=config, **how)
    except Exception as error:
        if not type(error).__module__.startswith("obstore"):
            raise
        variables = CREDENTIALS[scheme][1]
        account = "AZURE_STORAGE_ACCOUNT_NAME and " if scheme == "az" else ""
        raise RecipeError(
            address, "the settings of the environment cannot be used", fix=f"set {account}{variables} rightly"
        ) from None


def library_for(address: str) -> Any:
    """Import obstore, or raise a MissingLibraryError about an address."""
    try:
        import obstore
        import obstore.store
    except ImportError as error:
        raise MissingLibraryError(address, "obstore is not installed", fix=install("remote")) from error
    return obstore


def endpoint_of(scheme: str) -> str:
    """Return the server that the environment names in place of the usual one."""
    names = {"s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"), "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")}
    return next((os.environ[n] for n in names.get(scheme, ()) if os.environ.get(n)), "")


def anonymous(scheme: str) -> bool:
    """Say whether the environment has no credential: then requests are not signed, and public buckets are read."""
    if scheme == "gs" and (Path.home() / ".config/gcloud/application_default_credentials.json").is_file():
        return False
    return not any(re.fullmatch(CREDENTIALS[scheme][0], name) and value for name, value in os.environ.items())
