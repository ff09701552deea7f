"""PredRNN-V2 (Wang et al., TPAMI 2022): PredRNN whose two memories are kept from learning the same."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa_nowcast.models import predrnn
from sa_nowcast.models.cells import CellState
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.cores import Zigzag, ZigzagLayer
from sa_nowcast.models.maps import full_precision, prepared
from sa_nowcast.models.options import PredRNNv2Config

Weights = tuple[predrnn.Weights, Tensor | None]
State = tuple[CellState, Tensor | None]


class Layer(ZigzagLayer[Weights, State]):
    """A layer of PredRNN that sums up how alike its memories' gains were; its state is ((H, C), sum)."""

    def __init__(self, inputs: int, memory: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__(inputs, memory, hidden, config)
        self.layer = predrnn.Layer(inputs, memory, hidden, config)

    def weights(self) -> Weights:
        """Return the weights as every step of a sequence uses them; the core adds the one that layers share."""
        return self.layer.weights(), None

    def start(self, x_BHWC: Tensor) -> State:
        """Return H_0 and C_0, zeros, and no sum."""
        return self.layer.start(x_BHWC), None

    def inputs(self, weights: Weights, x_NHWC: Tensor) -> Tensor:
        """Return what X gives to all gates, for any number of frames at once."""
        return self.layer.inputs(weights[0], x_NHWC)

    def step(
        self, weights: Weights, inputs_BHWG: Tensor, state: State, memory_BHWC: Tensor | None
    ) -> tuple[Tensor, State, Tensor]:
        """Return H_t, the next state and the memory."""
        (h, c), total = state
        h, c, m, gains = self.layer.cell(weights[0], inputs_BHWG, h, c, memory_BHWC)
        shared = weights[1]
        if shared is not None and torch.is_grad_enabled():
            alike = likeness(*(full_precision(gain @ shared) for gain in gains))
            total = alike if total is None else total + alike
        return h, ((h, c), total), m


class Decoupled(Zigzag):
    r"""PredRNN's stack with the decoupling loss.

    .. math::

        β \, \mathrm{mean}_{t, l, c}\;
        \frac{|⟨A ∗ (i ∘ g),\; A ∗ (i' ∘ g')⟩|}{‖A ∗ (i ∘ g)‖\;‖A ∗ (i' ∘ g')‖}

    with products over all positions of a channel c, and A a 1×1 convolution that both memories and all layers share.
    """

    def __init__(self, inputs: int, config: NetworkConfig) -> None:
        super().__init__(Layer, inputs, config)
        self.weight = config.decoupling if isinstance(config, PredRNNv2Config) else 0.0
        width = config.hidden[0]
        # A parameter and no module, as the modules of a list are its layers.
        self.shared = nn.Linear(width, width, bias=False).weight if self.weight else None

    def weights(self) -> list[Any]:
        """Return the weights of each layer."""
        shared = None if self.shared is None else prepared(self.shared.T)
        return [(w, shared) for w, _ in super().weights()]

    def start(self, x_BHWC: Tensor) -> tuple[Any, Any]:
        """Return the state before the first frame; steps are counted."""
        return super().start(x_BHWC), 0

    def _step(self, weights: list[Any], inputs_BHWG: Tensor, state: Any) -> tuple[Tensor, Any]:
        out, after = super()._step(weights, inputs_BHWG, state[0])
        return out, (after, state[1] + 1)

    def penalty(self, state: Any) -> Tensor | None:
        """Return the decoupling loss, weighted."""
        (layers, _), steps = state
        totals = [total for _, total in layers if total is not None]
        return self.weight / steps * torch.stack(totals).mean() if totals else None


def likeness(a_BHWC: Tensor, b_BHWC: Tensor) -> Tensor:
    """Return the mean over samples and channels of the absolute cosine, over positions, between two maps."""
    a, b = a_BHWC.flatten(1, 2), b_BHWC.flatten(1, 2)
    return F.cosine_similarity(a, b, dim=1).abs().mean()


core = Decoupled
