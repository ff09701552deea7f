"""Other libraries' messages suppressed in the thread that calls them, and nowhere else.

`contextlib.redirect_stdout` and `warnings.catch_warnings` replace and restore a state of the whole process. Where two
threads do so at once, one restores what the other had set, and standard output or the filters of warnings are wrong
from then on. Nothing is replaced here: what is added acts in one thread, and is removed.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, cast

_PRINTING = "pysteps"
_silent = threading.local()
_first_import = threading.RLock()  # what pysteps imports may come here too


@contextlib.contextmanager
def warnings_ignored(
    category: type[Warning], message: str = "", module: str | None = None, *, threads: str = "this"
) -> Iterator[None]:
    """Ignore warnings that this thread gives until the end of the block.

    Parameters
    ----------
    category : type of Warning
    message : str
        A regular expression for the beginning of the message; by default any.
    module : str, optional
        A regular expression for the beginning of the name of the module that is warned of; by default any.
    threads : {"this", "all"}
        "all" where a library works in threads of its own, as zarr does; then `message` should be one of its own.
    """
    pattern = _Here(message, threading.get_ident() if threads == "this" else None)
    filters = cast("list[Any]", warnings.filters)
    item = ("ignore", pattern, category, None if module is None else re.compile(module), 0)
    filters.insert(0, item)
    try:
        yield
    finally:
        pattern.over = True  # somebody else's catch_warnings may have kept a copy of the list
        with contextlib.suppress(ValueError):
            cast("list[Any]", warnings.filters).remove(item)


class _Here:
    """A pattern, as `warnings` asks for, that matches in one thread (None: in all)."""

    def __init__(self, pattern: str, thread: int | None) -> None:
        self.pattern, self.thread, self.over = re.compile(pattern, re.IGNORECASE), thread, False

    def match(self, text: str) -> re.Match[str] | None:
        """Return a match where `text` begins as the pattern says."""
        here = self.thread is None or threading.get_ident() == self.thread
        return self.pattern.match(text) if here and not self.over else None


@contextlib.contextmanager
def logging_from(level: int, names: Sequence[str]) -> Iterator[None]:
    """Let loggers of these names and below say only what is of `level` or above, where this thread logs."""
    thread = threading.get_ident()

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno >= level or record.thread != thread

    # A logger's filter does not see what comes up from those below it; that of its handlers does.
    below = [n for n in logging.root.manager.loggerDict if n.startswith(tuple(f"{name}." for name in names))]
    loggers = [logging.getLogger(name) for name in (*names, *below)]
    filtered: list[logging.Filterer] = [*loggers, *(handler for logger in loggers for handler in logger.handlers)]
    for each in filtered:
        each.addFilter(passes)
    try:
        yield
    finally:
        for each in filtered:
            each.removeFilter(passes)


@contextlib.contextmanager
def pysteps_silent() -> Iterator[None]:
    """Suppress what pysteps prints in this thread; it has no option for that."""
    depth = getattr(_silent, "depth", 0)
    _silent.depth = depth + 1
    try:
        yield
    finally:
        _silent.depth = depth


def load(module: str) -> ModuleType:
    """Import `module`, and undo the side effects of importing pysteps or OpenCV.

    pysteps prints where its configuration is, and ignores all RuntimeWarnings from then on; OpenCV gives processes that
    are started later another LD_LIBRARY_PATH.
    """
    package = module.partition(".")[0]
    if package not in (_PRINTING, "cv2") or module in sys.modules:
        loaded = importlib.import_module(module)
    else:
        with _first_import, _restored(), pysteps_silent():
            loaded = importlib.import_module(module)
    if package == _PRINTING:
        # In each module, for builtins are everyone's.
        for name, part in list(sys.modules.items()):
            if name.partition(".")[0] == _PRINTING and part is not None:
                vars(part).setdefault("print", _print)
    return loaded


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    finder, path = _Finder(), os.environ.get("LD_LIBRARY_PATH")
    before = list(warnings.filters)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        filters = cast("list[Any]", warnings.filters)
        for item in [item for item in filters if item not in before]:
            with contextlib.suppress(ValueError):
                filters.remove(item)
        if path is None:
            os.environ.pop("LD_LIBRARY_PATH", None)
        else:
            os.environ["LD_LIBRARY_PATH"] = path


class _Finder(MetaPathFinder):
    """Gives pysteps its `print` before its first line runs."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == _PRINTING else None
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                vars(module)["print"] = _print
                run(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _print(*values: Any, **options: Any) -> None:
    """Print, but for what pysteps prints within `pysteps_silent`."""
    if not getattr(_silent, "depth", 0):
        builtins.print(*values, **options)  # noqa: T201
