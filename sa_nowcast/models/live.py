"""The peak bytes of a training step or a forecast, and a forecast's operations, counted on a run without values."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sa_nowcast.models.config import NetworkConfig


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that are made under it, while they live; views of those before are none."""

    def __init__(self, before: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._sizes: dict[int, int] = {tensor.untyped_storage()._cdata: 0 for tensor in before}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


@functools.lru_cache(maxsize=256)
def live_bytes(
    config: NetworkConfig, grid: tuple[int, int], batch: int, history: int, steps: int, training: bool
) -> int:
    """Count on torch's meta device, whose tensors have sizes and no values.

    Compared with what 24 processes held whose allocator loses nothing, drawn at random among the five networks of the
    paper, this is 0.91 to 1.08 of it. Networks may declare what they hold because of the time: it takes some 0.1 ms for
    each of the thousands of operations, so 0.2 s for a forecast by a small network, 1.4 s for training the paper's, and
    20 s for a forecast in Lagrangian coordinates on 640×710 pixels; and before the first product of matrices torch
    loads its symbolic shapes and its compiler, in a second.

    Parameters
    ----------
    config, grid, batch, history, steps, training
        As for `sa_nowcast.models.estimate_memory`.

    Returns
    -------
    int
        Bytes, with frames and gradients and without weights and the optimiser's values.
    """
    from sa_nowcast.models import build

    frames = history + (steps if training else 0)
    with torch.device("meta"):
        net = build(config)
    with _Live(net.parameters()) as live, torch.set_grad_enabled(training):
        x = torch.empty(batch, frames, config.channels, *grid, device="meta")
        if training:
            first = net.first_predicted(history)
            predictions, penalty = net.predictions_and_penalty(x, history)
            loss = (predictions[:, first - 1 :] - x[:, first:]).square().mean()
            del predictions
            (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
        else:
            net(x, steps)
    peak: int = live.peak
    return peak


@functools.lru_cache(maxsize=256)
def forecast_flop(config: NetworkConfig, grid: tuple[int, int], history: int, steps: int) -> int:
    """Count the floating-point operations of one forecast, as `live_bytes` does.

    Parameters
    ----------
    config, grid, history, steps
        As for `sa_nowcast.models.estimate_memory`.

    Returns
    -------
    int
        Additions and multiplications, so 2 for each weight and value, of convolutions, products of matrices and
        attention; what goes value by value, as gates and warps do, is not counted.
    """
    from sa_nowcast.models import build

    with torch.device("meta"):
        net = build(config.completed(history, grid))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, history, config.channels, *grid, device="meta"), steps)
    return int(counter.get_total_flops())
