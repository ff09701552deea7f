"""The folder that a service publishes to, read so that no request gets out of it or sees half of a file."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any, BinaryIO, Final

from sa_nowcast.errors import DataError, StorageError
from sa_nowcast.published import ALERTS, ARCHIVE, FORECASTS, LATEST, OBSERVED, SERVICE, STATUS, VERIFICATION

NAME: Final = re.compile(r"\d{8}T\d{6}Z")
"""What forecasts are called: their init time in UTC."""
OFFERED: Final = (FORECASTS, ARCHIVE, OBSERVED, VERIFICATION, ALERTS)
"""What is handed out as files; the service's recipe, log and journal are not."""
_MOST_FILES: Final = 10_000
_PAUSES: Final = (0.01, 0.02, 0.04, 0.0)


def pauses() -> Iterator[float]:
    """Give seconds to wait before each next look at a forecast that was not there, 0 after the last.

    Where one is replaced, it is not there between two renames.
    """
    yield from _PAUSES


@dataclass(frozen=True)
class File:
    """A file that was opened: it stays as it was, whatever gets its name meanwhile."""

    content: BinaryIO
    size: int
    version: str


class Published:
    """What a service published.

    Parameters
    ----------
    root : path
        The folder of the service.

    Raises
    ------
    StorageError
        It is no folder, or its state cannot be read.
    DataError
        No service publishes there.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser().resolve()
        if not self.root.is_dir():
            raise StorageError(str(root), "is no folder", fix="name the folder that a service publishes to")
        if not (self.root / SERVICE).is_file():
            raise DataError(
                str(root), f"no service publishes there (no {SERVICE})", fix="name the folder of the service's recipe"
            )
        self.service()
        self.status()

    def service(self) -> dict[str, Any]:
        """Return what the service is: its name, grid, products."""
        return self._json(SERVICE)

    def status(self) -> dict[str, Any]:
        """Return the state as the service wrote it last."""
        return self._json(STATUS)

    def names(self) -> list[str]:
        """Return the names of the forecasts, the oldest first."""
        with suppress(FileNotFoundError), os.scandir(self.root / FORECASTS) as entries:
            return sorted(e.name for e in entries if NAME.fullmatch(e.name) and e.is_dir(follow_symlinks=False))
        return []

    def latest(self) -> str | None:
        """Return the name of the newest forecast that is there."""
        for pause in pauses():
            names, named = self.names(), self._named_latest()
            if named is None or named in names:
                break
            sleep(pause)
        return named if named in names else (names[-1] if names else None)

    def _named_latest(self) -> str | None:
        with suppress(OSError, UnicodeDecodeError):
            named = (self.root / LATEST).read_text("utf-8").strip()
            return named if NAME.fullmatch(named) else None
        return None

    def open(self, path: str) -> File:
        """Open one of the files that are handed out; `FileNotFoundError` for all that is none of them.

        Every part is opened in the folder before it, and none may be a link: so no name leads out of the folder, and
        none does after it was checked.
        """
        parts = path.split("/")
        if parts[0] not in OFFERED or any(p in ("", ".", "..") or p.startswith(".") or "\0" in p for p in parts):
            raise FileNotFoundError(path)
        for pause in pauses() if NAME.fullmatch(parts[1] if len(parts) > 2 else "") else (0.0,):
            with suppress(FileNotFoundError):
                return self._opened(parts)
            sleep(pause)
        raise FileNotFoundError(path)

    def _opened(self, parts: list[str]) -> File:
        path = "/".join(parts)
        folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts[:-1]:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            # Not to wait for the writer of a pipe that somebody put there.
            descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(path) from error
        finally:
            os.close(folder)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise FileNotFoundError(path)
        return File(os.fdopen(descriptor, "rb"), found.st_size, version(found))

    def files(self, name: str) -> list[dict[str, Any]]:
        """Return the files of a forecast: path, size."""
        return [
            {"path": f"forecasts/{name}/{path}", "size": size}
            for (path, size), _ in zip(self._walk(self.root / FORECASTS / name), range(_MOST_FILES), strict=False)
        ]

    def _walk(self, folder: Path, before: str = "") -> Iterator[tuple[str, int]]:
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(Path(entry.path), f"{before}{entry.name}/")
                elif entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                    yield before + entry.name, entry.stat().st_size

    def _json(self, name: str) -> dict[str, Any]:
        path = self.root / name
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageError(
                str(path), f"cannot be read ({reason})", fix="start the service again, which writes it"
            ) from error
        if not isinstance(content, dict):
            raise unlike(str(path))
        return content


def unlike(path: str) -> StorageError:
    """Return the error of a file that is not what a service writes."""
    return StorageError(path, "is not what a service writes", fix="start the service again, which writes it")


def version(found: os.stat_result) -> str:
    """Return what tells one content of a name from the next, as an entity tag without its quotes."""
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"
