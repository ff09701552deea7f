"""Recurrent cores: stacks of layers that read known frames in as few calls as their recurrence allows.

In most networks each layer reads the one below alone. Such a stack reads known frames layer by layer: what depends on a
layer's input alone is computed for all of them at once, and only what depends on its state goes step by step. From the
first forecast on, each step goes through all layers. Where a memory goes from layer to layer and from the top of one
step to the bottom of the next, only what the lowest layer reads can be computed at once. Another core may hand its
state through the layers as it likes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sa_nowcast.errors import ModelError
from sa_nowcast.models import heap
from sa_nowcast.models.config import NetworkConfig

W = TypeVar("W")
S = TypeVar("S")

MAX_POSITIONS_AT_ONCE = 2**16
"""Without gradients, so many positions of a layer's input are computed at once: more is no faster, and takes memory."""


class Core(nn.Module):
    """What is recurrent in a network, from maps to maps. Weights and state are its own: others only hand them on.

    Maps have their channels last. A subclass has `weights`, `start` and `step`, the rest as far as it does better.
    """

    @abstractmethod
    def weights(self) -> Any:
        """Return the weights as every step of a sequence uses them."""

    @abstractmethod
    def start(self, x_BHWC: Tensor) -> Any:
        """Return the state before the first frame."""

    @abstractmethod
    def step(self, weights: Any, x_BHWC: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one frame; return the output of the last layer, and the next state."""

    def read(self, weights: Any, x_TBHWC: Tensor, checkpoint_steps: int = 0) -> tuple[Tensor, Any]:
        """Read known frames; return the output of the last layer, and the state after them.

        The output is one for each frame, or where the network predicts no known frame the last one alone.

        With `checkpoint_steps` only the states at every so many frames are kept for the backward pass.
        """
        return _in_parts(partial(_one_by_one, self.step, weights), x_TBHWC, self.start(x_TBHWC[0]), checkpoint_steps)

    def penalty(self, state: Any) -> Tensor | None:
        """Return what training adds to its loss after all steps, weighted; None where there is nothing to add."""
        return None

    def penalty_of_frames(self, predictions_BTCHW: Tensor, truth_BTCHW: Tensor) -> Tensor | None:
        """Return what training adds to its loss for these predictions, weighted; None where there is nothing to add."""
        return None

    def make_head(self, pixels: int, config: NetworkConfig) -> nn.Module:
        """Return the module that makes maps of so many pixels of the output: by default a 1×1 convolution."""
        return nn.Linear(config.hidden[-1], pixels)

    def attention_rows(
        self, weights: Any, x_BHWC: Tensor, state: Any, layer: int, position: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return how one position weighs all others in a layer, for each map that is looked at; (B, H', W') each.

        Networks without attention refuse, as this does.
        """
        raise ModelError("attention map", f"{type(self).__name__} has no attention")

    def compile_parts(self, **options: Any) -> None:
        """Compile in place what runs once a step, by ``torch.compile`` with these options."""
        self.step = torch.compile(self.step, dynamic=False, **options)  # type: ignore[method-assign]


class Layer(nn.Module, Generic[W, S]):
    """A layer of a core: W are its weights, S its own state."""

    @abstractmethod
    def weights(self) -> W:
        """Return the weights as every step of a sequence uses them."""

    @abstractmethod
    def start(self, x_BHWC: Tensor) -> S:
        """Return the state before the first frame."""

    @abstractmethod
    def inputs(self, weights: W, x_NHWC: Tensor) -> Tensor:
        """Return what depends on the inputs alone, for any number of frames at once."""


class RecurrentLayer(Layer[W, S]):
    """A layer of a `Stack`."""

    @abstractmethod
    def step(self, weights: W, inputs_BHWG: Tensor, state: S) -> tuple[Tensor, S]:
        """Return what the layer above reads, and the next state."""

    def attention_rows(self, weights: W, x_BHWC: Tensor, state: S, position: tuple[int, int]) -> dict[str, Tensor]:
        """As `Core.attention_rows`, of this layer."""
        raise ModelError("attention map", f"{type(self).__name__} has no attention")


class ZigzagLayer(Layer[W, S]):
    """A layer of a `Zigzag`; the memory does not belong to its state.

    Parameters
    ----------
    inputs, memory, hidden : int
        Channels of the maps that it reads, of the memory that it is given, and of its state and of the memory it gives.
    config : NetworkConfig
    """

    def __init__(self, inputs: int, memory: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__()

    @abstractmethod
    def step(self, weights: W, inputs_BHWG: Tensor, state: S, memory_BHWC: Any) -> tuple[Tensor, S, Any]:
        """Return what the layer above reads, the next state, and the memory; no memory stands for zeros.

        The memory is a map, or whatever the layers of a network hand on.
        """


MakeZigzagLayer = Callable[[int, int, int, NetworkConfig], ZigzagLayer[Any, Any]]


class _Layers(nn.ModuleList, Core):
    """What stacks of layers share."""

    @property
    def parts(self) -> list[Any]:
        """The layers, from the bottom."""
        return list(self)

    def weights(self) -> list[Any]:
        """Return the weights of each layer."""
        return [layer.weights() for layer in self.parts]

    def compile_parts(self, **options: Any) -> None:
        """Compile both halves of every layer: a cell takes seconds, and one serves all steps."""
        for layer in self.parts:
            for half in ("inputs", "step"):
                setattr(layer, half, torch.compile(getattr(layer, half), dynamic=False, **options))


class Stack(_Layers):
    """Layers of which each reads the output of the layer below alone; the state is a list with one state a layer.

    Parameters
    ----------
    layer : type of RecurrentLayer
        Called as ``layer(inputs, hidden, config)`` for each of ``config.hidden``.
    inputs : int
        Channels of the maps that are read.
    config : NetworkConfig
    """

    def __init__(
        self,
        layer: Callable[[int, int, NetworkConfig], RecurrentLayer[Any, Any]],
        inputs: int,
        config: NetworkConfig,
    ) -> None:
        below = (inputs, *config.hidden[:-1])
        super().__init__(layer(i, h, config) for i, h in zip(below, config.hidden, strict=True))

    def start(self, x_BHWC: Tensor) -> list[Any]:
        """Return the state of each layer before the first frame."""
        return [layer.start(x_BHWC) for layer in self.parts]

    def step(self, weights: list[Any], x_BHWC: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Run one frame through all layers."""
        after = []
        for layer, w, before in zip(self.parts, weights, state, strict=True):
            x_BHWC, its = layer.step(w, layer.inputs(w, x_BHWC), before)
            after.append(its)
        return x_BHWC, after

    def read(self, weights: list[Any], x_TBHWC: Tensor, checkpoint_steps: int = 0) -> tuple[Tensor, list[Any]]:
        """Read known frames layer by layer."""
        states = []
        for layer, w in zip(self.parts, weights, strict=True):
            x_TBHWC, its = read_layer(layer.inputs, layer.step, w, x_TBHWC, layer.start(x_TBHWC[0]), checkpoint_steps)
            states.append(its)
        return x_TBHWC, states

    def attention_rows(
        self, weights: list[Any], x_BHWC: Tensor, state: list[Any], layer: int, position: tuple[int, int]
    ) -> dict[str, Tensor]:
        """As `Core.attention_rows`: the layers below run, and the one asked for says where it looks."""
        for part, w, its in zip(self.parts[:layer], weights[:layer], state[:layer], strict=True):
            x_BHWC, _ = part.step(w, part.inputs(w, x_BHWC), its)
        rows: dict[str, Tensor] = self.parts[layer].attention_rows(weights[layer], x_BHWC, state[layer], position)
        return rows


class Zigzag(_Layers):
    """Layers through which one memory goes: from each to the one above, and from the top to the bottom one step later.

    The state is a list with one state a layer, and the memory. So a layer's input depends on the step before through
    all layers, and of known frames only what the lowest layer reads is computed at once.

    Parameters
    ----------
    layers : sequence of types of ZigzagLayer
        Called as ``layer(inputs, memory, hidden, config)``, one for each of ``config.hidden``, or one type for all.
    inputs : int
        Channels of the maps that are read.
    config : NetworkConfig
    """

    def __init__(
        self,
        layers: MakeZigzagLayer | Sequence[MakeZigzagLayer],
        inputs: int,
        config: NetworkConfig,
    ) -> None:
        hidden = config.hidden
        below, given = (inputs, *hidden[:-1]), (hidden[-1], *hidden[:-1])
        kinds = layers if isinstance(layers, Sequence) else [layers] * len(hidden)
        super().__init__(kind(i, m, h, config) for kind, i, m, h in zip(kinds, below, given, hidden, strict=True))

    def start(self, x_BHWC: Tensor) -> tuple[Any, Any]:
        """Return the state of each layer before the first frame, and no memory."""
        return [layer.start(x_BHWC) for layer in self.parts], None

    def step(self, weights: list[Any], x_BHWC: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Run one frame through all layers."""
        return self._step(weights, self._inputs(weights, x_BHWC), state)

    def read(self, weights: list[Any], x_TBHWC: Tensor, checkpoint_steps: int = 0) -> tuple[Tensor, Any]:
        """Read known frames."""
        return read_layer(self._inputs, self._step, weights, x_TBHWC, self.start(x_TBHWC[0]), checkpoint_steps)

    def _inputs(self, weights: list[Any], x_NHWC: Tensor) -> Tensor:
        given: Tensor = self.parts[0].inputs(weights[0], x_NHWC)
        return given

    def _step(self, weights: list[Any], inputs_BHWG: Tensor, state: Any) -> tuple[Tensor, Any]:
        before, memory = state
        after, out = [], None
        for layer, w, its in zip(self.parts, weights, before, strict=True):
            given = inputs_BHWG if out is None else layer.inputs(w, out)
            out, its, memory = layer.step(w, given, its, memory)
            after.append(its)
        return cast("Tensor", out), (after, memory)


def _one_by_one(step: Callable[..., Any], weights: Any, x_TBHWC: Tensor, state: Any) -> tuple[Tensor, Any]:
    outs = []
    for x in x_TBHWC.unbind():
        out, state = step(weights, x, state)
        outs.append(out)
    return torch.stack(outs), state


def _frames_at_once(x_TBHWC: Tensor) -> int:
    """Return for how many known frames the inputs are computed at once."""
    T, B, H, W = x_TBHWC.shape[:4]
    # A program that is exported is for any number of samples.
    whole = torch.is_grad_enabled() or torch.compiler.is_exporting()
    return T if whole else max(1, MAX_POSITIONS_AT_ONCE // (B * H * W))


def _inputs_at_once(
    inputs: Callable[[Any, Tensor], Tensor], step: Callable[..., Any], weights: Any, x_TBHWC: Tensor, state: Any
) -> tuple[Tensor, Any]:
    """Run known frames through a layer or a core: what depends on them alone at once, its state step by step."""
    given = inputs(weights, x_TBHWC.flatten(0, 1))
    return _one_by_one(step, weights, given.view(*x_TBHWC.shape[:2], *given.shape[1:]), state)


def read_layer(
    inputs: Callable[[Any, Tensor], Tensor],
    step: Callable[..., Any],
    weights: Any,
    x_TBHWC: Tensor,
    state: Any,
    checkpoint_steps: int = 0,
) -> tuple[Tensor, Any]:
    """Run known frames through a layer; return its outputs and the last state.

    What depends on the frames alone, ``inputs(weights, x)``, is computed for many at once; what depends on the state,
    ``step(weights, inputs, state)``, which gives the output and the next state, step by step.
    """
    run = partial(_inputs_at_once, inputs, step, weights)
    return _in_parts(run, x_TBHWC, state, checkpoint_steps, _frames_at_once(x_TBHWC))


def on_frames(function: Callable[[Tensor], Tensor], x_TBHWC: Tensor, checkpoint_steps: int = 0) -> Tensor:
    """Run a function of maps on known frames, as many at once as a layer's inputs."""

    def run(frames: Tensor, state: Any) -> tuple[Tensor, Any]:
        y = function(frames.flatten(0, 1))
        return y.view(*frames.shape[:2], *y.shape[1:]), state

    return _in_parts(run, x_TBHWC, None, checkpoint_steps, _frames_at_once(x_TBHWC))[0]


def _in_parts(
    run: Callable[[Tensor, Any], tuple[Tensor, Any]],
    x_TBHWC: Tensor,
    state: Any,
    checkpoint_steps: int,
    at_once: int | None = None,
) -> tuple[Tensor, Any]:
    """Run `run` on some frames after the other; return its outputs for all of them, and the last state."""
    outs = []
    for frames in torch.split(x_TBHWC, checkpoint_steps or at_once or x_TBHWC.shape[0]):
        out, state = recomputed(run, frames, state) if checkpoint_steps else run(frames, state)
        outs.append(out)
    return (torch.cat(outs) if len(outs) > 1 else outs[0]), state


def recomputed(function: Callable[[Tensor, Any], Any], x: Tensor, state: Any) -> Any:
    """Run `function`, and once more in the backward pass in place of keeping what it computes."""

    def run(x: Tensor, state: Any) -> Any:
        # Who has it recomputed wants the memory; else what is freed between the kept states stays with the process.
        heap.trim()
        return function(x, state)

    on_heap = x.device.type == "cpu" and not torch.compiler.is_compiling()
    return checkpoint(run if on_heap else function, x, state, use_reentrant=False, preserve_rng_state=False)
