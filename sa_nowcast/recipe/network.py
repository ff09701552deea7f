"""The block ``network``: a preset and fields of `sa_nowcast.models.config.NetworkConfig`, which holds the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sa_nowcast.errors import RecipeError
from sa_nowcast.models.config import NETWORKS, PRESETS, NetworkConfig, fields_schema, preset
from sa_nowcast.recipe.training import TrainingRecipe

DEFAULT_PRESET = "small"
BY_DATA = "channels"


def network_config(options: Mapping[str, Any] | NetworkConfig | None, *, channels: int) -> NetworkConfig:
    """Return the network that a recipe's ``network`` block (or the argument of `fit`) describes.

    Parameters
    ----------
    options : mapping or NetworkConfig, optional
        A mapping may hold ``preset`` (default ``"small"``, which trains in minutes on two cores) and fields that
        differ from it.
    channels : int
        Channels of the data.
    """
    if isinstance(options, NetworkConfig):
        if options.channels != channels:
            raise RecipeError(
                "network.channels", f"{options.channels}", expected=f"{channels}, the channels of the data"
            )
        return options
    if not isinstance(options, Mapping | None):
        raise RecipeError("network", f"{options!r:.60}", expected="a mapping of fields, or a NetworkConfig")
    rest = dict(options or {})
    name = rest.pop("preset", DEFAULT_PRESET)
    if not isinstance(name, str):
        raise RecipeError("network.preset", f"{name!r:.60}", expected="the name of a preset")
    hidden = rest.get("hidden", ())
    if not isinstance(hidden, list | tuple):
        raise RecipeError("network.hidden", f"{hidden!r:.60}", expected="a list of channels, one number a layer")
    return preset(name, **{**rest, "channels": channels})


def require_together(config: NetworkConfig, training: TrainingRecipe) -> None:
    """Refuse options of training that a network would leave unused, or could not be trained by.

    A network that feeds no prediction back reads its whole history, and no truth after it.

    Raises
    ------
    RecipeError
        The option, and what is allowed.
    """
    feeds_back, graphs = config.declared.feeds_back, config.declared.graphs
    unused = {
        "truth_start": (not feeds_back and training.truth_start > 0, training.truth_start, "0"),
        "context_truth_start": (not feeds_back and training.context_truth_start < 1, training.context_truth_start, "1"),
        "acceleration": (not graphs and training.acceleration == "graph", "graph", "auto, none or compile"),
    }
    for name, (given, value, allowed) in unused.items():
        if given:
            raise RecipeError(f"training.{name}", f"{value}, with network.{config.cause}", expected=allowed)


def network_fields() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each key of the block: those of all networks, and the preset."""
    fields: dict[str, dict[str, Any]] = {
        "preset": {
            "enum": list(PRESETS),
            "default": DEFAULT_PRESET,
            "description": "The named network whose fields hold where none is given here.",
        }
    }
    for config in dict.fromkeys(network.config for network in NETWORKS.values()):
        for name, field in fields_schema(config).items():
            # What holds without the key is the preset's, not the record's.
            fields.setdefault(name, {key: value for key, value in field.items() if key not in ("default", "title")})
    del fields[BY_DATA]
    return fields
