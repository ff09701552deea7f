"""The operations on maps that the networks are made of, and frames folded into maps of patches and back.

A frame whose sides are no multiples of the patch is padded with zeros below and to the right. Less than a patch is
added, so every position of the folded map holds pixels of the frame, and attention and norms need no mask. Zeros add
nothing to a convolution, and the rollout writes them into its own predictions too.

Maps are held as (N, H, W, C): a 1×1 convolution is then a matrix product, a flattened map is a contiguous list of
positions for attention, and convolutions run in torch's channels-last layout.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa_nowcast.models.kernels import convolved, gathered, in_layout

M = TypeVar("M", bound=nn.Module)


def convolve(x_NHWC: Tensor, weight: Tensor, groups: int = 1, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
    """Convolve maps with an odd kernel and zeros around them, so that the size stays."""
    x = x_NHWC.permute(0, 3, 1, 2)
    if groups == dilation == 1:
        return convolved(x, weight, bias).permute(0, 2, 3, 1)
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, bias, padding=padding, dilation=dilation, groups=groups).permute(0, 2, 3, 1)


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
    if device != "meta" and torch.is_autocast_enabled(device) and weight.dtype == torch.float32:
        weight = weight.to(torch.get_autocast_dtype(device))
    if weight.ndim == 2:
        return weight.contiguous()
    return gathered(in_layout(weight)) if weight.shape[1] > 1 else in_layout(weight)


def tanh_(x: Tensor) -> Tensor:
    """Replace x by tanh(x) = 2σ(2x) − 1: on the CPU torch's sigmoid takes a sixth of the time of its tanh."""
    return x.tanh_() if x.is_cuda else x.mul_(2).sigmoid_().mul_(2).sub_(1)


def fold(x_BTCHW: Tensor, patch: int) -> Tensor:
    """Return frames as maps of patches, (T, B, ⌈H/patch⌉, ⌈W/patch⌉, C·patch²)."""
    B, T, C, H, W = x_BTCHW.shape
    rows, cols = -(-H // patch), -(-W // patch)
    x = F.pad(x_BTCHW, (0, cols * patch - W, 0, rows * patch - H))
    x = x.reshape(B, T, C, rows, patch, cols, patch).permute(1, 0, 3, 5, 2, 4, 6)
    return x.reshape(T, B, rows, cols, C * patch * patch)


def unfold(y_TBHWP: Tensor, patch: int, size: tuple[int, int]) -> Tensor:
    """Return maps of patches as frames (B, T, C, H, W) of the given size."""
    T, B, rows, cols, _ = y_TBHWP.shape
    y = y_TBHWP.reshape(T, B, rows, cols, -1, patch, patch).permute(1, 0, 4, 2, 5, 3, 6)
    return y.reshape(B, T, -1, rows * patch, cols * patch)[..., : size[0], : size[1]]


def to_multiple(x_NHWC: Tensor, of: int) -> Tensor:
    """Pad maps with zeros below and to the right, until their sides are multiples of a number."""
    rows, columns = (-side % of for side in x_NHWC.shape[-3:-1])
    return F.pad(x_NHWC, (0, 0, 0, columns, 0, rows)) if rows or columns else x_NHWC


def read_out_layer(layer: M, output: str) -> M:
    """Return a layer that gives a frame, or a change of one: then it starts at zero."""
    if output == "change":
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    return layer


def frame_pixels(x_BTCHW: Tensor, patch: int) -> Tensor | None:
    """Return 1 where a folded map holds pixels of the frame and 0 where it holds padding; None if it has no padding."""
    C, H, W = x_BTCHW.shape[2:]
    if H % patch == 0 and W % patch == 0:
        return None
    return fold(x_BTCHW.new_ones(1, 1, C, H, W), patch)[0]
