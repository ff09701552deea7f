"""What libraries raise about files that are damaged, or of another kind, as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sa_nowcast.errors import DataError, SaNowcastError

CHECK = "replace the file by a whole one, leave it out, or give the right engine="


@contextmanager
def reading(path: Path, kind: str, fix: str = CHECK) -> Iterator[None]:
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
