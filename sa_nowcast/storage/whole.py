"""Files that are there whole or not at all, one writer at a time, and what goes wrong with them in one line."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from sa_nowcast.errors import RecipeError, StorageError, nearest

_PARTIAL: Final = ".partial"
_ME: Final = "process {} on {}"
LOCK: Final = ".lock"
"""The file in a folder that the process holds that writes there."""
_CURRENT_FOLDER: Final = -100  # AT_FDCWD
_EXCHANGE: Final = 2  # RENAME_EXCHANGE


def nearest_to(path: str | Path) -> str | None:
    """Return the remedy for a path that is not there: one beside it that has nearly its name, if there is one."""
    wanted = Path(path).expanduser()
    try:
        names = [found.name for found in wanted.parent.iterdir() if not found.name.startswith(".")]
    except OSError:
        return None
    near = nearest(wanted.name, names, 0.7)
    return f"write {str(wanted.with_name(near))!r}" if near else None


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    with partial_beside(path) as partial:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


@contextlib.contextmanager
def partial_beside(target: Path) -> Iterator[Path]:
    """Yield the path of a file or folder that is to become `target`; what stands there at the end is removed.

    Its name says which process of which machine it belongs to, so that what a killed one left is removed by the next
    that writes the same target there.
    """
    remove_partials(target.parent, target.name)
    owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    partial = target.with_name(f".{target.name}.{owner}{_PARTIAL}")
    try:
        yield partial
    finally:
        with contextlib.suppress(OSError):  # where nothing could be written, nothing can be removed
            remove(partial)


def remove_partials(folder: Path, target: str | None = None) -> None:
    """Remove what processes of this machine left in `folder` that were killed while they wrote `target`, or anything.

    Without a target the caller holds the folder's lock.
    """
    name = ".+" if target is None else re.escape(target)
    ours = re.compile(rf"\.{name}\.{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]{{8}}{re.escape(_PARTIAL)}")
    for rest in folder.glob(f".*{_PARTIAL}"):
        found = ours.fullmatch(rest.name)
        if found and not _alive(int(found[1])):
            remove(rest)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put_in_place(whole: Path, target: Path) -> None:
    """Give a finished file or folder its name; what stands there is exchanged with it in one step, and removed.

    Where the file system cannot exchange (some network ones), the former folder is put aside first: a process that is
    killed between these two renames leaves it as ``<whole>.former``.
    """
    if whole.is_file() and not target.is_dir():
        sync(whole)
        os.replace(whole, target)
    elif not target.exists():
        os.rename(whole, target)
    elif _exchanged(whole, target):
        remove(whole)
    else:
        former = whole.with_name(whole.name + ".former")
        remove(former)
        os.rename(target, former)
        try:
            os.rename(whole, target)
        except BaseException:
            os.rename(former, target)
            raise
        remove(former)
    sync(target.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where system or file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_CURRENT_FOLDER, os.fsencode(one), _CURRENT_FOLDER, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def writable_folder(folder: str | Path) -> Path:
    """Make `folder` where it is not there, and prove that a file can be written into it.

    Raises
    ------
    StorageError
        It cannot be made or written; found out before any work is done.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".writable."):
            pass
    except OSError as error:
        raise StorageError(
            str(path), f"the output folder cannot be written ({error.strerror or error})", fix="choose another folder"
        ) from error
    return path


@contextlib.contextmanager
def locked(lock: Path, place: Path) -> Iterator[None]:
    """Hold the file `lock`, so that one process at a time writes `place`; it is removed at the end.

    A process that is killed lets go of it; the file it leaves is taken over by the next one. `StorageError`: another
    process holds it (the message says which, on which machine), or the lock cannot be written.
    """
    while True:
        with storage(place):
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = lock.open("a+", encoding="utf-8")
            except FileNotFoundError:
                continue  # its last holder has just removed the folder
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(
                    str(place), f"is being written by {_holder(file)}", fix="wait for it, or end it"
                ) from None
            except OSError as error:
                raise StorageError(
                    str(place),
                    f"its lock cannot be had ({error.strerror})",
                    fix="use a file system with locks",
                ) from error
            try:
                mine = lock.stat().st_ino == os.fstat(file.fileno()).st_ino
            except FileNotFoundError:
                mine = False
            if not mine:
                continue  # likewise, the file
            with storage(place):
                file.truncate(0)
                file.write(_ME.format(os.getpid(), socket.gethostname()))
                file.flush()
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    lock.unlink()
            return


def _holder(lock: IO[str]) -> str:
    """Return who holds a lock: it may not have written so yet, and the name of a killed one may still be there."""
    holder = ""
    for _ in range(100):
        lock.seek(0)
        holder = lock.read().strip()
        named = re.fullmatch(_ME.format(r"(\d+)", "(.+)"), holder)
        if named and (named[2] != socket.gethostname() or _alive(int(named[1]))):
            break
        time.sleep(0.02)
    return holder or "another process"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


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
            str(place),
            f"cannot be written ({error.strerror or error})",
            fix="make room, give the right to write there, or name another place",
        ) from error


def require_writable(place: Path, *, folder: bool = False) -> None:
    """Prove that something can be written at `place`, in the nearest folder that is there; nothing is left behind.

    With `folder` it is a folder that files are written in.
    """
    nearest = place.absolute() if folder else place.absolute().parent
    with storage(place):
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        with tempfile.NamedTemporaryFile(dir=nearest, prefix=".writable."):
            pass


def require_place(target: str | Path, suffixes: tuple[str, ...], replace: bool) -> Path:
    """Return `target` as a path that can be written: by its ending, by what stands there, and by a trial.

    Nothing is left behind; missing folders are made by the writer.

    Raises
    ------
    RecipeError
        Another ending.
    StorageError
        Something stands there and is not to be replaced, or nothing can be written there.
    """
    place = Path(target).expanduser()
    if place.suffix.lower() not in suffixes:
        raise RecipeError(f"output {place}", f"ends in {place.suffix!r}", expected=f"one of {', '.join(suffixes)}")
    if place.exists() and not replace:
        raise StorageError(str(place), "exists already", fix="name another path, or give replace=True")
    require_writable(place)
    return place
