"""The self-attention memory module, SAM (section 3.2, figure 1), and its gates."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sa_nowcast.models.attention import Attention, AttentionWeights
from sa_nowcast.models.kernels import laid_out
from sa_nowcast.models.maps import convolve, full_precision, prepared, tanh_


class MemoryWeights(NamedTuple):
    """The kernels of `MemoryGates` as every step of a sequence uses them."""

    depthwise: Tensor
    pointwise: Tensor


class MemoryGates(nn.Module):
    r"""The gates of SAM and the update of its memory (eqs. 7-9).

    .. math::

        (i', o') &= σ(W_{m;z} ∗ Z + W_{m;h} ∗ H_t + b_m), \quad g' = \tanh(W_{m;z} ∗ Z + W_{m;h} ∗ H_t + b_m)

        M_t &= (1 - i') ∘ M_{t-1} + i' ∘ g', \qquad Ĥ_t = o' ∘ M_t

    W is depth-wise separable: a kernel of its own for every channel of the features [Z; H_t], then a 1×1 convolution.

    Parameters
    ----------
    features : int
        Channels of the features.
    channels : int
        Channels C of the memory.
    kernel : int
        Width of the depth-wise kernels; odd.
    """

    def __init__(self, features: int, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(features, features, kernel, groups=features, bias=False)
        self.pointwise = nn.Linear(features, 3 * channels)

    def weights(self) -> MemoryWeights:
        """Return the kernels as every step of a sequence uses them."""
        return MemoryWeights(prepared(self.depthwise.weight), prepared(self.pointwise.weight.T))

    def forward(self, weights: MemoryWeights, features_BHWF: Tensor, m_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Return Ĥ_t and M_t, each (B, H, W, C), from the features and M_{t-1}."""
        mixed = convolve(features_BHWF, weights.depthwise, groups=features_BHWF.shape[-1])
        return memory_update(full_precision(mixed @ weights.pointwise), self.pointwise.bias, m_BHWC)


def memory_update(gates: Tensor, bias: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Return Ĥ_t and M_t from the gates (in the order i', o', g'), their bias, and M_{t-1}."""
    if not torch.compiler.is_compiling():
        h_hat, m = MemoryUpdate.apply(gates, bias, m)  # type: ignore[no-untyped-call]
        return h_hat, m
    i, o, g = (gates + bias).chunk(3, dim=-1)
    m = torch.lerp(m, g.tanh(), i.sigmoid())
    return o.sigmoid() * m, m


class MemoryUpdate(torch.autograd.Function):
    """`memory_update` for a machine without a compiler: few passes over memory, and only the gates and M are kept."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, bias: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Compute Ĥ_t and M_t."""
        C = m.shape[-1]
        gates = gates + bias
        gates[..., : 2 * C].sigmoid_()
        tanh_(gates[..., 2 * C :])
        i, o, g = gates.chunk(3, dim=-1)
        m_next = torch.lerp(m, g, i)
        ctx.save_for_backward(gates, m, m_next)
        return o * m_next, m_next

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor, grad_m_next: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the gradients, with σ' = σ(1 − σ) and tanh' = 1 − tanh² from the kept values."""
        gates, m, m_next = ctx.saved_tensors
        grad_h, grad_m_next = laid_out(grad_h, m_next), laid_out(grad_m_next, m_next)
        i, o, g = gates.chunk(3, dim=-1)
        grad_gates = torch.empty_like(gates)
        grad_i, grad_o, grad_g = grad_gates.chunk(3, dim=-1)
        dsigmoid, dtanh = torch.ops.aten.sigmoid_backward.grad_input, torch.ops.aten.tanh_backward.grad_input
        grad_m = torch.addcmul(grad_m_next, grad_h, o)
        scratch = grad_h * m_next
        dsigmoid(scratch, o, grad_input=grad_o)
        dsigmoid(torch.sub(g, m, out=scratch).mul_(grad_m), i, grad_input=grad_i)
        grad_change = torch.mul(grad_m, i, out=scratch)
        dtanh(grad_change, g, grad_input=grad_g)
        return grad_gates, grad_gates.sum((0, 1, 2)), grad_m.sub_(grad_change)


class SAMWeights(NamedTuple):
    """The weights of `SelfAttentionMemory` as every step of a sequence uses them."""

    attention: AttentionWeights
    gates: MemoryWeights


class SelfAttentionMemory(nn.Module):
    r"""The self-attention memory module, (Ĥ_t, M_t) = SAM(H_t, M_{t-1}) (section 3.2, eqs. 5-9, figure 1).

    .. math::

        Z_h &= V_h\, \mathrm{softmax}(Q_h^⊤ K_h)^⊤, \quad Z_m = V_m\, \mathrm{softmax}(Q_h^⊤ K_m)^⊤, \quad
        Z = W_z [Z_h; Z_m]

        (i', o') &= σ(W_{m;z} ∗ Z + W_{m;h} ∗ H_t + b_m), \quad g' = \tanh(W_{m;z} ∗ Z + W_{m;h} ∗ H_t + b_m)

        M_t &= (1 - i') ∘ M_{t-1} + i' ∘ g', \qquad Ĥ_t = o' ∘ M_t

    Both attentions run in one fused call, as two heads. The module can stand behind the cell of any recurrent
    network over maps; start M at zeros.

    Parameters
    ----------
    channels : int
        Channels C of the feature and of the memory.
    key_channels : int, optional
        Channels of queries and keys; C if not given.
    score_scale : {"none", "sqrt"}
        ``"sqrt"`` divides the scores by the square root of the key channels, which the paper does not.
    key_stride : int
        Keys and values are averages of so many positions a side; 1 is the paper.

    References
    ----------
    Lin et al., "Self-Attention ConvLSTM for Spatiotemporal Prediction", AAAI 2020, DOI 10.1609/aaai.v34i07.6819.

    Examples
    --------
    >>> import torch
    >>> from sa_nowcast.models import SelfAttentionMemory
    >>> sam = SelfAttentionMemory(16)
    >>> h, m = torch.randn(2, 16, 12, 10), torch.zeros(2, 16, 12, 10)
    >>> h_hat, m = sam(h, m)
    >>> h_hat.shape
    torch.Size([2, 16, 12, 10])
    """

    def __init__(
        self, channels: int, key_channels: int | None = None, score_scale: str = "none", key_stride: int = 1
    ) -> None:
        super().__init__()
        self.attention = Attention(channels, 2, key_channels, score_scale, key_stride)
        self.gates = MemoryGates(2 * channels, channels)

    def weights(self) -> SAMWeights:
        """Return the weights as every step of a sequence uses them."""
        return SAMWeights(self.attention.weights(), self.gates.weights())

    def step(self, weights: SAMWeights, h_BHWC: Tensor, m_BHWC: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return Ĥ_t and M_t for maps whose channels come last; no M_{t-1} stands for zeros."""
        h_BHWC = h_BHWC.contiguous()  # products read positions
        z = self.attention(weights.attention, h_BHWC, (h_BHWC,) if m_BHWC is None else (h_BHWC, m_BHWC))
        m = torch.zeros_like(h_BHWC) if m_BHWC is None else m_BHWC
        h_hat, m = self.gates(weights.gates, torch.cat([z, h_BHWC.to(z.dtype)], dim=-1), m)
        return h_hat, m

    def forward(self, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and the next memory.

        Parameters
        ----------
        h : Tensor
            The feature H_t, (B, C, H, W).
        m : Tensor
            The memory M_{t-1}, (B, C, H, W).

        Returns
        -------
        tuple of Tensor
            Ĥ_t and M_t, each (B, C, H, W).
        """
        maps = (x.permute(0, 2, 3, 1).contiguous() for x in (h, m))
        h_hat, m = self.step(self.weights(), *maps)
        return h_hat.permute(0, 3, 1, 2), m.permute(0, 3, 1, 2)
