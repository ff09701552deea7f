"""TrajGRU (Shi et al., NeurIPS 2017): recurrent layers that gather their state along flows which they learn.

An encoder of such layers, each on a coarser grid than the one below, reads the history. The forecaster mirrors it: each
of its layers begins with the state in which the encoder's ended, and reads what the coarser one gives.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa_nowcast.models.maps import fold, full_precision, read_out_layer, to_multiple, unfold
from sa_nowcast.models.options import TrajGRUConfig
from sa_nowcast.models.rollout import WholeForecaster

SLOPE = 0.2
"""Of the leaky rectifiers, for negative values."""
FLOW_CHANNELS = 32


class Setting(NamedTuple):
    """The convolutions below each layer, from the lowest one up; the last ones named serve all further layers."""

    channels: int
    """Of what the lowest layer reads, and of what is made of the forecaster's lowest one."""
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    back: tuple[int, ...]
    """Widths of the transposed convolutions, which lead from a layer of the forecaster to the one below."""

    def below(self, layer: int) -> tuple[int, int, int]:
        """Return width, stride and width of the way back."""
        n = min(layer, len(self.widths) - 1)
        return self.widths[n], self.strides[n], self.back[n]


SETTINGS = {
    "moving-mnist": Setting(16, (3, 3), (1, 2), (3, 4)),
    "hko-7": Setting(8, (7, 5, 3), (5, 3, 2), (7, 5, 4)),
}


def warp(h_BCHW: Tensor, flows_BL2HW: Tensor) -> Tensor:
    """Return the state gathered along several flows, bilinear, with zeros outside: h(x - u_l(x)) at each position x.

    Parameters
    ----------
    h_BCHW : Tensor
    flows_BL2HW : Tensor
        How far what is there has moved, in positions: to the right, and down.

    Returns
    -------
    Tensor
        (B, C, L, H, W).
    """
    B, L, _, H, W = flows_BL2HW.shape
    across = torch.arange(W, dtype=h_BCHW.dtype, device=h_BCHW.device) - flows_BL2HW[:, :, 0]
    down = torch.arange(H, dtype=h_BCHW.dtype, device=h_BCHW.device)[:, None] - flows_BL2HW[:, :, 1]
    # grid_sample counts from -1 to 1, between the outer edges of the outermost positions.
    places = torch.stack([(2 * across + 1) / W - 1, (2 * down + 1) / H - 1], dim=-1)
    gathered = F.grid_sample(h_BCHW, places.view(B, L * H, W, 2), align_corners=False)
    return gathered.view(B, h_BCHW.shape[1], L, H, W)


