"""The gates and the cell of a ConvLSTM, which the networks of the paper share (section 3.3)."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.cores import RecurrentLayer, S
from sa_nowcast.models.kernels import laid_out
from sa_nowcast.models.maps import convolve, full_precision, normalise, prepared, tanh_

W = TypeVar("W", bound=tuple[Any, ...])


class GateWeights(NamedTuple):
    """The kernels of `Gates` as every step of a sequence uses them."""

    input: Tensor
    hidden: Tensor


class Gates(nn.Module):
    r"""The gates of a ConvLSTM and the update of its cell.

    .. math::

        (i, f, o) &= σ(W_x ∗ X_t + W_h ∗ H_{t-1} + b), \quad g = \tanh(W_x ∗ X_t + W_h ∗ H_{t-1} + b)

        C_t &= f ∘ C_{t-1} + i ∘ g, \qquad H_t = o ∘ \tanh(C_t)

    Each of the two convolutions is normalised over the positions and channels of a sample, with one scale per
    channel, unless there is to be no norm. Their two shifts would only ever be added, so there is one, b.

    Parameters
    ----------
    inputs : int
        Channels of X_t.
    hidden : int
        Channels of H, of C, and of every gate.
    kernel : int
        Width of both convolutions; odd.
    forget_bias : float
        Where the forget gate's bias starts.
    norm : bool
        Whether the convolutions are normalised.
    """

    def __init__(self, inputs: int, hidden: int, kernel: int, forget_bias: float, norm: bool = True) -> None:
        super().__init__()
        self.input = nn.Conv2d(inputs, 4 * hidden, kernel, bias=False)
        self.hidden = nn.Conv2d(hidden, 4 * hidden, kernel, bias=False)
        self.input_scale = nn.Parameter(torch.ones(4 * hidden)) if norm else None
        self.hidden_scale = nn.Parameter(torch.ones(4 * hidden)) if norm else None
        self.bias = nn.Parameter(torch.zeros(4 * hidden))
        with torch.no_grad():
            self.bias[hidden : 2 * hidden] = forget_bias

    def weights(self) -> GateWeights:
        """Return the kernels as every step of a sequence uses them."""
        return GateWeights(prepared(self.input.weight), prepared(self.hidden.weight))

    def inputs(self, weights: GateWeights, x_NHWC: Tensor) -> Tensor:
        """Return the gate pre-activations from the input, (N, H, W, 4C); N may hold any number of frames."""
        if self.input_scale is None:
            return full_precision(convolve(x_NHWC, weights.input, bias=self.bias))
        return normalise(convolve(x_NHWC, weights.input), self.input_scale, self.bias)

    def forward(
        self, weights: GateWeights, inputs_BHWG: Tensor, h_BHWC: Tensor | None, c_BHWC: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return H_t and C_t, each (B, H, W, C); no H_{t-1} stands for zeros, which add nothing to the gates."""
        if h_BHWC is None:
            return lstm_update(inputs_BHWG, None, c_BHWC)
        y = convolve(h_BHWC, weights.hidden)
        y = full_precision(y) if self.hidden_scale is None else normalise(y, self.hidden_scale)
        return lstm_update(inputs_BHWG, y, c_BHWC)


class GatedLayer(RecurrentLayer[W, S]):
    """A layer with the gates of a ConvLSTM; its weights are a tuple whose first are those of the gates."""

    norm: bool = True

    def __init__(self, inputs: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__()
        self.hidden = hidden
        self.make_parts(inputs, config)

    def make_parts(self, inputs: int, config: NetworkConfig) -> None:
        """Make the gates. Saved optimisers and seeds depend on the order in which parameters are made."""
        self.gates = Gates(inputs, self.hidden, config.kernel, config.forget_bias, self.norm)

    def zeros(self, x_BHWC: Tensor) -> Tensor:
        """Return a map of zeros of the layer's own channels."""
        return x_BHWC.new_zeros(*x_BHWC.shape[:3], self.hidden)

    def inputs(self, weights: W, x_NHWC: Tensor) -> Tensor:
        """Return the gate pre-activations from the inputs, for any number of frames at once."""
        return self.gates.inputs(weights[0], x_NHWC)


def lstm_update(from_input: Tensor, from_hidden: Tensor | None, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return H_t and C_t from C_{t-1} and the two parts of the gate pre-activations (in the order i, f, o, g)."""
    if not torch.compiler.is_compiling():
        h, c = LSTMUpdate.apply(from_input, from_hidden, c)  # type: ignore[no-untyped-call]
        return h, c
    gates = from_input if from_hidden is None else from_input + from_hidden
    i, f, o, g = gates.chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


class LSTMUpdate(torch.autograd.Function):
    """`lstm_update` for a machine without a compiler: few passes over memory, and only the gates and C are kept."""

    @staticmethod
    def forward(ctx: Any, from_input: Tensor, from_hidden: Tensor | None, c: Tensor) -> tuple[Tensor, Tensor]:
        """Compute H_t and C_t."""
        gates = from_input.clone() if from_hidden is None else from_input + from_hidden
        C = c.shape[-1]
        gates[..., : 3 * C].sigmoid_()
        tanh_(gates[..., 3 * C :])
        i, f, o, g = gates.chunk(4, dim=-1)
        c_next = torch.mul(f, c).addcmul_(i, g)
        ctx.save_for_backward(gates, c, c_next)
        ctx.has_hidden = from_hidden is not None
        return tanh_(c_next.clone()).mul_(o), c_next

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor, grad_c_next: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Compute the gradients, with σ' = σ(1 − σ) and tanh' = 1 − tanh² from the kept values."""
        gates, c, c_next = ctx.saved_tensors
        grad_h, grad_c_next = laid_out(grad_h, c_next), laid_out(grad_c_next, c_next)
        i, f, o, g = gates.chunk(4, dim=-1)
        grad_gates = torch.empty_like(gates)
        grad_i, grad_f, grad_o, grad_g = grad_gates.chunk(4, dim=-1)
        dsigmoid, dtanh = torch.ops.aten.sigmoid_backward.grad_input, torch.ops.aten.tanh_backward.grad_input
        scratch = tanh_(c_next.clone())
        grad_c = grad_h * o
        dtanh(grad_c, scratch, grad_input=grad_c).add_(grad_c_next)
        dsigmoid(scratch.mul_(grad_h), o, grad_input=grad_o)
        dsigmoid(torch.mul(grad_c, g, out=scratch), i, grad_input=grad_i)
        dsigmoid(torch.mul(grad_c, c, out=scratch), f, grad_input=grad_f)
        dtanh(torch.mul(grad_c, i, out=scratch), g, grad_input=grad_g)
        return grad_gates, grad_gates if ctx.has_hidden else None, grad_c.mul_(f)
