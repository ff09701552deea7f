"""The block ``network``: a preset and fields of `sa_nowcast.models.config.NetworkConfig`, which holds the defaults."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from sa_nowcast.errors import RecipeError
from sa_nowcast.models.config import PRESETS, NetworkConfig, preset
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

    A network in the frame of the motion reads its whole history for the motion in it, and no truth after it.

    Raises
    ------
    RecipeError
        The option, and what is allowed.
    """
    if config.output != "moving":
        return
    unused = {
        "truth_start": (training.truth_start > 0, training.truth_start, "0"),
        "context_truth_start": (training.context_truth_start < 1, training.context_truth_start, "1"),
        "acceleration": (training.acceleration == "graph", "graph", "auto, none or compile"),
    }
    for name, (given, value, allowed) in unused.items():
        if given:
            raise RecipeError(f"training.{name}", f"{value}, with network.output: moving", expected=allowed)


def network_fields() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each key of the block, with the descriptions that `NetworkConfig` gives."""
    described = _parameters(NetworkConfig)
    known = TypeAdapter(NetworkConfig).json_schema()["properties"]
    fields: dict[str, dict[str, Any]] = {
        "preset": {
            "enum": list(PRESETS),
            "default": DEFAULT_PRESET,
            "description": "The named network whose fields hold where none is given here.",
        }
    }
    for name, field in known.items():
        if name == BY_DATA:
            continue
        # What holds without the key is the preset's, not the dataclass's.
        schema = {key: value for key, value in field.items() if key not in ("default", "title")}
        fields[name] = {**schema, "description": described.get(name, "")}
    return fields


def _parameters(record: type) -> dict[str, str]:
    """Return the descriptions in the section "Parameters" of a docstring."""
    text = inspect.getdoc(record) or ""
    section = re.search(r"^Parameters\n-+\n(.*?)(?:\n\n\S|\Z)", text, re.S | re.M)
    if section is None:
        return {}
    found = re.findall(r"^(\w+) : .*\n((?:    .*\n?)+)", section[1] + "\n", re.M)
    return {name: " ".join(body.split()) for name, body in found}
