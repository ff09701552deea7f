"""What training starts from: random weights, or those of a model that was trained before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.forecasts.default_model import default_model, of_channels
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.models import Network, NetworkConfig, build
from sa_nowcast.recipe import network_config
from sa_nowcast.recipe.model import DEFAULT_START

LEAST_HISTORY = 2
"""Frames that a network in Lagrangian coordinates needs to see motion."""


@dataclass(frozen=True, eq=False)
class Start:
    """A network whose weights training starts from."""

    name: str
    """What it is called: ``default``, a path, or the digest of a model."""
    digest: str
    network: Network
    """For the channels of the data."""
    steps: int
    """Lead times that it was trained for."""

    def horizon(self, steps: int) -> int:
        """Return the lead times to train on: those that the start knows too, so that none of them becomes worse."""
        return max(steps, self.steps)


def network_to_train(
    network: Mapping[str, Any] | NetworkConfig | None,
    start: str | Path | Nowcaster | None,
    *,
    channels: int,
    history: int,
) -> tuple[NetworkConfig, Start | None]:
    """Return the network that is trained, and the model that it starts from; None is a start from random weights.

    Parameters
    ----------
    network : mapping or NetworkConfig, optional
        As for `sa_nowcast.fit`; without it the network is that of the start.
    start : {"default"}, path or Nowcaster, optional
        By default the model that ships where no network is given, else none.
    channels, history : int
        Channels of the data, and frames that a forecast starts from.

    Raises
    ------
    RecipeError
        A network that is another one than the start's, or a history that shows the start no motion.
    ModelError
        The start is for other channels, or cannot be read.
    """
    if start is None and network is not None:
        return network_config(network, channels=channels), None
    found = _start(DEFAULT_START if start is None else start, channels)
    config = found.network.config
    if network is not None:
        told = getattr(config, "history", None), getattr(config, "grid", None)
        given = network_config(network, channels=channels).completed(*told).to_dict()
        for field, value in config.to_dict().items():
            if given[field] != value:
                raise RecipeError(
                    f"network.{field}",
                    f"{given[field]}, and the start ({found.name}) has {value}",
                    expected="one network",
                    fix="leave network out, or start",
                )
    if not config.declared.needs_scaling and history < LEAST_HISTORY:
        raise RecipeError(
            "history",
            f"{history}, and training starts from a model that forecasts along the motion",
            expected=f"at least {LEAST_HISTORY}",
            fix="give history=4, or network={'preset': 'small'} to train from random weights",
        )
    return config, found


def scaling_for(config: NetworkConfig, scaling: str) -> str:
    """Return the scaling that is fitted; ``auto`` is ``affine`` for a network that scales each window by itself."""
    return "affine" if scaling == "auto" and not config.declared.needs_scaling else scaling


def _start(start: str | Path | Nowcaster, channels: int) -> Start:
    if start == DEFAULT_START:
        return Start(DEFAULT_START, default_model().digest, of_channels(channels), default_model().terms.steps)
    if not isinstance(start, str | Path | Nowcaster):
        raise RecipeError("start", f"a {type(start).__name__}", expected="'default', a path or a Nowcaster")
    model = start if isinstance(start, Nowcaster) else Nowcaster.load(Path(start).expanduser())
    name, network = model.digest if isinstance(start, Nowcaster) else str(start), model.network
    if network.config.channels != channels:
        if network.config.declared.needs_scaling:
            raise ModelError(
                f"start ({name})",
                f"{network.config.channels} channels",
                expected=f"{channels}, the channels of the data",
                fix="choose as many variables, or another start",
            )
        other = build(replace(network.config, channels=channels))
        other.load_state_dict(network.state_dict())
        network = other
    return Start(name, model.digest, network, model.terms.steps)
