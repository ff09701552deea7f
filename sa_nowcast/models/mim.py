"""MIM (Wang et al., CVPR 2019): PredRNN whose layers above the first forget by two memories within the memory."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sa_nowcast.models import predrnn
from sa_nowcast.models.cells import Cell, Convolution, cell_update, gate_bias, gated_output
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.cores import MakeZigzagLayer, Zigzag, ZigzagLayer
from sa_nowcast.models.options import MIMConfig

HandedOn = tuple[Tensor, Tensor | None]
"""The zigzag memory M, and what the first module of the layer below gives, D."""


class ModuleWeights(NamedTuple):
    """The kernels of `MemoryInMemory` as every step of a sequence uses them."""

    change: Tensor
    n: Tensor
    new_n: Tensor
    d: Tensor
    cell: Tensor
    new_s: Tensor


class MemoryInMemory(Cell):
    r"""What a layer keeps of C_{t-1}: the modules for what is not stationary, N, and for what is, S.

    .. math::

        (i, f) &= σ(W_x ∗ X + W_n ∗ N_{t-1} + b), \quad g = \tanh(W_x ∗ X + W_n ∗ N_{t-1} + b), \quad
        N_t = f ∘ N_{t-1} + i ∘ g

        o &= σ(W_x ∗ X + W_n ∗ N_t + b), \qquad D = o ∘ \tanh(N_t)

        (i, f) &= σ(W_d ∗ D + W_c ∗ C_{t-1} + b), \quad g = \tanh(W_d ∗ D + W_c ∗ C_{t-1} + b), \quad
        S_t = f ∘ S_{t-1} + i ∘ g

        o &= σ(W_d ∗ D + W_c ∗ C_{t-1} + W_s ∗ S_t + b), \qquad T = o ∘ \tanh(S_t)

    Each gate has weights of its own. X is a difference between two steps, so that the first step has none: there D and
    N are zero.

    Parameters
    ----------
    inputs, hidden : int
        Channels of X, and of all else.
    config : NetworkConfig
    """

    kernels = ModuleWeights

    def __init__(self, inputs: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__()
        self.split = [3 * hidden, hidden]
        self.change = Convolution(inputs, 4 * hidden, config, gate_bias(hidden, "ifgo", config.forget_bias))
        self.n = Convolution(hidden, 3 * hidden, config)
        self.new_n = Convolution(hidden, hidden, config)
        self.d = Convolution(hidden, 4 * hidden, config, gate_bias(hidden, "ifgo", config.forget_bias))
        self.cell = Convolution(hidden, 4 * hidden, config)
        self.new_s = Convolution(hidden, hidden, config)

    def forward(
        self, weights: ModuleWeights, x: Tensor | None, c: Tensor | None, n: Tensor | None, s: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """Return T, D, N_t and S_t; no X stands for the first step, and no C, D or N for zeros."""
        d = None
        if x is not None:
            to_n, to_o = ([part] for part in torch.split(self.change(weights.change, x), self.split, dim=-1))
            if n is not None:
                to_n.append(self.n(weights.n, n))
            n, _ = cell_update(torch.zeros_like(s) if n is None else n, *to_n)
            d = gated_output(n, *to_o, self.new_n(weights.new_n, n))
        from_d = self.d.of_zeros(s) if d is None else self.d(weights.d, d)
        to_s, to_o = ([part] for part in torch.split(from_d, self.split, dim=-1))
        if c is not None:
            from_c = torch.split(self.cell(weights.cell, c), self.split, dim=-1)
            to_s.append(from_c[0])
            to_o.append(from_c[1])
        s, _ = cell_update(s, *to_s)
        return gated_output(s, *to_o, self.new_s(weights.new_s, s)), d, n, s


class State(NamedTuple):
    """What a `Layer` keeps: H, C, the map that it read, N and S."""

    h: Tensor | None
    c: Tensor | None
    below: Tensor | None
    n: Tensor | None
    s: Tensor


class Lowest(ZigzagLayer[Any, Any]):
    """The lowest layer, which is one of another network: it has no modules, and hands on no D."""

    def __init__(
        self, inputs: int, memory: int, hidden: int, config: NetworkConfig, layer: MakeZigzagLayer = predrnn.Layer
    ) -> None:
        super().__init__(inputs, memory, hidden, config)
        self.layer = layer(inputs, memory, hidden, config)

    def weights(self) -> Any:
        """Return the weights as every step of a sequence uses them."""
        return self.layer.weights()

    def start(self, x_BHWC: Tensor) -> Any:
        """Return the state before the first frame."""
        return self.layer.start(x_BHWC)

    def inputs(self, weights: Any, x_NHWC: Tensor) -> Tensor:
        """Return what X gives to all gates, for any number of frames at once."""
        return self.layer.inputs(weights, x_NHWC)

    def step(
        self, weights: Any, inputs_BHWG: Tensor, state: Any, memory_BHWC: HandedOn | None
    ) -> tuple[Tensor, Any, HandedOn]:
        """Return H_t, the next state, M and no D."""
        h, state, m = self.layer.step(weights, inputs_BHWG, state, None if memory_BHWC is None else memory_BHWC[0])
        return h, state, (m, None)


class Layer(ZigzagLayer[Any, State]):
    """A layer with `MemoryInMemory`: T takes the place of f ∘ C_{t-1} in its cell, `predrnn.STLSTM`.

    Parameters
    ----------
    inputs, memory, hidden, config
        As for `ZigzagLayer`.
    cascaded : bool
        Whether its first module reads the D of the layer below in place of a difference.
    """

    def __init__(self, inputs: int, memory: int, hidden: int, config: NetworkConfig, cascaded: bool = False) -> None:
        super().__init__(inputs, memory, hidden, config)
        self.width, self.cascaded = hidden, cascaded
        self.cell = self.make_cell(inputs, memory, hidden, config)
        self.within = MemoryInMemory(inputs, hidden, config)

    def make_cell(self, inputs: int, memory: int, hidden: int, config: NetworkConfig) -> Any:
        """Return the cell."""
        return predrnn.STLSTM(inputs, hidden, config, forgets=False)

    def weights(self) -> Any:
        """Return the weights as every step of a sequence uses them."""
        return self.cell.weights(), self.within.weights()

    def start(self, x_BHWC: Tensor) -> State:
        """Return the state before the first frame: zeros."""
        return State(None, None, None, None, x_BHWC.new_zeros(*x_BHWC.shape[:3], self.width))

    def inputs(self, weights: Any, x_NHWC: Tensor) -> Tensor:
        """Return the map below as it is: its change is read too."""
        return x_NHWC

    def step(
        self, weights: Any, inputs_BHWG: Tensor, state: State, memory_BHWC: HandedOn | None
    ) -> tuple[Tensor, State, HandedOn]:
        """Return H_t, the next state, M and D."""
        assert memory_BHWC is not None  # there is a layer below
        x, (m, d) = inputs_BHWG, memory_BHWC
        if not self.cascaded:
            d = None if state.below is None else x - state.below
        kept, d, n, s = self.within(weights[1], d, state.c, state.n, state.s)
        given = self.cell.input(weights[0].input, x)
        h, c, m = self.cell(weights[0], given, state.h, state.c, m, kept)[:3]
        return h, State(h, c, None if self.cascaded else x, n, s), (m, d)


def stack(
    lowest: MakeZigzagLayer, second: MakeZigzagLayer, others: type[Layer], inputs: int, config: NetworkConfig
) -> Zigzag:
    """Return the lowest layer with others above it, which read the change of what is below, or its D."""
    above = partial(others, cascaded=True) if isinstance(config, MIMConfig) and config.cascade == "code" else others
    layers: list[MakeZigzagLayer] = [lowest, second, *[above] * len(config.hidden)]
    return Zigzag(layers[: len(config.hidden)], inputs, config)


core = partial(stack, Lowest, Layer, Layer)
