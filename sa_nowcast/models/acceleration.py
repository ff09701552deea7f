"""Two ways to spend less time between kernels: compiled cells, and a whole training step as one CUDA graph.

Neither is needed, and neither is on unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from sa_nowcast.errors import ModelError
from sa_nowcast.models.rollout import Network


def compile_cells(net: Network, **options: Any) -> Network:
    """Compile the parts of a network's core with ``torch.compile``, and leave the loops over time and layers in Python.

    A whole unrolled sequence takes very long to compile; a cell takes seconds, and one compiled cell serves all steps.
    The first call with new sizes compiles again.

    Parameters
    ----------
    net : Network
        Compiled in place; parameters and their names stay.
    **options
        For ``torch.compile``, such as ``mode``.

    Returns
    -------
    Network
        The same network.
    """
    net.compile_parts(**options)
    return net


class GraphedTrainingStep:
    """A training step captured as a CUDA graph, and replayed on new data instead of launched kernel by kernel.

    Forward, loss, backward and the optimiser's update are all in the graph: shapes are fixed, the optimiser has to be
    made with ``capturable=True``, and its learning rate may change between steps only where it is a tensor. The frames
    and the scheduled-sampling mask are inputs; frames are not checked for NaN.

    Parameters
    ----------
    net : Network
        On a CUDA device.
    optimizer : torch.optim.Optimizer
        Of the network's parameters, with ``capturable=True``.
    loss : callable
        ``loss(predictions, truth)``, both (B, T-1, C, H, W), to a scalar.
    x_BTCHW : Tensor
        Frames of the shape that all steps will have; they are used to warm up, and the weights are put back afterwards.
    history : int
        As for `Network.predict_all`.
    autocast : torch.dtype, optional
        Narrower type for convolutions and products, such as ``torch.bfloat16``.
    """

    def __init__(
        self,
        net: Network,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Tensor, Tensor], Tensor],
        x_BTCHW: Tensor,
        history: int,
        *,
        autocast: torch.dtype | None = None,
    ) -> None:
        if not all(group.get("capturable", False) for group in optimizer.param_groups):
            raise ModelError("CUDA graph", "the optimiser is not capturable", fix="make it with capturable=True")
        _require_cuda(x_BTCHW)
        self._net, self._optimizer, self._loss = net, optimizer, loss
        self._history, self._autocast = history, autocast
        self._x = x_BTCHW.clone()
        self._mask = torch.zeros(
            x_BTCHW.shape[0], x_BTCHW.shape[1] - history - 1, dtype=torch.bool, device=x_BTCHW.device
        )
        weights = [p.detach().clone() for p in net.parameters()]
        stream = torch.cuda.Stream(x_BTCHW.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(x_BTCHW.device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream(x_BTCHW.device).wait_stream(stream)
        with torch.no_grad():
            for parameter, weight in zip(net.parameters(), weights, strict=True):
                parameter.copy_(weight)
            for state in optimizer.state.values():
                for value in state.values():
                    if isinstance(value, Tensor):
                        value.zero_()
        self._optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._value = self._step()

    def __call__(self, x_BTCHW: Tensor, truth_mask: Tensor | None = None) -> Tensor:
        """Train on one batch; return its loss, a scalar that the next call overwrites."""
        self._x.copy_(x_BTCHW)
        if truth_mask is None:
            self._mask.zero_()
        else:
            self._mask.copy_(truth_mask)
        self._graph.replay()
        return self._value

    def _step(self) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=self._autocast, enabled=self._autocast is not None, cache_enabled=False):
            predictions = self._net.predict_all(self._x, self._history, self._mask)
        loss = self._loss(predictions.float(), self._x[:, 1:])
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()


class _Predictions(nn.Module):
    """`Network.predict_all` for one history, as a module: what is captured needs to know its parameters."""

    def __init__(self, net: Network, history: int, autocast: torch.dtype | None) -> None:
        super().__init__()
        self.net, self.history, self.autocast = net, history, autocast

    def forward(self, x_BTCHW: Tensor, truth_mask: Tensor) -> Tensor:
        with torch.autocast("cuda", dtype=self.autocast, enabled=self.autocast is not None, cache_enabled=False):
            return self.net.predict_all(x_BTCHW, self.history, truth_mask).float()


def graphed_predictions(
    net: Network, x_BTCHW: Tensor, truth_mask: Tensor, history: int, *, autocast: torch.dtype | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Capture `Network.predict_all`, forward and backward, as CUDA graphs for tensors of these shapes.

    Loss and optimiser stay outside, so that this fits into any training loop; `GraphedTrainingStep` captures all.

    Parameters
    ----------
    net : Network
        On a CUDA device, in training mode; its parameters keep their gradients.
    x_BTCHW, truth_mask : Tensor
        Frames and a scheduled-sampling mask of the shapes that all calls will have; they are used to warm up.
    history : int
        As for `Network.predict_all`.
    autocast : torch.dtype, optional
        Narrower type for convolutions and products.

    Returns
    -------
    callable
        ``f(x, truth_mask)``, the predictions in float32; the next call overwrites them.

    Raises
    ------
    ModelError
        The frames are not on a CUDA device.
    """
    _require_cuda(x_BTCHW)
    # Autocast that is on around the capture would keep its cache of converted weights, which a graph cannot see.
    with torch.autocast("cuda", enabled=False):
        graphed = torch.cuda.make_graphed_callables(
            _Predictions(net, history, autocast), (x_BTCHW.clone(), truth_mask.clone())
        )
    return cast("Callable[[Tensor, Tensor], Tensor]", graphed)


def _require_cuda(x_BTCHW: Tensor) -> None:
    if not x_BTCHW.is_cuda:
        raise ModelError(
            "CUDA graph", f"the frames are on {x_BTCHW.device}", "a CUDA device", "train without graph on this device"
        )
