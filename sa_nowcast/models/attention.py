"""Self-attention over the positions of a map (section 3.1), and the fused attention that all networks share."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sa_nowcast.models.blockwise import attend
from sa_nowcast.models.maps import full_precision, pool, prepared


class AttentionWeights(NamedTuple):
    """The products of `Attention`'s projections, as every step of a sequence uses them.

    A score is (W_q h_i)·(W_k m_j) = (W_kᵀ W_q h_i)·m_j, and attention is linear in its values: W_k can move to the
    queries, and W_v with W_z behind the attention. Keys and values are then the maps themselves, all sizes are equal
    whatever the number of key channels, which the fused kernels ask for, and two of five projections are gone.
    """

    query: Tensor
    value: Tensor


class Attention(nn.Module):
    """Queries of one map that look at one or more maps, each through its own keys and values (eqs. 2-6).

    Z_n = V_n softmax(Qᵀ K_n)ᵀ for each of the maps, then Z = W [Z_1; Z_2; ...].

    Parameters
    ----------
    channels : int
        Channels of all maps.
    maps : int
        How many maps are looked at.
    key_channels : int or None
        Channels of queries and keys; None takes those of the maps.
    score_scale : str
        ``"none"`` or ``"sqrt"``, as in `NetworkConfig`.
    key_stride : int
        Keys and values are averages of so many positions a side.
    """

    def __init__(self, channels: int, maps: int, key_channels: int | None, score_scale: str, key_stride: int) -> None:
        super().__init__()
        keys = channels if key_channels is None else key_channels
        self.query = nn.Linear(channels, keys, bias=False)
        self.keys = nn.ModuleList(nn.Linear(channels, keys, bias=False) for _ in range(maps))
        self.values = nn.ModuleList(nn.Linear(channels, channels, bias=False) for _ in range(maps))
        self.out = nn.Linear(maps * channels, channels, bias=False)
        self.scale = keys**-0.5 if score_scale == "sqrt" else 1.0
        self.key_stride = key_stride

    def weights(self) -> AttentionWeights:
        """Return the products of the projections, for a whole sequence."""
        device = self.out.weight.device.type
        with contextlib.nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            keys, values = ([p.get_parameter("weight") for p in kind] for kind in (self.keys, self.values))
            outs = self.out.weight.chunk(len(values), dim=1)
            query = torch.cat([key.T @ self.query.weight for key in keys]) * self.scale
            value = torch.cat([out @ value for out, value in zip(outs, values, strict=True)], dim=1)
        return AttentionWeights(prepared(query.T), prepared(value.T))

    def forward(self, weights: AttentionWeights, h_BHWC: Tensor, maps: tuple[Tensor, ...]) -> Tensor:
        """Return Z, (B, H, W, C), from the map h of the queries and the maps that are looked at.

        Maps that are left out at the end count as zeros: they have nothing to be read.
        """
        B, H, W, C = h_BHWC.shape
        read_channels = len(maps) * C
        query = (h_BHWC @ weights.query[:, :read_channels]).view(B, H * W, len(maps), C).transpose(1, 2)
        read = attend(query, self._keys(maps).to(query.dtype))
        return read.transpose(1, 2).reshape(B, H, W, read_channels) @ weights.value[:read_channels]

    def row(
        self, weights: AttentionWeights, h_BHWC: Tensor, maps: tuple[Tensor, ...], position: tuple[int, int]
    ) -> Tensor:
        """Return how one position of h weighs the positions of each map, (B, maps, H', W'); H' = ⌈H / key_stride⌉."""
        B, _, _, C = h_BHWC.shape
        query = (h_BHWC[:, position[0], position[1]] @ weights.query).view(B, len(maps), C, 1)
        scores = full_precision(self._keys(maps).to(query.dtype) @ query)
        return scores.softmax(2).view(B, len(maps), *pool(maps[0], self.key_stride).shape[1:3])

    def _keys(self, maps: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([pool(m, self.key_stride).flatten(1, 2) for m in maps], dim=1)


class SelfAttention(nn.Module):
    r"""Self-attention over the positions of a map, with a residual shortcut (section 3.1, eqs. 2-4).

    .. math::

        Q = W_q H, \quad K = W_k H, \quad V = W_v H, \qquad
        α_{ij} = \frac{\exp(Q_i · K_j)}{\sum_k \exp(Q_i · K_k)}, \quad
        Z_i = \sum_j α_{ij} V_j, \qquad \mathrm{SA}(H) = W_f Z + H

    The N × N matrix α is never written out.

    Parameters
    ----------
    channels : int
        Channels C of the map.
    key_channels : int, optional
        Channels of queries and keys; those of the map if not given.
    score_scale : {"none", "sqrt"}
        ``"sqrt"`` divides the scores by the square root of the key channels, which the paper does not.
    key_stride : int
        Keys and values are averages of so many positions a side; 1 is the paper.

    References
    ----------
    Lin et al., "Self-Attention ConvLSTM for Spatiotemporal Prediction", AAAI 2020, DOI 10.1609/aaai.v34i07.6819.
    """

    def __init__(
        self, channels: int, key_channels: int | None = None, score_scale: str = "none", key_stride: int = 1
    ) -> None:
        super().__init__()
        self.attention = Attention(channels, 1, key_channels, score_scale, key_stride)

    def weights(self) -> AttentionWeights:
        """Return the weights as every step of a sequence uses them."""
        return self.attention.weights()

    def step(self, weights: AttentionWeights, h_NHWC: Tensor) -> Tensor:
        """Return SA(H) for maps whose channels come last."""
        z: Tensor = self.attention(weights, h_NHWC, (h_NHWC,))
        return z + h_NHWC

    def forward(self, h: Tensor) -> Tensor:
        """Return SA(H).

        Parameters
        ----------
        h : Tensor
            Maps, (B, C, H, W).

        Returns
        -------
        Tensor
            (B, C, H, W).
        """
        return self.step(self.weights(), h.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)
