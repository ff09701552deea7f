"""Cells of stores elsewhere, read by threads before a window needs them: a request takes longer than a window.

Which cell comes next in a lane is known, since the order of windows is. So the cell after a lane's present one is under
way, and several lanes' requests run beside each other and beside the training step. Every cell is asked for once all
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

THREADS: Final = 4
"""They wait for the network, and decompress without holding the interpreter. Each has an object in memory, and as many
cells are read ahead at most: with eight, streaming took 625 MB at its peak and not below 600."""


class Ahead:
    """Reads that are under way, by lane and cell.

    Parameters
    ----------
    read : callable
        Reads a cell.
    """

    def __init__(self, read: Callable[[int], Any]) -> None:
        self._read = read
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[int, dict[int, Future[Any]]] = {}

    def ask(self, lane: int, cells: Iterable[int]) -> None:
        """Begin to read cells that are not under way."""
        coming = self._coming.setdefault(lane, {})
        for cell in cells:
            if cell not in coming:
                coming[cell] = self._submit(cell)

    def room(self, lane: int, lanes: int) -> bool:
        """Say whether a lane may have another cell under way: its share of all, at least one."""
        all_lanes = sum(map(len, self._coming.values()))
        return len(self._coming.get(lane, ())) < max(1, THREADS // lanes) and all_lanes < THREADS

    def take(self, lane: int, cell: int) -> Any:
        """Return a cell that was asked for, waiting for it where need be, or read it now."""
        coming = self._coming.get(lane, {}).pop(cell, None)
        return self._read(cell) if coming is None else coming.result()

    def forget(self, lane: int) -> None:
        """Drop what was asked for in a lane and is not needed any more."""
        for future in self._coming.pop(lane, {}).values():
            future.cancel()

    def in_order(self, cells: Iterable[int]) -> Iterator[tuple[int, Any]]:
        """Yield cells with what was read of them, with a few under way."""
        waiting: list[tuple[int, Future[Any]]] = []
        for cell in cells:
            waiting.append((cell, self._submit(cell)))
            if len(waiting) > THREADS:
                first, future = waiting.pop(0)
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()

    def _submit(self, cell: int) -> Future[Any]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sa_nowcast-ahead")
        return self._pool.submit(self._read, cell)

    def __getstate__(self) -> dict[str, Any]:
        return {"_read": self._read, "_pool": None, "_coming": {}}