class TrajGRU(nn.Module):
    r"""The cell.

    .. math::

        U &= W_u ∗ λ(W_{fx} ∗ X_t + W_{fh} ∗ H_{t-1} + b_f) + b_u, \qquad
        H^l(x) = H_{t-1}(x - U^l(x)), \quad l = 1 … L

        R &= σ(W_{xr} ∗ X_t + W_{hr} [H^1; …; H^L] + b_r), \quad Z = σ(W_{xz} ∗ X_t + W_{hz} [H^1; …; H^L] + b_z)

        H' &= λ(W_{xh} ∗ X_t + b_x + R ∘ (W_{hh} [H^1; …; H^L] + b_h)), \qquad H_t = Z ∘ H_{t-1} + (1 - Z) ∘ H'

    λ is a leaky rectifier; the products with H^1 … H^L are 1×1 convolutions. U starts at zero.

    Parameters
    ----------
    inputs : int
        Channels of X_t; 0 is a layer without input, which leaves out all products with X.
    hidden : int
        Channels of H.
    links : int
        L.
    kernel : int
        Width of the three convolutions to U; that of X to the gates is 3.
    """

    def __init__(self, inputs: int, hidden: int, links: int, kernel: int) -> None:
        super().__init__()
        self.links = links
        same = kernel // 2
        if inputs:
            self.flow_input = nn.Conv2d(inputs, FLOW_CHANNELS, kernel, padding=same)
            self.input = nn.Conv2d(inputs, 3 * hidden, 3, padding=1)
        self.flow_hidden = nn.Conv2d(hidden, FLOW_CHANNELS, kernel, padding=same)
        self.flows = nn.Conv2d(FLOW_CHANNELS, 2 * links, kernel, padding=same)
        self.hidden = nn.Conv2d(links * hidden, 3 * hidden, 1)
        nn.init.zeros_(self.flows.weight)
        assert self.flows.bias is not None
        nn.init.zeros_(self.flows.bias)

    def inputs(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return what X gives to the flows and to the gates, for any number of frames at once."""
        return full_precision(self.flow_input(x_NCHW)), full_precision(self.input(x_NCHW))

    def forward(self, given: tuple[Tensor, Tensor] | None, h: Tensor) -> Tensor:
        """Return H_t from what `inputs` gave, and H_{t-1}."""
        to_flow = full_precision(self.flow_hidden(h))
        to_flow = to_flow if given is None else given[0] + to_flow
        u = full_precision(self.flows(F.leaky_relu(to_flow, SLOPE)))
        u = u.view(u.shape[0], self.links, 2, *u.shape[2:])
        r, z, new = full_precision(self.hidden(warp(h, u).flatten(1, 2))).chunk(3, dim=1)
        if given is None:
            return torch.lerp(F.leaky_relu(r.sigmoid() * new, SLOPE), h, z.sigmoid())
        x_r, x_z, x_new = given[1].chunk(3, dim=1)
        new = F.leaky_relu(x_new + (x_r + r).sigmoid() * new, SLOPE)
        return torch.lerp(new, h, (x_z + z).sigmoid())


def run(layer: TrajGRU, x_TBCHW: Tensor | None, h: Tensor | None, steps: int = 0) -> Tensor:
    """Return H of every step; no input is that of as many steps, and no state is zeros."""
    if x_TBCHW is None:
        given: list[tuple[Tensor, Tensor] | None] = [None] * steps
    else:
        flows, gates = layer.inputs(x_TBCHW.flatten(0, 1))
        each = (part.view(*x_TBCHW.shape[:2], *part.shape[1:]).unbind() for part in (flows, gates))
        given = list(zip(*each, strict=True))
    if h is None:
        assert x_TBCHW is not None
        B, _, H, W = x_TBCHW.shape[1:]
        h = x_TBCHW.new_zeros(B, layer.flow_hidden.in_channels, H, W)
    out = []
    for frame in given:
        h = layer(frame, h)
        out.append(h)
    return torch.stack(out)


class EncoderForecaster(nn.Module):
    """The layers, and the convolutions between them, each of which a leaky rectifier follows.

    Parameters
    ----------
    inputs : int
        Channels of a folded frame.
    config : TrajGRUConfig
    """

    down: Any
    up: Any
    encoder: Any
    forecaster: Any

    def __init__(self, inputs: int, config: TrajGRUConfig) -> None:
        super().__init__()
        setting, hidden = SETTINGS[config.setting], config.hidden
        links = config.links * (len(hidden) // len(config.links))
        self.divisor = math.prod(setting.below(n)[1] for n in range(len(hidden)))
        down, up, encoder, forecaster = [], [], [], []
        for n, (h, count) in enumerate(zip(hidden, links, strict=True)):
            width, stride, back = setting.below(n)
            # What the encoder's layer reads has its own channels, and the forecaster's those of the layer above.
            lower, read, given = (hidden[n - 1], h, h) if n else (inputs, setting.channels, setting.channels)
            down.append(nn.Conv2d(lower, read, width, stride, padding=1))
            up.append(nn.ConvTranspose2d(h, given, back, stride, padding=1))
            encoder.append(TrajGRU(read, h, count, config.kernel))
            above = hidden[n + 1] if n + 1 < len(hidden) else 0
            forecaster.append(TrajGRU(above, h, count, config.kernel))
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.encoder, self.forecaster = nn.ModuleList(encoder), nn.ModuleList(forecaster)
        self.last = nn.Conv2d(setting.channels, setting.channels, 3, padding=1)

    def forward(self, x_TBCHW: Tensor, steps: int) -> Tensor:
        """Return what is read out, of as many steps after the known frames, (steps, B, C, H, W)."""
        states = []
        for down, layer in zip(self.down, self.encoder, strict=True):
            x_TBCHW = of_all(down, x_TBCHW)
            x_TBCHW = run(layer, x_TBCHW, None)
            states.append(x_TBCHW[-1])
        y: Tensor | None = None
        for up, layer, h in zip(reversed(self.up), reversed(self.forecaster), reversed(states), strict=True):
            y = of_all(up, run(layer, y, h, steps))
        assert y is not None
        return of_all(self.last, y)


def of_all(layer: nn.Module, x_TBCHW: Tensor) -> Tensor:
    """Return a layer's maps, rectified, for all steps at once."""
    y = F.leaky_relu(layer(x_TBCHW.flatten(0, 1)), SLOPE)
    return full_precision(y).view(*x_TBCHW.shape[:2], *y.shape[1:])


class EncodingForecaster(WholeForecaster):
    """TrajGRU's network: all lead times from one pass over the history.

    Sides that the strides do not divide are padded with zeros, and forecasts are cropped.

    Parameters
    ----------
    config : TrajGRUConfig
    """

    def __init__(self, config: TrajGRUConfig) -> None:
        super().__init__(config)
        pixels = config.channels * config.patch**2
        self.layers = EncoderForecaster(pixels, config)
        self.head = read_out_layer(nn.Conv2d(SETTINGS[config.setting].channels, pixels, 1), config.output)

    def forecast(self, x_BTCHW: Tensor, steps: int, truth: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the frames after x; see `WholeForecaster.forecast`."""
        patch = self.config.patch
        x_TBHWP = to_multiple(fold(x_BTCHW, patch), self.layers.divisor)
        y_TBCHW = self.layers(x_TBHWP.permute(0, 1, 4, 2, 3), steps)
        y = self.head(y_TBCHW.flatten(0, 1)).permute(0, 2, 3, 1).to(x_BTCHW.dtype)
        frames = unfold(y.unflatten(0, (steps, -1)), patch, (x_BTCHW.shape[3], x_BTCHW.shape[4]))
        return frames + x_BTCHW[:, -1:] if self.config.output == "change" else frames


network = EncodingForecaster
