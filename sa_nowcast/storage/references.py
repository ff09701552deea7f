"""References to the chunks of other files (kerchunk's JSON), read as a Zarr store: nothing is copied.

Such a file says of each key of a Zarr store which bytes of which file they are; kerchunk and VirtualiZarr write it for
NetCDF, HDF5, GRIB and others. The format is that of https://fsspec.github.io/kerchunk/spec.html; its expressions
(``gen``, and templates with arguments) are not read.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from sa_nowcast.errors import DataError, RecipeError, SaNowcastError
from sa_nowcast.storage.addresses import SCHEMES, is_address, plain, require_address
from sa_nowcast.storage.remote import RemoteStore
from sa_nowcast.storage.whole import nearest_to

SUFFIX: Final = ".json"
LARGEST_PART: Final = 2**22
"""Bytes of an uncompressed chunk that is read at once; of a larger one, a step of its first axis is read at a time."""
_METADATA: Final = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
_REMAKE: Final = "make the references again from the files as they are"
_JSON: Final = "write them as JSON, in VirtualiZarr by vds.vz.to_kerchunk('refs.json', format='json')"

Place = tuple[str, int, int | None]
"""A file or address, where the bytes begin, and how many they are; None: to its end."""
Found = tuple[dict[str, Place], dict[str, bytes], set[str]]
"""What is referred to and what is there, by key, and the arrays without a fill value."""


def is_references(source: object) -> bool:
    """Say whether a path or address is named as references are."""
    return str(source).lower().endswith(SUFFIX)


def files_behind(source: object) -> list[Path]:
    """Return the files of this machine that references name; none where `source` is no references."""
    if not is_references(source) or is_address(source):
        return []
    return [Path(target) for target in ReferenceStore(str(source)).targets if not is_address(target)]


def refuse_parquet(path: str | Path) -> None:
    """Raise `DataError` where references in Parquet files stand; read as Zarr they would be a store without chunks."""
    root = Path(path)
    if root.suffix in (".parq", ".parquet") or ((root / ".zmetadata").is_file() and any(root.glob("*/refs.*.parq"))):
        raise DataError(str(path), "references in Parquet files are not read", expected="references as JSON", fix=_JSON)


class ReferenceStore(Store):
    """A read-only Zarr store of the bytes that a file of references names.

    Parameters
    ----------
    source : str
        Path or address of the JSON. Relative paths in it start at its own folder, or address.

    Raises
    ------
    DataError
        No such file, or none of references.
    """

    def __init__(self, source: str) -> None:
        super().__init__(read_only=True)
        self.source = require_address(source) if is_address(source) else str(Path(source).expanduser().absolute())
        content = self._content()
        self.digest = hashlib.sha256(content).hexdigest()
        self._places, self._inline, self._undefined = self._read(content)
        self._seen: dict[str, tuple[int, int]] = {}
        self._is_open = True

    def __str__(self) -> str:
        return self.source

    def __repr__(self) -> str:
        return f"ReferenceStore({self.source!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReferenceStore) and (self.source, self.digest) == (other.source, other.digest)

    __hash__ = None  # type: ignore[assignment]  # as zarr's stores

    def __getstate__(self) -> dict[str, Any]:
        return {k: self.__dict__[k] for k in ("source", "digest", "_seen", "_read_only")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _is_open=True)
        content = self._content()
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise DataError(self.source, "was changed since it was opened", fix="open it again")
        self._places, self._inline, self._undefined = self._read(content)

    @cached_property
    def far(self) -> bool:
        """Whether chunks are elsewhere, where a request takes long."""
        return any(is_address(place) for place in self.targets)

    @property
    def targets(self) -> tuple[str, ...]:
        """The files and addresses that are referred to."""
        return tuple(dict.fromkeys(place for place, _, _ in self._places.values()))

    @property
    def unmasked(self) -> list[str]:
        """The arrays whose fill value is HDF5's, and no ``_FillValue`` of theirs.

        VirtualiZarr writes the one as the array's fill value always, and the other as an attribute; kerchunk writes an
        array's fill value only where it stands for ``_FillValue``.
        """
        found = []
        for key, content in self._inline.items():
            name = key.removesuffix("/.zarray")
            if name != key and "attributes" in (array := json.loads(content)) and array["fill_value"] is not None:
                attrs = json.loads(self._inline.get(f"{name}/.zattrs", b"{}"))
                if not {"_FillValue", "missing_value"} & set(attrs):
                    found.append(name)
        return found

    # Reading

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return the bytes of a key, or a part of them; None where there are none."""
        if key in self._inline:
            content = memoryview(self._inline[key])
        elif key in self._places:
            content = await asyncio.to_thread(self.part, key)
        else:
            array, _, chunk = key.rpartition("/")
            if array in self._undefined and chunk not in _METADATA:
                raise DataError(
                    f"{array} of {self.source}",
                    f"the chunk {chunk} is not referred to, and the array has no fill value to stand for it",
                    fix="declare a _FillValue in the files before the references are made",
                )
            return None
        return prototype.buffer.from_bytes(_cut(content, byte_range))

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        """Return parts of the bytes of keys; None for those that there are not."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    def part(self, key: str) -> memoryview:
        """Return the bytes that a key refers to; for threads."""
        place, start, length = self._places[key]
        if is_address(place):
            root, _, name = place.partition("://")[2].partition("/")
            remote = self._servers(f"{urlsplit(place).scheme}://{root}")
            try:
                content = remote.part(name, start, None if length is None else start + length)
            except FileNotFoundError:
                raise DataError(place, "no such object, which the references name", fix=_REMAKE) from None
        else:
            content = self._local(place, start, length)
        if length is not None and len(content) != length:
            raise DataError(
                place, f"holds {len(content)} bytes from {start} on, of {length} that the references name", fix=_REMAKE
            )
        return content

    def _local(self, place: str, start: int, length: int | None) -> memoryview:
        try:
            with open(place, "rb") as file:
                status = Path(place).stat()
                now = status.st_size, status.st_mtime_ns
                if self._seen.setdefault(place, now) != now:
                    raise DataError(place, "was changed since it was opened", fix=_REMAKE)
                file.seek(start)
                return memoryview(file.read(-1 if length is None else length))
        except FileNotFoundError:
            raise DataError(
                place,
                f"no such file, which the references in {self.source} name",
                fix=_REMAKE,
            ) from None
        except OSError as error:
            raise DataError(
                place, f"cannot be read ({error.strerror or error})", fix="give the right to read it"
            ) from error

    def _servers(self, root: str) -> RemoteStore:
        known: dict[str, RemoteStore] = self.__dict__.setdefault("_remote", {})
        if root not in known:
            known[root] = RemoteStore(require_address(root))
        return known[root]

    async def exists(self, key: str) -> bool:
        """Say whether there is a key."""
        return key in self._inline or key in self._places

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        for key in (*self._inline, *self._places):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that begin with a prefix."""
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield what lies in a folder."""
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        inside = (key[len(folder) :] for key in (*self._inline, *self._places) if key.startswith(folder))
        for name in dict.fromkeys(key.partition("/")[0] for key in inside):
            yield name

    supports_writes, supports_deletes, supports_partial_writes, supports_listing = False, False, False, True

    def with_read_only(self, read_only: bool = False) -> ReferenceStore:
        """Return this store, which is read only in any case."""
        if not read_only:
            raise RecipeError(self.source, "is opened for reading only", expected="a folder to write")
        return self

    async def set(self, key: str, value: Any) -> None:
        """Refuse to write."""
        raise RecipeError(self.source, "is opened for reading only", expected="a folder to write")

    async def delete(self, key: str) -> None:
        """Refuse to write."""
        await self.set(key, None)

    # The file of references

    def _content(self) -> bytes:
        if is_address(self.source):
            root, _, name = self.source.rpartition("/")
            content = RemoteStore(root).whole(name)
            if content is None:
                raise DataError(self.source, "no such object", fix="name references that are there")
            return content
        try:
            return Path(self.source).read_bytes()
        except OSError as error:
            raise DataError(
                self.source, f"cannot be read ({error.strerror or error})", fix=nearest_to(self.source)
            ) from error

    def _read(self, content: bytes) -> Found:
        try:
            document: Any = json.loads(content)
            templates = document.get("templates", {}) if "refs" in document else {}
            refs: Mapping[str, Any] = document.get("refs", document)
            if not isinstance(refs, dict) or not any(key.rpartition("/")[2] in _METADATA for key in refs):
                raise ValueError("no Zarr metadata")
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise DataError(
                self.source,
                f"no references to chunks ({' '.join(str(error).split())[:80]})",
                expected="JSON as kerchunk and VirtualiZarr write it",
                fix="name one that they wrote, or give the engine= that reads the file",
            ) from error
        if "gen" in document:
            raise DataError(
                self.source, "holds references as expressions (gen), which are not read", expected="each one", fix=_JSON
            )
        places: dict[str, Place] = {}
        inline: dict[str, bytes] = {}
        for key, value in refs.items():
            try:
                if isinstance(value, list):
                    url = self._target(str(value[0]), templates)
                    start, length = (0, None) if len(value) == 1 else map(int, value[1:])
                    places[key] = url, start, length
                else:
                    inline[key] = _inlined(value)
                    _require_metadata(key, inline[key])
            except SaNowcastError:
                raise
            except (ValueError, TypeError, LookupError, binascii.Error) as error:
                raise DataError(
                    self.source, f"the reference of {key} is damaged ({value!r:.60})", fix=_REMAKE
                ) from error
        return _in_parts(places, inline)

    def _target(self, url: str, templates: Mapping[str, str]) -> str:
        if "{{" in url:
            url = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: str(templates.get(m[1], m[0])), url)
            if "{{" in url:
                raise DataError(
                    self.source, f"the template {url[:60]} holds an expression, which is not read", fix=_JSON
                )
        here = is_address(self.source)
        local = url.startswith(("file:", "local:", "/"))
        if here and local:
            raise DataError(
                self.source,
                f"refers to a file of this machine ({plain(url)})",
                expected="references at an address to addresses",
                fix="copy the references to this machine where they are to be followed",
            )
        if local:
            return unquote(urlsplit(url).path) if "://" in url else url
        if is_address(url):
            if urlsplit(url).scheme not in SCHEMES:
                require_address(url)
            return url
        folder, _, _ = self.source.rpartition("/")
        return f"{folder}/{url.removeprefix('./')}"


def _inlined(value: Any) -> bytes:
    if not isinstance(value, str):
        return json.dumps(value).encode()
    if value.startswith("base64:"):
        return base64.b64decode(value[7:], validate=True)
    return value.encode()


def _require_metadata(key: str, content: bytes) -> None:
    """Raise `ValueError`, `TypeError` or `KeyError` where metadata of format 2 are none."""
    name = key.rpartition("/")[2]
    if name not in (".zarray", ".zattrs"):
        return
    told = json.loads(content)
    if not isinstance(told, dict):
        raise TypeError("no object")
    if name == ".zarray":
        sizes = [*told["shape"], *told["chunks"]]
        if 2 * len(told["shape"]) != len(sizes) or not all(type(n) is int and n >= 0 for n in sizes):
            raise ValueError("shape and chunks")
        if "fill_value" not in told:
            raise KeyError("fill_value")


def _in_parts(places: dict[str, Place], inline: dict[str, bytes]) -> Found:
    """Cut large uncompressed chunks along their first axis, and note the arrays without a fill value.

    A variable that is not chunked is one chunk; a window of it would otherwise take all of it.
    """
    undefined = set()
    for key in [k for k in inline if k.endswith("/.zarray")]:
        name, array = key.removesuffix("/.zarray"), json.loads(inline[key])
        if array.get("fill_value") is None and array["shape"]:  # a scalar is a grid mapping, often without a value
            undefined.add(name)
        chunks, separator = array["chunks"], array.get("dimension_separator", ".")
        mine = {k: v for k, v in places.items() if k.startswith(f"{name}/") and v[2] is not None}
        if array.get("compressor") or array.get("filters") or array.get("order", "C") != "C" or not chunks or not mine:
            continue
        whole = max(length or 0 for _, _, length in mine.values())
        steps = chunks[0]
        if whole <= LARGEST_PART or steps < 2 or any(v[2] != whole for v in mine.values()) or whole % steps:
            continue
        count = math.ceil(array["shape"][0] / steps)
        size = whole // steps
        for chunk, (url, start, _) in mine.items():
            del places[chunk]
            first, *rest = chunk[len(name) + 1 :].split(separator)
            for step in range(steps if int(first) < count - 1 else array["shape"][0] - int(first) * steps):
                index = separator.join([str(int(first) * steps + step), *rest])
                places[f"{name}/{index}"] = (url, start + step * size, size)
        inline[key] = json.dumps({**array, "chunks": [1, *chunks[1:]]}).encode()
    return places, inline, undefined


def _cut(content: memoryview, part: Any) -> memoryview:
    """Return the part of some bytes that zarr asks for."""
    if isinstance(part, RangeByteRequest):
        return content[part.start : part.end]
    if isinstance(part, OffsetByteRequest):
        return content[part.offset :]
    if isinstance(part, SuffixByteRequest):
        return content[-part.suffix :]
    return content
