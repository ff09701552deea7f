"""Where a position looks (figure 6 of the paper), one row of the attention at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.models.maps import fold, frame_pixels
from sa_nowcast.models.rollout import Network


@torch.no_grad()
def attention_map(
    net: Network, x_BTCHW: Tensor, position: tuple[int, int], *, layer: int = -1, step: int = -1, steps: int = 1
) -> dict[str, Tensor]:
    """Return how one position weighs all others in one layer, when one frame is read.

    One row of the N × N weights is computed, so a large grid needs no more memory than its forecast.

    Parameters
    ----------
    net : Network
        A network with attention.
    x_BTCHW : Tensor
        The known frames, scaled.
    position : tuple of int
        Row and column of the queried pixel; the map of the patch that holds it is returned.
    layer : int
        Which layer, from the bottom; negative counts from the top.
    step : int
        Which input frame is being read, from the first known one; negative counts from the last.
    steps : int
        How many frames are forecast, which gives T + steps - 1 frames to read.

    Returns
    -------
    dict of str to Tensor
        For each map that the layer looks at, (B, H', W') weights that sum to 1, with H' = ⌈H / (patch · key_stride)⌉:
        ``"H"`` the feature and ``"M"`` the memory; of the base model ``"X"`` the input and ``"H"`` the hidden state.

    Raises
    ------
    RecipeError
        If there is no such position, layer or step.
    ModelError
        If the network has no attention, or as for `Network.forward`.
    """
    if net.config.output == "moving":
        raise ModelError("attention map", "the network looks at frames that move", "output frame or change")
    if not net.config.declared.attends:
        raise ModelError("attention map", f"{net.config.name} has no attention")
    frames = x_BTCHW.shape[1] + steps - 1
    net.check(x_BTCHW, x_BTCHW.shape[1], steps)
    sizes = {"row": x_BTCHW.shape[3], "column": x_BTCHW.shape[4]}
    layers = len(net.config.hidden)
    for (name, size), index in zip(sizes.items(), position, strict=True):
        if not 0 <= index < size:
            raise RecipeError("attention map", f"{name} {index}", f"0 to {size - 1}")
    for name, index, size in (("layer", layer, layers), ("step", step, frames)):
        if not -size <= index < size:
            raise RecipeError("attention map", f"{name} {index}", f"{-size} to {size - 1}")
    layer, step = layer % layers, step % frames
    patch = net.config.patch
    cell = position[0] // patch, position[1] // patch

    known, pixels = fold(x_BTCHW, patch), frame_pixels(x_BTCHW, patch)
    core = net.layers
    weights, state, frame = core.weights(), core.start(known[0]), known[0]
    for t in range(step):
        top, state = core.step(weights, frame, state)
        if t + 1 < known.shape[0]:
            frame = known[t + 1]
        else:
            frame = net.read_out(top, frame)
            frame = frame if pixels is None else frame * pixels
    return core.attention_rows(weights, frame, state, layer, cell)
