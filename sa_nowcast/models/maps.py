"""The operations on maps that the networks are made of.

Maps are held as (N, H, W, C): a 1×1 convolution is then a matrix product, a flattened map is a contiguous list of
positions for attention, and convolutions run in torch's channels-last layout.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def convolve(x_NHWC: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """Convolve maps with an odd kernel and zeros around them, so that the size stays."""
    y = F.conv2d(x_NHWC.permute(0, 3, 1, 2), weight, padding=weight.shape[-1] // 2, groups=groups)
    return y.permute(0, 2, 3, 1)


def normalise(x_NHWC: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    """Normalise every sample over its positions and channels, then scale and shift each channel."""
    y = F.group_norm(full_precision(x_NHWC).permute(0, 3, 1, 2), 1, scale, shift)
    return y.permute(0, 2, 3, 1)


def pool(x_NHWC: Tensor, stride: int) -> Tensor:
    """Average stride × stride positions; a cell at the edge averages the positions that it has."""
    if stride == 1:
        return x_NHWC
    y = F.avg_pool2d(x_NHWC.permute(0, 3, 1, 2), stride, ceil_mode=True, count_include_pad=False)
    return y.permute(0, 2, 3, 1)


def full_precision(x: Tensor) -> Tensor:
    """Return x in float32 where autocast made it narrower, else x itself."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def prepared(weight: Tensor) -> Tensor:
    """Return a weight as every step will use it: narrowed where autocast is on, kernels channels-last, matrices packed.

    Done once for a sequence; autocast itself would do it again at every step, and products with a matrix that is not
    transposed are a tenth faster.
    """
    device = weight.device.type
    if torch.is_autocast_enabled(device) and weight.dtype == torch.float32:
        weight = weight.to(torch.get_autocast_dtype(device))
    return weight.contiguous(memory_format=torch.channels_last if weight.ndim == 4 else torch.contiguous_format)


def tanh_(x: Tensor) -> Tensor:
    """Replace x by tanh(x) = 2σ(2x) − 1: on the CPU torch's sigmoid takes a sixth of the time of its tanh."""
    return x.tanh_() if x.is_cuda else x.mul_(2).sigmoid_().mul_(2).sub_(1)
