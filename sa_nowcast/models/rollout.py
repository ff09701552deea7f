"""What all networks share: the rollout over known and predicted frames, around a recurrent core.

The core of the networks here is a stack of layers, which reads known frames layer by layer: what depends on a layer's
input alone is computed for all of them at once, and only what depends on its state goes step by step. From the first
forecast on, each step goes through all layers. Where a memory goes from layer to layer and from the top of one step to
the bottom of the next, only what the lowest layer reads can be computed at once. Another core may hand its state
through the layers as it likes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.models import heap
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.maps import fold, frame_pixels, unfold

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
        """Read known frames; return the output of the last layer for each, and the state after them.

        With `checkpoint_steps` only the states at every so many frames are kept for the backward pass.
        """
        return _in_parts(partial(_one_by_one, self.step, weights), x_TBHWC, self.start(x_TBHWC[0]), checkpoint_steps)

    def penalty(self, state: Any) -> Tensor | None:
        """Return what training adds to its loss after all steps, weighted; None where there is nothing to add."""
        return None

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


class RecurrentLayer(nn.Module, Generic[W, S]):
    """A layer of a `Stack`: W are its weights, S its state."""

    @abstractmethod
    def weights(self) -> W:
        """Return the weights as every step of a sequence uses them."""

    @abstractmethod
    def start(self, x_BHWC: Tensor) -> S:
        """Return the state before the first frame."""

    @abstractmethod
    def inputs(self, weights: W, x_NHWC: Tensor) -> Tensor:
        """Return what depends on the inputs alone, for any number of frames at once."""

    @abstractmethod
    def step(self, weights: W, inputs_BHWG: Tensor, state: S) -> tuple[Tensor, S]:
        """Return what the layer above reads, and the next state."""

    def attention_rows(self, weights: W, x_BHWC: Tensor, state: S, position: tuple[int, int]) -> dict[str, Tensor]:
        """As `Core.attention_rows`, of this layer."""
        raise ModelError("attention map", f"{type(self).__name__} has no attention")


class Stack(nn.ModuleList, Core):
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

    @property
    def parts(self) -> list[RecurrentLayer[Any, Any]]:
        """The layers, from the bottom."""
        return cast("list[RecurrentLayer[Any, Any]]", list(self))

    def weights(self) -> list[Any]:
        """Return the weights of each layer."""
        return [layer.weights() for layer in self.parts]

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
        states, at_once = [], _frames_at_once(x_TBHWC)
        for layer, w in zip(self.parts, weights, strict=True):
            run = partial(_inputs_at_once, layer.inputs, layer.step, w)
            x_TBHWC, its = _in_parts(run, x_TBHWC, layer.start(x_TBHWC[0]), checkpoint_steps, at_once)
            states.append(its)
        return x_TBHWC, states

    def attention_rows(
        self, weights: list[Any], x_BHWC: Tensor, state: list[Any], layer: int, position: tuple[int, int]
    ) -> dict[str, Tensor]:
        """As `Core.attention_rows`: the layers below run, and the one asked for says where it looks."""
        for part, w, its in zip(self.parts[:layer], weights[:layer], state[:layer], strict=True):
            x_BHWC, _ = part.step(w, part.inputs(w, x_BHWC), its)
        return self.parts[layer].attention_rows(weights[layer], x_BHWC, state[layer], position)

    def compile_parts(self, **options: Any) -> None:
        """Compile both halves of every layer: a cell takes seconds, and one serves all steps."""
        _compile_halves(self.parts, options)


class ZigzagLayer(nn.Module, Generic[W, S]):
    """A layer of a `Zigzag`: W are its weights, S its own state, to which the memory does not belong.

    Parameters
    ----------
    inputs, memory, hidden : int
        Channels of the maps that it reads, of the memory that it is given, and of its state and of the memory it gives.
    config : NetworkConfig
    """

    def __init__(self, inputs: int, memory: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__()

    @abstractmethod
    def weights(self) -> W:
        """Return the weights as every step of a sequence uses them."""

    @abstractmethod
    def start(self, x_BHWC: Tensor) -> S:
        """Return the state before the first frame."""

    @abstractmethod
    def inputs(self, weights: W, x_NHWC: Tensor) -> Tensor:
        """Return what depends on the inputs alone, for any number of frames at once."""

    @abstractmethod
    def step(self, weights: W, inputs_BHWG: Tensor, state: S, memory_BHWC: Any) -> tuple[Tensor, S, Any]:
        """Return what the layer above reads, the next state, and the memory; no memory stands for zeros.

        The memory is a map, or whatever the layers of a network hand on.
        """


MakeZigzagLayer = Callable[[int, int, int, NetworkConfig], ZigzagLayer[Any, Any]]


class Zigzag(nn.ModuleList, Core):
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

    @property
    def parts(self) -> list[ZigzagLayer[Any, Any]]:
        """The layers, from the bottom."""
        return cast("list[ZigzagLayer[Any, Any]]", list(self))

    def weights(self) -> list[Any]:
        """Return the weights of each layer."""
        return [layer.weights() for layer in self.parts]

    def start(self, x_BHWC: Tensor) -> tuple[Any, Any]:
        """Return the state of each layer before the first frame, and no memory."""
        return [layer.start(x_BHWC) for layer in self.parts], None

    def step(self, weights: list[Any], x_BHWC: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Run one frame through all layers."""
        return self._step(weights, self._inputs(weights, x_BHWC), state)

    def read(self, weights: list[Any], x_TBHWC: Tensor, checkpoint_steps: int = 0) -> tuple[Tensor, Any]:
        """Read known frames."""
        run = partial(_inputs_at_once, self._inputs, self._step, weights)
        return _in_parts(run, x_TBHWC, self.start(x_TBHWC[0]), checkpoint_steps, _frames_at_once(x_TBHWC))

    def compile_parts(self, **options: Any) -> None:
        """Compile both halves of every layer."""
        _compile_halves(self.parts, options)

    def _inputs(self, weights: list[Any], x_NHWC: Tensor) -> Tensor:
        return self.parts[0].inputs(weights[0], x_NHWC)

    def _step(self, weights: list[Any], inputs_BHWG: Tensor, state: Any) -> tuple[Tensor, Any]:
        before, memory = state
        after, out = [], None
        for layer, w, its in zip(self.parts, weights, before, strict=True):
            given = inputs_BHWG if out is None else layer.inputs(w, out)
            out, its, memory = layer.step(w, given, its, memory)
            after.append(its)
        return cast("Tensor", out), (after, memory)


