"""What the cells with a zigzag memory share: convolutions to several gates, the update of a cell, and the output gate.

A cell is updated by several convolutions whose results are added, each of which gives several gates at once. The
point-wise updates are functions with a backward pass of their own, which keep the gates and the cell alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.cores import ZigzagLayer
from sa_nowcast.models.kernels import laid_out
from sa_nowcast.models.maps import convolve, full_precision, normalise, prepared, tanh_
from sa_nowcast.models.options import ZigzagConfig

CellState = tuple[Tensor | None, Tensor | None]


class Convolution(nn.Module):
    """A convolution of maps that is normalised where the config says so; without a bias unless one is given.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    config : NetworkConfig
        Its kernel, and whether there is a norm: of a sample over positions and channels, with one scale per channel.
    bias : Tensor, optional
        (outputs,), where the bias starts: one of all convolutions that are added needs it.
    """

    def __init__(self, inputs: int, outputs: int, config: NetworkConfig, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Conv2d(inputs, outputs, config.kernel, bias=False).weight
        norm = isinstance(config, ZigzagConfig) and config.norm
        self.scale = nn.Parameter(torch.ones(outputs)) if norm else None
        self.bias = None if bias is None else nn.Parameter(bias)

    def prepared(self) -> Tensor:
        """Return the kernel as every step of a sequence uses it."""
        return prepared(self.weight)

    def of_zeros(self, like_NHWC: Tensor) -> Tensor:
        """Return what maps of zeros would give, for as many of them: the bias."""
        assert self.bias is not None
        return self.bias.expand(*like_NHWC.shape[:3], -1)

    def forward(self, kernel: Tensor, x_NHWC: Tensor) -> Tensor:
        """Return (N, H, W, outputs), in float32 under autocast."""
        if self.scale is None:
            return full_precision(convolve(x_NHWC, kernel, bias=self.bias))
        return normalise(convolve(x_NHWC, kernel), self.scale, self.bias)


class Pointwise(nn.Linear):
    """A 1×1 convolution of maps without bias or norm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def prepared(self) -> Tensor:
        """Return the matrix as every step of a sequence uses it, to be multiplied from the right."""
        return prepared(self.weight.T)


class Cell(nn.Module):
    """A module whose convolutions are prepared once a sequence."""

    kernels: type[Any]
    """A named tuple whose fields are the names of the convolutions."""

    def weights(self) -> Any:
        """Return the kernels as every step of a sequence uses them."""
        return self.kernels(*(getattr(self, name).prepared() for name in self.kernels._fields))


class TwoMemoryCell(Cell):
    """What cells with the memories C and M share: gates of both and an output gate, from X and H.

    Parameters
    ----------
    inputs : int
        Channels of X_t.
    hidden : int
        Channels of H, C, M and of every gate.
    config : NetworkConfig
    forgets : bool
        Whether C has a forget gate; without, what is kept of it is given.
    """

    def __init__(self, inputs: int, hidden: int, config: NetworkConfig, forgets: bool) -> None:
        super().__init__()
        of_c = "ifg" if forgets else "ig"
        self.split = [len(of_c) * hidden, hidden]
        bias = gate_bias(hidden, of_c + "ifgo", config.forget_bias)
        self.input = Convolution(inputs, len(bias), config, bias)
        self.hidden = Convolution(hidden, sum(self.split), config)  # i, f, g and o

    def addends(self, weights: Any, inputs_BHWG: Tensor, h: Tensor | None) -> tuple[list[Tensor], ...]:
        """Return what X and H add to the gates of C, to those of M and to o; no H stands for zeros."""
        of_c, width = self.split
        to_c, to_m, to_o = ([part] for part in torch.split(inputs_BHWG, [of_c, 3 * width, width], dim=-1))
        if h is not None:
            from_h = torch.split(self.hidden(weights.hidden, h), self.split, dim=-1)
            to_c.append(from_h[0])
            to_o.append(from_h[1])
        return to_c, to_m, to_o


class CellLayer(ZigzagLayer[Any, "CellState"]):
    """A layer that is one `TwoMemoryCell`; its state is (H, C), and its output H."""

    cell: TwoMemoryCell

    def weights(self) -> Any:
        """Return the weights as every step of a sequence uses them."""
        return self.cell.weights()

    def start(self, x_BHWC: Tensor) -> CellState:
        """Return H_0 and C_0: zeros, which add nothing."""
        return None, None

    def inputs(self, weights: Any, x_NHWC: Tensor) -> Tensor:
        """Return what X gives to all gates, for any number of frames at once."""
        y: Tensor = self.cell.input(weights.input, x_NHWC)
        return y

    def step(
        self, weights: Any, inputs_BHWG: Tensor, state: CellState, memory_BHWC: Tensor | None
    ) -> tuple[Tensor, CellState, Tensor]:
        """Return H_t, the next state and the memory."""
        h, c, m = self.cell(weights, inputs_BHWG, *state, memory_BHWC)[:3]
        return h, (h, c), m


