"""Frames folded into patches and back.

A frame whose sides are no multiples of the patch is padded with zeros below and to the right. Less than a patch is
added, so every position of the folded map holds pixels of the frame, and attention and norms need no mask. Zeros add
nothing to a convolution, and the rollout writes them into its own predictions too.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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


def frame_pixels(x_BTCHW: Tensor, patch: int) -> Tensor | None:
    """Return 1 where a folded map holds pixels of the frame and 0 where it holds padding; None if it has no padding."""
    C, H, W = x_BTCHW.shape[2:]
    if H % patch == 0 and W % patch == 0:
        return None
    return fold(x_BTCHW.new_ones(1, 1, C, H, W), patch)[0]
