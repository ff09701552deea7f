"""ConvLSTM, the baseline: the paper's stack without self-attention and without memory."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from sa_nowcast.models.cores import Stack
from sa_nowcast.models.gates import GatedLayer, GateWeights

State = tuple[Tensor | None, Tensor]


class Layer(GatedLayer[tuple[GateWeights], State]):
    """One layer of ConvLSTM, with the equations of `Gates`; its state is (H, C), and its output H."""

    def weights(self) -> tuple[GateWeights]:
        """Return the weights as every step of a sequence uses them."""
        return (self.gates.weights(),)

    def start(self, x_BHWC: Tensor) -> State:
        """Return H_0 and C_0: zeros."""
        return None, self.zeros(x_BHWC)

    def step(self, weights: tuple[GateWeights], inputs_BHWG: Tensor, state: State) -> tuple[Tensor, State]:
        """Return H_t and the next state."""
        h, c = self.gates(weights[0], inputs_BHWG, *state)
        return h, (h, c)


class PlainLayer(Layer):
    """One without norms, for networks whose papers have none."""

    norm = False


core = partial(Stack, Layer)
