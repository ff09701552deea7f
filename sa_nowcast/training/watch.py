"""The clock and the signals: what ends a run before its last update."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import lightning as L
import torch

from sa_nowcast.training.launch import Launch
from sa_nowcast.training.module import NowcastModule

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Watch(L.Callback):
    """Counts the seconds of a run over all its parts, and notes a signal.

    SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (Slurm's warning) let the update under way finish; then the run is saved and
    stopped. Several processes agree on both after every update and validation, for they have to stop at the same one.
    """

    def __init__(self, launch: Launch, max_seconds: float | None) -> None:
        self.launch, self.max_seconds = launch, max_seconds
        self.elapsed = 0.0
        self._received: signal.Signals | None = None
        self._agreed: signal.Signals | None = None
        self._mark: float | None = None

    @property
    def stopped_by(self) -> str | None:
        """The signal that came and that all processes know of, or None."""
        found = self._received if self.launch.alone else self._agreed
        return None if found is None else found.name

    @property
    def time_is_up(self) -> bool:
        """Whether the run has had its time."""
        return self.max_seconds is not None and self.elapsed >= self.max_seconds

    def noticed(self) -> bool:
        """Whether this process was sent a signal, of which the others may not know yet."""
        return self._received is not None

    def agree(self, device: torch.device) -> None:
        """Let all processes know the longest time and a signal that any of them was sent; all of them call this."""
        if self.launch.alone:
            return
        seen = torch.tensor([self.elapsed, self._received or 0], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(seen, torch.distributed.ReduceOp.MAX)
        self.elapsed = float(seen[0])
        self._agreed = signal.Signals(int(seen[1])) if seen[1] else None

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Listen to signals, once the trainer has set its own handlers; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)
        self._mark = time.perf_counter()
        assert isinstance(module, NowcastModule)
        module.elapsed = self.elapsed

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        """Look at the clock, and agree with the other processes."""
        now = time.perf_counter()
        assert self._mark is not None
        self.elapsed, self._mark = self.elapsed + now - self._mark, now
        self.agree(module.device)
        assert isinstance(module, NowcastModule)
        module.elapsed = self.elapsed

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"elapsed": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what a checkpoint kept."""
        self.elapsed = state_dict["elapsed"]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait; what the last checkpoint holds is safe
        self._received = signal.Signals(number)


@contextlib.contextmanager
def former_signal_handlers() -> Iterator[None]:
    """Put the handlers of `SIGNALS` back at the end, also after an error; the trainer does not."""
    main = threading.current_thread() is threading.main_thread()
    former = {number: signal.getsignal(number) for number in SIGNALS} if main else {}
    try:
        yield
    finally:
        for number, handler in former.items():
            if handler is not None:  # one that was not set from Python cannot be set again
                signal.signal(number, handler)