class Network(nn.Module):
    """A recurrent core between a folding into patches and a 1×1 convolution.

    It sees scaled values: units, missing values and clipping are its caller's. Its weights fit every grid.

    Parameters
    ----------
    config : NetworkConfig
        What it is made of; kept as ``config``.
    core : callable
        ``core(inputs, config)`` returns the `Core`; kept as ``layers``.
    """

    layers: Core

    def __init__(self, config: NetworkConfig, core: Callable[[int, NetworkConfig], Core]) -> None:
        super().__init__()
        self.config = config
        pixels = config.channels * config.patch**2
        self.layers = core(pixels, config)
        self.head = nn.Linear(config.hidden[-1], pixels)
        if config.output == "change":
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, x_BTCHW: Tensor, steps: int = 1) -> Tensor:
        """Forecast.

        Parameters
        ----------
        x_BTCHW : Tensor
            The known frames, scaled, without NaN; at least one.
        steps : int
            How many frames to forecast.

        Returns
        -------
        Tensor
            The ``steps`` frames after x, (B, steps, C, H, W).

        Raises
        ------
        ModelError
            If the channels are not the network's, or if a value is not finite (named by batch index).
        """
        self.check(x_BTCHW, x_BTCHW.shape[1], steps)
        known = fold(x_BTCHW, self.config.patch)
        return self._frames(self.rollout(known, steps, x_BTCHW)[0][-steps:], x_BTCHW)

    def predict_all(self, x_BTCHW: Tensor, history: int, truth_mask: Tensor | None = None) -> Tensor:
        """Predict every frame but the first, as training does.

        Parameters
        ----------
        x_BTCHW : Tensor
            T = history + steps frames, scaled, without NaN.
        history : int
            How many frames from the first are always read as they are.
        truth_mask : Tensor of bool, optional
            (B, steps - 1). True reads frame ``history + s`` of that sample as it is, False reads the network's own
            prediction of it instead (scheduled sampling). Not given: always its own.

        Returns
        -------
        Tensor
            Predictions of frames 1..T-1, (B, T-1, C, H, W).

        Raises
        ------
        ModelError
            As for `forward`, or if ``history`` leaves nothing to predict, or the mask has another shape.
        """
        return self.predictions_and_penalty(x_BTCHW, history, truth_mask)[0]

    def predictions_and_penalty(
        self, x_BTCHW: Tensor, history: int, truth_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `predict_all`, and what the network itself adds to the loss of training, weighted.

        Returns
        -------
        tuple of Tensor
            The predictions, and a scalar; None for most networks, and without gradients. A training loop that adds it
            trains the network as it is described, such as PredRNN-V2 with its decoupled memories.
        """
        steps = x_BTCHW.shape[1] - history if x_BTCHW.ndim == 5 else 1
        self.check(x_BTCHW, history, steps)
        if truth_mask is not None and truth_mask.shape != (x_BTCHW.shape[0], steps - 1):
            raise ModelError(
                "truth_mask", f"its shape is {tuple(truth_mask.shape)}", f"{(x_BTCHW.shape[0], steps - 1)}"
            )
        patches = fold(x_BTCHW, self.config.patch)
        known, later = patches[:history], patches[history:]
        mask = None if truth_mask is None else truth_mask.T[:, :, None, None, None]
        predictions, penalty = self.rollout(known, steps, x_BTCHW, later, mask)
        return self._frames(predictions, x_BTCHW), penalty

    def first_predicted(self, history: int) -> int:
        """Return which frame is the first that `predict_all` predicts; those before it are no matter of a loss."""
        return 1

    def rollout(
        self, known_TBHWP: Tensor, steps: int, like: Tensor, later: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the predictions of the frames after each known one and of ``steps - 1`` more, as maps of patches.

        Beside them the core's penalty.

        Parameters
        ----------
        known_TBHWP : Tensor
            Known frames, folded.
        steps : int
            Frames to forecast.
        like : Tensor
            Frames of the size that is not folded, for what is padding.
        later, mask : Tensor, optional
            The true frames that follow, folded, and where they are read, (steps - 1, B, 1, 1, 1).
        """
        weights = self.layers.weights()
        segment = self.config.checkpoint_steps if torch.is_grad_enabled() else 0
        top, state = self.layers.read(weights, known_TBHWP, segment)
        predictions = [self.read_out(top, known_TBHWP)]
        pixels = frame_pixels(like, self.config.patch)
        for first in range(0, steps - 1, segment or steps):
            span = slice(first, min(first + (segment or steps), steps - 1))
            truth = None if later is None or mask is None else (later[span], mask[span])
            run = partial(self._forecast, weights, span.stop - first, pixels, truth)
            frames, state = (partial(_recomputed, run) if segment else run)(predictions[-1][-1], state)
            predictions.append(frames)
        all_of_them = torch.cat(predictions) if len(predictions) > 1 else predictions[0]
        return all_of_them, self.layers.penalty(state)

    def _forecast(
        self,
        weights: Any,
        steps: int,
        pixels: Tensor | None,
        truth: tuple[Tensor, Tensor] | None,
        last_BHWP: Tensor,
        state: Any,
    ) -> tuple[Tensor, Any]:
        """Run steps whose inputs are predictions, or truth where the mask says so."""
        predictions = []
        for step in range(steps):
            frame = last_BHWP if pixels is None else last_BHWP * pixels
            if truth is not None:
                later, mask = truth
                frame = torch.where(mask[step], later[step], frame)
            top, state = self.layers.step(weights, frame, state)
            last_BHWP = self.read_out(top, frame)
            predictions.append(last_BHWP)
        return torch.stack(predictions), state

    def read_out(self, top: Tensor, frame: Tensor) -> Tensor:
        """Return the next frame from what the last layer gives and the frame that was read."""
        out: Tensor = self.head(top).to(frame.dtype)
        return frame + out if self.config.output == "change" else out

    def _frames(self, y_TBHWP: Tensor, like: Tensor) -> Tensor:
        return unfold(y_TBHWP, self.config.patch, (like.shape[3], like.shape[4]))

    def check(self, x_BTCHW: Tensor, history: int, steps: int) -> None:
        """Refuse frames that the network cannot read."""
        wanted = f"(batch, time, {self.config.channels}, height, width)"
        if x_BTCHW.ndim != 5 or 0 in x_BTCHW.shape:
            raise ModelError("input frames", f"their shape is {tuple(x_BTCHW.shape)}", wanted)
        if x_BTCHW.shape[2] != self.config.channels:
            raise ModelError(
                "input frames",
                f"they have {x_BTCHW.shape[2]} channels",
                f"{self.config.channels}, in the shape {wanted}",
                "choose as many variables as the network was built for",
            )
        if history < 1 or steps < 1:
            raise RecipeError(
                "history and steps",
                f"{x_BTCHW.shape[1]} frames hold {history} known and {steps} to predict",
                "at least 1 of each",
            )
        no_values = x_BTCHW.is_meta or (x_BTCHW.is_cuda and torch.cuda.is_current_stream_capturing())
        if not (torch.compiler.is_compiling() or no_values):
            check_finite(x_BTCHW)


class Forecaster(Network):
    """A network that forecasts from all known frames: it predicts none of them, and reads no truth after them."""

    def predictions_and_penalty(
        self, x_BTCHW: Tensor, history: int, truth_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the known frames from the second on as they are, and the forecast of the rest; and no penalty.

        As for `Network.predict_all`; `truth_mask` changes nothing.
        """
        steps = x_BTCHW.shape[1] - history if x_BTCHW.ndim == 5 else 1
        self.check(x_BTCHW, history, steps)
        return torch.cat([x_BTCHW[:, 1:history], self(x_BTCHW[:, :history], steps)], 1), None

    def first_predicted(self, history: int) -> int:
        """Return the first frame after the history."""
        return history


def check_finite(x_BTCHW: Tensor) -> None:
    """Refuse frames with values that are not finite, in one pass over them; the message names the batch indices."""
    if torch.isfinite(x_BTCHW.sum()):
        return
    bad = (~torch.isfinite(x_BTCHW)).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        kind = "NaN" if torch.isnan(x_BTCHW).any() else "infinite values"
        raise ModelError(
            f"input frames, batch index {', '.join(map(str, bad))}",
            f"hold {kind}",
            "finite numbers",
            "fill missing values before the network, and leave them out of the loss",
        )


def _compile_halves(layers: Iterable[nn.Module], options: dict[str, Any]) -> None:
    for layer in layers:
        for half in ("inputs", "step"):
            setattr(layer, half, torch.compile(getattr(layer, half), dynamic=False, **options))


def _one_by_one(step: Callable[..., Any], weights: Any, x_TBHWC: Tensor, state: Any) -> tuple[Tensor, Any]:
    outs = []
    for x in x_TBHWC.unbind():
        out, state = step(weights, x, state)
        outs.append(out)
    return torch.stack(outs), state


def _frames_at_once(x_TBHWC: Tensor) -> int:
    """Return for how many known frames the inputs are computed at once."""
    T, B, H, W = x_TBHWC.shape[:4]
    return T if torch.is_grad_enabled() else max(1, MAX_POSITIONS_AT_ONCE // (B * H * W))


def _inputs_at_once(
    inputs: Callable[[Any, Tensor], Tensor], step: Callable[..., Any], weights: Any, x_TBHWC: Tensor, state: Any
) -> tuple[Tensor, Any]:
    """Run known frames through a layer or a core: what depends on them alone at once, its state step by step."""
    given = inputs(weights, x_TBHWC.flatten(0, 1))
    return _one_by_one(step, weights, given.view(*x_TBHWC.shape[:2], *given.shape[1:]), state)


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
        out, state = _recomputed(run, frames, state) if checkpoint_steps else run(frames, state)
        outs.append(out)
    return (torch.cat(outs) if len(outs) > 1 else outs[0]), state


def _recomputed(function: Callable[[Tensor, Any], Any], x: Tensor, state: Any) -> Any:
    """Run `function`, and once more in the backward pass in place of keeping what it computes."""

    def run(x: Tensor, state: Any) -> Any:
        # Who has it recomputed wants the memory; else what is freed between the kept states stays with the process.
        heap.trim()
        return function(x, state)

    on_heap = x.device.type == "cpu" and not torch.compiler.is_compiling()
    return checkpoint(run if on_heap else function, x, state, use_reentrant=False, preserve_rng_state=False)
