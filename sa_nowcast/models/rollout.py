"""The stack and the rollout that all networks share.

Frames that are known run layer by layer: what depends on a layer's input alone is computed for all of them at once, and
only what depends on its state goes step by step. From the first forecast on, each step goes through all layers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.heap import give_back
from sa_nowcast.models.patches import fold, frame_pixels, unfold

W = TypeVar("W")
S = TypeVar("S")

MAX_POSITIONS_AT_ONCE = 2**16
"""Without gradients, so many positions of a layer's input are computed at once: more is no faster, and takes memory."""


class RecurrentLayer(nn.Module, Generic[W, S]):
    """What the rollout asks of a layer. Maps have their channels last; W are its weights, S its state."""

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
    def step(self, weights: W, share_BHWG: Tensor, state: S) -> tuple[Tensor, S]:
        """Return what goes up, and the next state."""

    def attention_rows(self, weights: W, x_BHWC: Tensor, state: S, position: tuple[int, int]) -> dict[str, Tensor]:
        """Return how one position weighs all others, for each map that is looked at; (B, H', W') each."""
        raise ModelError("attention map", f"{type(self).__module__.rpartition('.')[2]} has no attention")


class Network(nn.Module):
    """A stack of recurrent layers between a folding into patches and a 1×1 convolution.

    It sees scaled values: units, missing values and clipping are its caller's. Its weights fit every grid.

    Parameters
    ----------
    config : NetworkConfig
        What it is made of; kept as ``config``.
    layer : type of RecurrentLayer
        Called as ``layer(inputs, hidden, config)`` for each of ``config.hidden``.
    """

    def __init__(
        self, config: NetworkConfig, layer: Callable[[int, int, NetworkConfig], RecurrentLayer[Any, Any]]
    ) -> None:
        super().__init__()
        self.config = config
        pixels = config.channels * config.patch**2
        below = (pixels, *config.hidden[:-1])
        self.layers = nn.ModuleList(layer(i, h, config) for i, h in zip(below, config.hidden, strict=True))
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
        return self._frames(self._rollout(known, steps, x_BTCHW)[-steps:], x_BTCHW)

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
        steps = x_BTCHW.shape[1] - history if x_BTCHW.ndim == 5 else 1
        self.check(x_BTCHW, history, steps)
        if truth_mask is not None and truth_mask.shape != (x_BTCHW.shape[0], steps - 1):
            raise ModelError(
                "truth_mask", f"its shape is {tuple(truth_mask.shape)}", f"{(x_BTCHW.shape[0], steps - 1)}"
            )
        patches = fold(x_BTCHW, self.config.patch)
        known, later = patches[:history], patches[history:]
        mask = None if truth_mask is None else truth_mask.T[:, :, None, None, None]
        return self._frames(self._rollout(known, steps, x_BTCHW, later, mask), x_BTCHW)

    def first_predicted(self, history: int) -> int:
        """Return which frame is the first that `predict_all` predicts; those before it are no matter of a loss."""
        return 1

    @property
    def stack(self) -> list[RecurrentLayer[Any, Any]]:
        """The layers, from the bottom."""
        return cast("list[RecurrentLayer[Any, Any]]", list(self.layers))

    def _rollout(
        self, known_TBHWP: Tensor, steps: int, like: Tensor, later: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the predictions of the frames after each known one and of ``steps - 1`` more, as maps of patches."""
        weights = [layer.weights() for layer in self.stack]
        top, states = self._known(weights, known_TBHWP)
        predictions = [self.read_out(top, known_TBHWP)]
        pixels = frame_pixels(like, self.config.patch)
        segment = self.config.checkpoint_steps if torch.is_grad_enabled() else 0
        for first in range(0, steps - 1, segment or steps):
            span = slice(first, min(first + (segment or steps), steps - 1))
            truth = None if later is None or mask is None else (later[span], mask[span])
            run = self._forecast_checkpointed if segment else self._forecast
            frames, states = run(weights, predictions[-1][-1], states, span.stop - first, pixels, truth)
            predictions.append(frames)
        return torch.cat(predictions) if len(predictions) > 1 else predictions[0]

    def _known(self, weights: list[Any], x_TBHWC: Tensor) -> tuple[Tensor, list[Any]]:
        """Run known frames layer by layer; return what the last layer gives for each, and the states after them."""
        states = []
        B, H, W = x_TBHWC.shape[1:4]
        checkpointed = self.config.checkpoint_steps > 0 and torch.is_grad_enabled()
        at_once = x_TBHWC.shape[0] if torch.is_grad_enabled() else max(1, MAX_POSITIONS_AT_ONCE // (B * H * W))
        for layer, w in zip(self.stack, weights, strict=True):
            state = layer.start(x_TBHWC[0])
            outs = []
            for frames in torch.split(x_TBHWC, self.config.checkpoint_steps if checkpointed else at_once):
                if checkpointed:
                    out, state = _recomputed(frames.device, run_layer, layer, w, frames, state)
                else:
                    out, state = run_layer(layer, w, frames, state)
                outs.append(out)
            x_TBHWC = torch.cat(outs) if len(outs) > 1 else outs[0]
            states.append(state)
        return x_TBHWC, states

    def _forecast(
        self,
        weights: list[Any],
        last_BHWP: Tensor,
        states: list[Any],
        steps: int,
        pixels: Tensor | None,
        truth: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, list[Any]]:
        """Run steps whose inputs are predictions, or truth where the mask says so."""
        predictions = []
        for step in range(steps):
            frame = last_BHWP if pixels is None else last_BHWP * pixels
            if truth is not None:
                later, mask = truth
                frame = torch.where(mask[step], later[step], frame)
            x, states = self.advance(weights, frame, states)
            last_BHWP = self.read_out(x, frame)
            predictions.append(last_BHWP)
        return torch.stack(predictions), states

    def _forecast_checkpointed(self, weights: list[Any], last_BHWP: Tensor, *args: Any) -> tuple[Tensor, list[Any]]:
        frames, states = _recomputed(last_BHWP.device, self._forecast, weights, last_BHWP, *args)
        return frames, states

    def advance(self, weights: list[Any], x_BHWC: Tensor, states: list[Any]) -> tuple[Tensor, list[Any]]:
        """Run one frame through all layers."""
        after = []
        for layer, w, state in zip(self.stack, weights, states, strict=True):
            x_BHWC, state = layer.step(w, layer.inputs(w, x_BHWC), state)
            after.append(state)
        return x_BHWC, after

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
        if not (torch.compiler.is_compiling() or (x_BTCHW.is_cuda and torch.cuda.is_current_stream_capturing())):
            check_finite(x_BTCHW)


def run_layer(layer: Any, weights: Any, x_TBHWC: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Run known frames through one layer; return what goes up for each of them, and the state after the last."""
    shares = layer.inputs(weights, x_TBHWC.flatten(0, 1))
    outs = []
    for share in shares.view(*x_TBHWC.shape[:2], *shares.shape[1:]).unbind():
        out, state = layer.step(weights, share, state)
        outs.append(out)
    return torch.stack(outs), state


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


def _recomputed(device: torch.device, function: Callable[..., Any], *args: Any) -> Any:
    """Run `function`, and once more in the backward pass in place of keeping what it computes."""

    def run(*args: Any) -> Any:
        # Who has it recomputed wants the memory; else what is freed between the kept states stays with the process.
        give_back()
        return function(*args)

    on_heap = device.type == "cpu" and not torch.compiler.is_compiling()
    return checkpoint(run if on_heap else function, *args, use_reentrant=False, preserve_rng_state=False)
