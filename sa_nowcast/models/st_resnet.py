"""ST-ResNet (Zhang, Zheng and Qi, AAAI 2017): residual units on the last frames, and on those days and weeks before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.convolutions import Conv
from sa_nowcast.models.cores import Core
from sa_nowcast.models.options import STResNetConfig


class ResidualUnit(nn.Module):
    r"""A residual unit.

    .. math::

        x + W_2 ∗ \mathrm{relu}(W_1 ∗ \mathrm{relu}(x) + b_1) + b_2

    Parameters
    ----------
    width, kernel : int
        Channels, and width of both convolutions.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.first, self.second = (Conv(width, width, kernel) for _ in range(2))

    def forward(self, x_NHWC: Tensor) -> Tensor:
        """Return (N, H, W, width)."""
        y: Tensor = x_NHWC + self.second(self.first(x_NHWC.relu()).relu())
        return y


class Fusion(nn.Module):
    r"""The sum of what several rows of units give, with a weight for each row and channel.

    .. math::

        \tanh \Big( \sum_i W_i ∘ X_i \Big)

    Parameters
    ----------
    rows, pixels : int
        How many rows, and channels of each.
    bounded : bool
        Whether there is the tanh.
    """

    def __init__(self, rows: int, pixels: int, bounded: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(rows, pixels))
        self.bounded = bounded

    def forward(self, x_NHWC: Tensor) -> Tensor:
        """Return (N, H, W, pixels) from (N, H, W, rows · pixels); N may be several dimensions."""
        y = (x_NHWC.view(*x_NHWC.shape[:-1], *self.weight.shape) * self.weight).sum(-2)
        return y.tanh() if self.bounded else y


class Rows(Core):
    r"""The network, from maps to maps: a row of units for each of closeness, period and trend.

    .. math::

        X_i = W'_i ∗ \mathrm{relu}(\mathrm{units}_i(W_i ∗ [x_{t - l}, …] + b_i)) + b'_i

    where t is the time of the forecast, and the lags l in frames are 1, 2, …, ``closeness``; a day, two days, …, as
    many as ``period``; and a week, two weeks, …, as many as ``trend``. Frames of days and weeks before are those of the
    history; where a forecast goes beyond a day, its own. Of a history that is shorter than ``closeness`` the first
    frame stands for those before it.

    Parameters
    ----------
    inputs : int
        Channels of the maps that are read.
    config : NetworkConfig
        ``hidden`` is one number for each unit of a row.
    """

    def __init__(self, inputs: int, config: NetworkConfig) -> None:
        super().__init__()
        assert isinstance(config, STResNetConfig)
        self.lags, width, k = config.lags, config.hidden[0], config.kernel
        self.rows = nn.ModuleList(
            nn.Sequential(
                Conv(len(lags) * inputs, width, k),
                *(ResidualUnit(width, k) for _ in config.hidden),
                nn.ReLU(),
                Conv(width, inputs, k),
            )
            for lags in self.lags
        )

    def make_head(self, pixels: int, config: NetworkConfig) -> Fusion:
        """Return the fusion of the rows, bounded by tanh where the config says so."""
        assert isinstance(config, STResNetConfig)
        return Fusion(len(self.rows), pixels, config.bounded)

    def weights(self) -> None:
        """Return nothing: convolutions take their weights as they are."""

    def start(self, x_BHWC: Tensor) -> list[Tensor]:
        """Return the frames before the first one: none."""
        return []

    def step(self, weights: None, x_BHWC: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Give the next forecast from the frames read so far, which are the state."""
        frames = [*state, x_BHWC]
        rows = [
            row(torch.cat([frames[-min(lag, len(frames))] for lag in lags], dim=-1))
            for row, lags in zip(self.rows, self.lags, strict=True)
        ]
        return torch.cat(rows, dim=-1), frames

    def read(self, weights: None, x_TBHWC: Tensor, checkpoint_steps: int = 0) -> tuple[Tensor, list[Tensor]]:
        """Give the first forecast; known frames are read as far as it needs them."""
        known = list(x_TBHWC.unbind())
        top, frames = self.step(weights, known[-1], known[:-1])
        return top[None], frames

    def compile_parts(self, **options: Any) -> None:
        """Compile every row: the frames that a step reads grow from one to the next."""
        for row in self.rows:
            row.compile(dynamic=False, **options)


core = Rows
