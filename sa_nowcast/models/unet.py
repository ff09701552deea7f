"""U-Net (Ronneberger et al., 2015) as RainNet has it (Ayzel et al., 2020): the last frames as channels, to the next."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.maps import fold, full_precision, read_out_layer, to_multiple, unfold
from sa_nowcast.models.rollout import WholeForecaster

LAST = 2
"""Channels that are read out, for each that is predicted."""


class UNet(nn.Module):
    """Pairs of convolutions: down to ever coarser grids by the largest of 2×2 positions, and up again.

    On the way up each position is repeated to 2×2, and joined with what was on the grid on the way down.

    Parameters
    ----------
    inputs, outputs : int
        Channels of all frames that are read, and that are read out.
    config : NetworkConfig
        One of ``hidden`` for each grid, from the finest.
    """

    def __init__(self, inputs: int, outputs: int, config: NetworkConfig) -> None:
        super().__init__()
        hidden, kernel = config.hidden, config.kernel
        self.down = nn.ModuleList(pair(i, h, kernel) for i, h in zip((inputs, *hidden), hidden, strict=False))
        self.up = nn.ModuleList(pair(h + above, h, kernel) for h, above in pairwise(hidden))
        self.last = nn.Sequential(nn.Conv2d(hidden[0], outputs, kernel, padding=kernel // 2), nn.ReLU())

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return what is read out; sides have to be multiples of 2 for each grid but the finest."""
        maps = []
        for n, down in enumerate(self.down):
            x_BCHW = down(F.max_pool2d(x_BCHW, 2) if n else x_BCHW)
            maps.append(x_BCHW)
        x_BCHW = maps.pop()
        for up in reversed(list(self.up)):
            x_BCHW = up(torch.cat([F.interpolate(x_BCHW, scale_factor=2.0), maps.pop()], dim=1))
        last: Tensor = self.last(x_BCHW)
        return full_precision(last)


def pair(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Return two convolutions, each followed by a rectifier."""
    same = kernel // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=same),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, kernel, padding=same),
        nn.ReLU(),
    )


class UNetForecaster(WholeForecaster):
    """A U-Net that gives one frame, which is appended to those that it reads for the next.

    Sides that the coarsest grid does not divide are padded with zeros, and forecasts are cropped.

    Parameters
    ----------
    config : UNetConfig
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        pixels, self.history = config.channels * config.patch**2, config.least_history
        self.layers = UNet(self.history * pixels, LAST * pixels, config)
        self.head = read_out_layer(nn.Conv2d(LAST * pixels, pixels, 1), config.output)

    def forecast(self, x_BTCHW: Tensor, steps: int, truth: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the frames after x; see `WholeForecaster.forecast`."""
        frames, predictions = list(x_BTCHW[:, -self.history :].unbind(1)), []
        for step in range(steps):
            frame = self.next_frame(frames[-self.history :])
            predictions.append(frame)
            if truth is not None and step < steps - 1:
                later, mask = truth
                frame = torch.where(mask[:, step], later[:, step], frame)
            frames.append(frame)
        return torch.stack(predictions, 1)

    def next_frame(self, frames: list[Tensor]) -> Tensor:
        """Return the frame after as many as the network reads, each (B, C, H, W)."""
        patch, (rows, columns) = self.config.patch, frames[-1].shape[-2:]
        maps = to_multiple(fold(torch.stack(frames, 1), patch), 2 ** (len(self.config.hidden) - 1))
        folded = maps.permute(1, 0, 4, 2, 3).flatten(1, 2)
        y_BCHW = self.head(self.layers(folded))
        frame = unfold(y_BCHW.permute(0, 2, 3, 1)[None], patch, (rows, columns))[:, 0].to(frames[-1].dtype)
        return frame + frames[-1] if self.config.output == "change" else frame


network = UNetForecaster