def gate_bias(hidden: int, gates: str, forget_bias: float) -> Tensor:
    """Return where the bias of several gates starts: at 0, and of each forget gate (an f) at `forget_bias`."""
    return torch.tensor([forget_bias if gate == "f" else 0.0 for gate in gates]).repeat_interleave(hidden)


def cell_update(c: Tensor, *addends: Tensor) -> tuple[Tensor, Tensor]:
    """Return C_t = f ∘ C_{t-1} + i ∘ g, and i ∘ g, from C_{t-1} and what is added up to the gates i, f and g.

    All but the first of `addends` may have fewer channels, which go to the first gates.
    """
    if not torch.compiler.is_compiling():
        c, gain = CellUpdate.apply(c, *addends)  # type: ignore[no-untyped-call]
        return c, gain
    i, f, g = _added(addends).chunk(3, dim=-1)
    gain = i.sigmoid() * g.tanh()
    return f.sigmoid() * c + gain, gain


def gain_of(*addends: Tensor) -> Tensor:
    """Return i ∘ g from what is added up to the gates i and g."""
    i, g = zip(*(addend.chunk(2, dim=-1) for addend in addends), strict=True)
    return gated_output(_added(g), *i)


def gated_output(inner: Tensor, *addends: Tensor, squash: bool = False) -> Tensor:
    """Return o ∘ tanh(inner) with o the logistic sigmoid of what is added up, or with `squash` its tanh."""
    if not torch.compiler.is_compiling():
        h: Tensor = GatedOutput.apply(squash, inner, *addends)  # type: ignore[no-untyped-call]
        return h
    o = _added(addends)
    return (o.tanh() if squash else o.sigmoid()) * inner.tanh()


class CellUpdate(torch.autograd.Function):
    """`cell_update` for a machine without a compiler: few passes over memory, and only the gates and C are kept."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, *addends: Tensor) -> tuple[Tensor, Tensor]:
        """Compute C_t and i ∘ g."""
        C, gates = c.shape[-1], _added(addends)
        gates[..., : 2 * C].sigmoid_()
        tanh_(gates[..., 2 * C :])
        i, f, g = gates.chunk(3, dim=-1)
        gain = i * g
        c = laid_out(c, gain)
        ctx.save_for_backward(gates, c)
        ctx.channels = [addend.shape[-1] for addend in addends]
        ctx.set_materialize_grads(False)
        return torch.addcmul(gain, f, c), gain

    @staticmethod
    def backward(ctx: Any, grad_c: Tensor | None, grad_gain: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute the gradients, with σ' = σ(1 − σ) and tanh' = 1 − tanh² from the kept values."""
        gates, c = ctx.saved_tensors
        i, f, g = gates.chunk(3, dim=-1)
        grad_c = torch.zeros_like(c) if grad_c is None else laid_out(grad_c, c)
        grad_product = grad_c if grad_gain is None else grad_c + laid_out(grad_gain, c)
        grad_gates = torch.empty_like(gates)
        grad_i, grad_f, grad_g = grad_gates.chunk(3, dim=-1)
        dsigmoid, dtanh = torch.ops.aten.sigmoid_backward.grad_input, torch.ops.aten.tanh_backward.grad_input
        scratch = grad_product * g
        dsigmoid(scratch, i, grad_input=grad_i)
        dsigmoid(torch.mul(grad_c, c, out=scratch), f, grad_input=grad_f)
        dtanh(torch.mul(grad_product, i, out=scratch), g, grad_input=grad_g)
        return torch.mul(grad_c, f, out=scratch), *(grad_gates[..., :channels] for channels in ctx.channels)


class GatedOutput(torch.autograd.Function):
    """`gated_output` for a machine without a compiler: only o and the tanh are kept."""

    @staticmethod
    def forward(ctx: Any, squash: bool, inner: Tensor, *addends: Tensor) -> Tensor:
        """Compute H_t."""
        o = _added(addends)
        o = tanh_(o) if squash else o.sigmoid_()
        t = tanh_(torch.empty_like(o).copy_(inner))
        ctx.save_for_backward(o, t)
        ctx.squash, ctx.addends = squash, len(addends)
        return o * t

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients from the kept values."""
        o, t = ctx.saved_tensors
        grad_h = laid_out(grad_h, o)
        dsigmoid, dtanh = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
        grad_o = (dtanh if ctx.squash else dsigmoid)(grad_h * t, o)
        return None, dtanh(grad_h * o, t), *[grad_o] * ctx.addends


def _added(addends: tuple[Tensor, ...]) -> Tensor:
    """Return the sum of some maps, as a new one; channels that a map lacks are those of the last gates."""
    first, *others = addends
    same = [other for other in others if other.shape == first.shape]
    total = first + same.pop(0) if same else first.clone(memory_format=torch.contiguous_format)
    for other in same:
        total = total.add_(other)
    for other in others:
        if other.shape != first.shape:
            total[..., : other.shape[-1]].add_(other)
    return total
