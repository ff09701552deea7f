"""What has arrived: files of a folder, or new times of a Zarr store; noticed at once where the system tells."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sa_nowcast.errors import SaNowcastError
from sa_nowcast.operations.site import Refusal, Site, Values, read_frames
from sa_nowcast.storage.manifest import is_zarr


@dataclass(frozen=True)
class Arrival:
    """A file as it is now, or one time of a store."""

    path: Path
    key: str
    """Its name, size and time of change: what is written anew is another arrival."""
    changed: float
    """When its last byte was written, in seconds since 1970."""
    position: int | None = None
    """In a store."""


class Arrivals:
    """The folder or store of a service."""

    def __init__(self, site: Site) -> None:
        self.site, self.is_store = site, is_zarr(site.source)
        self._seen: dict[str, tuple[str, float]] = {}  # by name: the key, and since when it is that one

    def listed(self) -> Iterator[Arrival]:
        """Give all that is there, by name."""
        if self.is_store:
            yield from self._of_store()
            return
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(self.site.source.glob(self.site.recipe.arrivals.pattern)):
                try:
                    status = path.stat()
                except OSError:  # removed meanwhile
                    continue
                if path.name.startswith(".") or not (path.is_file() or is_zarr(path)):
                    continue
                changed = status.st_mtime_ns
                yield Arrival(path, f"{path.name}|{status.st_size}|{changed}", changed / 1e9)

    def _of_store(self) -> Iterator[Arrival]:
        try:
            frames = read_frames(self.site.recipe, self.site.source)
        except SaNowcastError:
            return  # it is being written just now
        for position, moment in enumerate(frames.times.astype("int64")):
            yield Arrival(self.site.source, f"{self.site.source.name}|{int(moment)}", time.time(), position)

    def settled(self, arrival: Arrival) -> bool:
        """Say whether a file has not changed for as long as the recipe says."""
        if arrival.position is not None:
            return True
        name, now = arrival.path.name, time.time()
        key, since = self._seen.get(name, ("", now))
        if key != arrival.key:
            since = now
            self._seen[name] = (arrival.key, since)
        settle = self.site.recipe.arrivals.settle
        # By its time of change, where the clock of the file system can be that of this machine.
        return now - since >= settle or settle <= now - arrival.changed < 1e9

    def waited(self, arrival: Arrival) -> float:
        """Return for how many seconds a file has been as it is."""
        _, since = self._seen.setdefault(arrival.path.name, (arrival.key, time.time()))
        return time.time() - since

    def forget(self, arrival: Arrival) -> None:
        """Forget a file that was dealt with."""
        self._seen.pop(arrival.path.name, None)

    def read(self, arrival: Arrival) -> list[tuple[int, Values, float]] | Refusal:
        """Return the frames of an arrival, or why there are none."""
        try:
            return self.site.read(arrival.path, arrival.position)
        except SaNowcastError as error:
            return Refusal("unreadable", str(error))
        except Exception as error:  # damaged files make libraries raise almost anything
            return Refusal("unreadable", " ".join(f"{type(error).__name__}: {error}".split())[:200])


class Notice:
    """Tells when something may have arrived: by the system's notification, else every so many seconds."""

    def __init__(self, folder: Path, poll: float) -> None:
        self._poll = poll
        self._woken, self._over = threading.Event(), threading.Event()
        self.notified = False
        try:
            import watchfiles
        except ImportError:
            return
        self.notified = True

        def watch() -> None:
            with contextlib.suppress(RuntimeError, OSError):  # no more watches to be had: the listing goes on
                for _ in watchfiles.watch(folder, stop_event=self._over, step=50, debounce=200, rust_timeout=1000,
                                          recursive=False, raise_interrupt=False):  # fmt: skip
                    self._woken.set()
            self.notified = False

        threading.Thread(target=watch, name="notice", daemon=True).start()

    def wait(self, longest: float | None = None) -> None:
        """Return when something may have arrived."""
        self._woken.wait(self._poll if longest is None else min(longest, self._poll))
        self._woken.clear()

    def wake(self) -> None:
        """Let a wait end."""
        self._woken.set()

    def stop(self) -> None:
        """End the notification."""
        self._over.set()
        self._woken.set()
