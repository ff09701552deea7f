"""Files that are there whole or not at all, and what goes wrong with them in one line."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from sa_nowcast.errors import StorageError


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync folders
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def storage(place: Path) -> Iterator[None]:
    """Turn an error of the operating system into one line about `place`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            str(place), f"cannot be written ({error.strerror or error})", fix="check rights and space"
        ) from error
