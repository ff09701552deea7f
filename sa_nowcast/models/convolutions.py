"""What networks share that are encoders and decoders of frames: convolutions with a bias, and maps of half the size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa_nowcast.models.maps import convolve, full_precision


class Conv(nn.Conv2d):
    """A convolution of maps with a bias, and the function that follows it.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel : int
        Its width; odd.
    then : callable, optional
        Such as `torch.relu`.
    spread : int
        Distance of the positions that it reads.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, then: Callable[[Tensor], Tensor] | None = None, spread: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel)
        # Glorot and Bengio (2010): torch's own start lets deep stacks of convolutions fade to their biases.
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(cast("Tensor", self.bias))
        self.then, self.spread = then, spread

    def forward(self, x_NHWC: Tensor) -> Tensor:
        """Return (N, H, W, outputs), in float32 under autocast; N may be several dimensions."""
        y = convolve(x_NHWC.flatten(0, -4), self.weight, bias=self.bias, dilation=self.spread)
        y = full_precision(y).view(*x_NHWC.shape[:-1], -1)
        return y if self.then is None else self.then(y)


def in_a_row(widths: Sequence[int], kernel: int, then: Callable[[Tensor], Tensor] = torch.relu) -> nn.Sequential:
    """Return convolutions of which each reads the one before, from ``widths[0]`` channels on."""
    return nn.Sequential(*(Conv(i, o, kernel, then) for i, o in pairwise(widths)))


def halve(x_NHWC: Tensor) -> Tensor:
    """Return the largest of 2×2 positions; sides are even."""
    return F.max_pool2d(x_NHWC.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
