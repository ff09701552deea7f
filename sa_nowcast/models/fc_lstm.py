"""FC-LSTM (Srivastava et al., ICML 2015): an LSTM on the whole frame as one vector, bound to its grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sa_nowcast.errors import ModelError
from sa_nowcast.models.maps import full_precision, read_out_layer
from sa_nowcast.models.options import FCLSTMConfig
from sa_nowcast.models.rollout import WholeForecaster

USUAL_GRID = (64, 64)
"""Rows and columns where neither the config nor data say them: those of MovingMNIST."""

State = tuple[Tensor, Tensor]


class LSTM(nn.Module):
    r"""The cell, with peepholes that look at one value each.

    .. math::

        i &= σ(W_{xi} x_t + W_{hi} h_{t-1} + w_{ci} ∘ c_{t-1} + b_i), \quad
        f = σ(W_{xf} x_t + W_{hf} h_{t-1} + w_{cf} ∘ c_{t-1} + b_f)

        c_t &= f ∘ c_{t-1} + i ∘ \tanh(W_{xc} x_t + W_{hc} h_{t-1} + b_c)

        o &= σ(W_{xo} x_t + W_{ho} h_{t-1} + w_{co} ∘ c_t + b_o), \qquad h_t = o ∘ \tanh(c_t)

    Parameters
    ----------
    inputs, hidden : int
        Values of x, and of h and c.
    forget_bias : float
        Where b_f starts.
    """

    def __init__(self, inputs: int, hidden: int, forget_bias: float) -> None:
        super().__init__()
        self.input = nn.Linear(inputs, 4 * hidden)  # i, f, c, o; with the biases
        self.hidden = nn.Linear(hidden, 4 * hidden, bias=False)
        self.peepholes = nn.Parameter(torch.zeros(3, hidden))  # i, f, o
        with torch.no_grad():
            self.input.bias.zero_()
            self.input.bias[hidden : 2 * hidden] = forget_bias

    def forward(self, x: Tensor | None, state: State) -> State:
        """Return h_t and c_t, (B, hidden) each; no x is zeros."""
        h, c = state
        given = self.input.bias if x is None else full_precision(self.input(x))
        i, f, new, o = (given + full_precision(self.hidden(h))).chunk(4, dim=1)
        to_i, to_f, to_o = self.peepholes
        c = (f + to_f * c).sigmoid() * c + (i + to_i * c).sigmoid() * new.tanh()
        return (o + to_o * c).sigmoid() * c.tanh(), c


class EncoderDecoder(nn.Module):
    """Two stacks of cells: one reads the history, the other goes on from its states.

    Parameters
    ----------
    inputs : int
        Values of a frame.
    config : FCLSTMConfig
    """

    encoder: Any
    decoder: Any

    def __init__(self, inputs: int, config: FCLSTMConfig) -> None:
        super().__init__()
        below = (inputs, *config.hidden[:-1])
        self.encoder, self.decoder = (
            nn.ModuleList(LSTM(i, h, config.forget_bias) for i, h in zip(below, config.hidden, strict=True))
            for _ in range(2)
        )
        self.hidden = config.hidden

    def read(self, x_TBV: Tensor) -> list[State]:
        """Return the states of all layers after the known frames."""
        states = [(x_TBV.new_zeros(x_TBV.shape[1], h),) * 2 for h in self.hidden]
        for x in x_TBV.unbind():
            states = step(self.encoder, x, states)
        return states


def step(cells: Any, x: Tensor | None, states: list[State]) -> list[State]:
    """Return the states after one frame, or after none; each cell reads the h of the one below."""
    after: list[State] = []
    for cell, state in zip(cells, states, strict=True):
        after.append(cell(after[-1][0] if after else x, state))
    return after


class FCLSTM(WholeForecaster):
    """FC-LSTM's encoder and decoder of the future. Its weights fit one grid alone, and it refuses others.

    The decoder's first step reads nothing, later ones read its own last frame, or in training the true one.

    Parameters
    ----------
    config : FCLSTMConfig
    """

    def __init__(self, config: FCLSTMConfig) -> None:
        super().__init__(config)
        self.grid: tuple[int, ...] = config.grid or USUAL_GRID
        self.bounded = config.bounded
        values = config.channels * self.grid[0] * self.grid[1]
        self.layers = EncoderDecoder(values, config)
        self.head = read_out_layer(nn.Linear(config.hidden[-1], values), config.output)

    def check(self, x_BTCHW: Tensor, history: int, steps: int) -> None:
        """Refuse frames that the network cannot read, and those of another grid."""
        super().check(x_BTCHW, history, steps)
        rows, columns = x_BTCHW.shape[-2:]
        if (rows, columns) != self.grid:
            raise ModelError(
                "input frames",
                f"{rows} rows and {columns} columns",
                f"{self.grid[0]} and {self.grid[1]}, the grid that the weights of fc-lstm are bound to",
                f"build it with grid=({rows}, {columns})",
            )

    def forecast(self, x_BTCHW: Tensor, steps: int, truth: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the frames after x; see `WholeForecaster.forecast`."""
        states = self.layers.read(x_BTCHW.transpose(0, 1).flatten(2))
        last, given = x_BTCHW[:, -1], None
        predictions: list[Tensor] = []
        for number in range(steps):
            states = step(self.layers.decoder, given, states)
            out = full_precision(self.head(states[-1][0])).view(last.shape).to(last.dtype)
            out = out.sigmoid() if self.bounded else out
            last = last + out if self.config.output == "change" else out
            predictions.append(last)
            if truth is not None and number < steps - 1:
                later, mask = truth
                last = torch.where(mask[:, number], later[:, number], last)
            given = last.flatten(1)
        return torch.stack(predictions, 1)


network = FCLSTM
