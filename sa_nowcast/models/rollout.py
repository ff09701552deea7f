"""What all networks share: the rollout over known and predicted frames, around a recurrent core."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.cores import Core, recomputed
from sa_nowcast.models.maps import fold, frame_pixels, read_out_layer, unfold


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
    head: Any

    def __init__(self, config: NetworkConfig, core: Callable[[int, NetworkConfig], Core]) -> None:
        super().__init__()
        self.config = config
        pixels = config.channels * config.patch**2
        self.layers = core(pixels, config)
        self.head = read_out_layer(self.layers.make_head(pixels, config), config.output)

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
            Predictions of frames 1..T-1, (B, T-1, C, H, W); frames before `first_predicted` as they are.

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
        mask = None if truth_mask is None else self.checked_mask(truth_mask, x_BTCHW, steps).transpose(0, 1)
        patches = fold(x_BTCHW, self.config.patch)
        known, later = patches[:history], patches[history:]
        maps, penalty = self.rollout(known, steps, x_BTCHW, later, mask)
        predictions, first = self._frames(maps, x_BTCHW), self.first_predicted(history)
        if torch.is_grad_enabled():
            of_frames = self.layers.penalty_of_frames(predictions, x_BTCHW[:, first:])
            terms = [term for term in (penalty, of_frames) if term is not None]
            penalty = torch.stack(terms).sum() if terms else None
        return torch.cat([x_BTCHW[:, 1:first], predictions], 1) if first > 1 else predictions, penalty

    def first_predicted(self, history: int) -> int:
        """Return which frame is the first that `predict_all` predicts; those before it are no matter of a loss."""
        return 1 if self.config.declared.predicts_known else history

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
        predictions = [self.read_out(top, known_TBHWP[-top.shape[0] :])]
        pixels = frame_pixels(like, self.config.patch)
        for first in range(0, steps - 1, segment or steps):
            span = slice(first, min(first + (segment or steps), steps - 1))
            truth = None if later is None or mask is None else (later[span], mask[span])
            run = partial(self._forecast, weights, span.stop - first, pixels, truth)
            frames, state = (partial(recomputed, run) if segment else run)(predictions[-1][-1], state)
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

    def compile_parts(self, **options: Any) -> None:
        """Compile in place what runs once a step, by ``torch.compile`` with these options."""
        self.layers.compile_parts(**options)

    def checked_mask(self, mask: Tensor, x_BTCHW: Tensor, steps: int) -> Tensor:
        """Return where the truth is read, (B, steps - 1, 1, 1, 1); refuse masks of another shape."""
        if mask.shape != (x_BTCHW.shape[0], steps - 1):
            raise ModelError("truth_mask", f"its shape is {tuple(mask.shape)}", f"{(x_BTCHW.shape[0], steps - 1)}")
        return mask[:, :, None, None, None]

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
        self.config.require_data(history)
        no_values = x_BTCHW.is_meta or (x_BTCHW.is_cuda and torch.cuda.is_current_stream_capturing())
        if not (torch.compiler.is_compiling() or no_values):
            check_finite(x_BTCHW)


class Forecaster(Network):
    """A network that forecasts from all known frames, and predicts none of them."""

    def forecast(self, x_BTCHW: Tensor, steps: int, truth: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the frames after x, which was checked.

        Parameters
        ----------
        x_BTCHW : Tensor
            The known frames.
        steps : int
            How many frames to forecast.
        truth : tuple of Tensor, optional
            The true frames that follow, and where they are read in place of predictions, (B, steps - 1, 1, 1, 1).
            Networks that feed nothing back leave it alone.
        """
        y: Tensor = self(x_BTCHW, steps)
        return y

    def predictions_and_penalty(
        self, x_BTCHW: Tensor, history: int, truth_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the known frames from the second on as they are, and the forecast of the rest; and no penalty.

        As for `Network.predict_all`; `truth_mask` changes what a network reads that feeds its predictions back.
        """
        steps = x_BTCHW.shape[1] - history if x_BTCHW.ndim == 5 else 1
        self.check(x_BTCHW, history, steps)
        known, later = x_BTCHW[:, :history], x_BTCHW[:, history:]
        truth = None if truth_mask is None else (later, self.checked_mask(truth_mask, x_BTCHW, steps))
        return torch.cat([known[:, 1:], self.forecast(known, steps, truth)], 1), None


class WholeForecaster(Forecaster):
    """A network without a recurrent core, made of any modules: ``layers``, and a ``head`` that reads them out.

    A subclass has `forecast`.
    """

    layers: Any

    def __init__(self, config: NetworkConfig) -> None:
        nn.Module.__init__(self)
        self.config = config

    def forward(self, x_BTCHW: Tensor, steps: int = 1) -> Tensor:
        """Forecast; see `Network.forward`."""
        self.check(x_BTCHW, x_BTCHW.shape[1], steps)
        return self.forecast(x_BTCHW, steps)

    def compile_parts(self, **options: Any) -> None:
        """Compile the layers, which run as a whole."""
        self.layers.compile(dynamic=False, **options)


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
