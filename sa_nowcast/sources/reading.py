"""What readers share: libraries imported when needed, options, damage as one line, indexing of what is not read yet."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from xarray.backends import BackendArray
from xarray.core import indexing

from sa_nowcast.computing import quiet
from sa_nowcast.computing.installing import install, pip_install
from sa_nowcast.errors import DataError, MissingLibraryError, RecipeError, SaNowcastError, one_of

CHECK: Final = "replace the file by a whole one, leave it out, or give the right engine="


def require(module: str, extra: str) -> ModuleType:
    """Import `module` by its dotted name, or raise a MissingLibraryError with the command that installs its `extra`."""
    library = module.partition(".")[0]
    try:
        return quiet.load(module)
    except ImportError as error:
        absent = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else None
        if absent == library:
            raise MissingLibraryError(library, "is not installed", fix=install(extra)) from error
        # Installed again only where it is broken itself: what is there already, pip leaves as it is.
        again = install(extra) if absent else pip_install(library, "--force-reinstall", "--no-deps")
        raise MissingLibraryError(library, f"is installed but cannot be imported ({error})", fix=again) from error


def require_known(options: Mapping[str, Any], reader: Callable[..., Any], engine: str) -> list[inspect.Parameter]:
    """Refuse an option that an engine's reader does not have; return the reader's parameters after the source."""
    _, *parameters = inspect.signature(reader).parameters.values()
    known = [p.name for p in parameters]
    for name in options:
        if name not in known:
            raise RecipeError("options", f"{name!r} is not known to engine {engine}", expected=one_of(name, known))
    return parameters


@contextmanager
def reading(path: object, kind: str, fix: str = CHECK) -> Iterator[None]:
    """Read `path` inside, by a library; raise a DataError where it is not a whole file of that `kind`.

    As little as can be belongs inside: damaged files make libraries raise almost anything (KeyError, TypeError,
    RuntimeError, MemoryError, ...), so everything is taken for damage but this package's own errors.
    """
    try:
        yield
    except SaNowcastError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        raise DataError(str(path), f"cannot be read as {kind} ({type(error).__name__}: {text})", fix=fix) from error


@contextmanager
def reading_numpy(path: Path, expected: str) -> Iterator[None]:
    """Do the same for a file of NumPy; one that holds Python objects is told from a damaged one."""
    try:
        yield
    except SaNowcastError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if "Object arrays" in text or "Python objects" in text:
            raise DataError(
                str(path),
                "the array holds Python objects, which can carry code and are not loaded",
                expected="numbers",
                fix="save it again as an array of numbers",
            ) from error
        raise DataError(
            str(path),
            f"is not a whole NumPy file ({text[:160] or type(error).__name__})",
            expected=expected,
            fix="download it again",
        ) from error


def outer(array: npt.NDArray[Any], key: tuple[Any, ...]) -> npt.NDArray[Any]:
    """Return ``array`` at the outer product of integers, slices and integer arrays, as xarray's backends index.

    Slices and integers come first, so that a mapped file is read no further than they reach.
    """
    basic = tuple(
        slice(k, k + 1 or None) if isinstance(k, int | np.integer) else k if isinstance(k, slice) else slice(None)
        for k in key
    )
    part = array[basic]
    for axis, k in enumerate(key):
        if isinstance(k, np.ndarray):
            part = np.take(part, k, axis=axis)
    drop = tuple(axis for axis, k in enumerate(key) if isinstance(k, int | np.integer))
    return np.ascontiguousarray(part.squeeze(axis=drop))


class MappedFile(BackendArray):
    """A .npy file, mapped anew for each read so that it can go to another process."""

    def __init__(self, path: Path, expected: str) -> None:
        self.path, self.expected = path, expected
        stored = self.mapped()
        self.shape, self.dtype = stored.shape, stored.dtype

    def mapped(self) -> npt.NDArray[Any]:
        """Map the file; one that is damaged is refused, `expected` says what it should be."""
        with reading_numpy(self.path, self.expected):
            stored: npt.NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return stored

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        stored = self.mapped()
        if stored.shape != self.shape or stored.dtype != self.dtype:
            raise DataError(str(self.path), "the file was changed since it was opened", fix="open it again")
        return outer(stored, key)
