"""The recipe of one experiment, with its block ``network``, and that of a comparison of models that are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sa_nowcast.errors import RecipeError
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.record import fields_schema
from sa_nowcast.models.registry import NETWORKS, PRESETS, preset
from sa_nowcast.recipe.blocks import (
    Block,
    ConversionRecipe,
    DataRecipe,
    ForecastRecipe,
    OutputRecipe,
    PicturesRecipe,
    SplitRecipe,
    VerificationRecipe,
)
from sa_nowcast.recipe.training import TrainingRecipe

DEFAULT_PRESET = "small"
DEFAULT_START = "default"
FINE_TUNING = "fine-tune"
BY_DATA = "channels"
"""The one field of `sa_nowcast.models.config.NetworkConfig`, which holds the defaults, that a recipe cannot give."""


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

    A network that feeds no prediction back reads no truth after its history, and one that predicts no known frames
    reads its whole history.

    Raises
    ------
    RecipeError
        The option, and what is allowed.
    """
    feeds_back, graphs = config.declared.feeds_back, config.declared.graphs
    known = config.declared.predicts_known
    unused = {
        "truth_start": (not feeds_back and training.truth_start > 0, training.truth_start, "0"),
        "context_truth_start": (not known and training.context_truth_start < 1, training.context_truth_start, "1"),
        "distribution": (config.output != "moving" and training.distribution, "true", "false, or output: moving"),
        "acceleration": (not graphs and training.acceleration == "graph", "graph", "auto, none or compile"),
    }
    for name, (given, value, allowed) in unused.items():
        if given:
            raise RecipeError(f"training.{name}", f"{value}, with network.{config.cause}", expected=allowed)


def require_updates(training: TrainingRecipe, *, start: bool) -> None:
    """Refuse no update at all where there is no trained model to start from."""
    if not training.max_steps and not start:
        raise RecipeError("training.max_steps", "0, from random weights", expected="at least 1, or a start")


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


def _schema_of_network(schema: dict[str, Any]) -> None:
    schema.clear()
    schema |= {
        "type": "object",
        "description": "A preset (preset: small), and fields of the network that differ from it.",
        "properties": network_fields(),
        "additionalProperties": False,
    }


class Recipe(Block):
    """One experiment, from the source to the pictures."""

    name: str = Field(description="What the run is called in titles and provenance.")
    description: str = Field("", description="What the experiment is about.")
    history: int = Field(ge=1, description="Frames that a forecast starts from.")
    steps: int = Field(ge=1, description="Frames that are forecast.")
    data: DataRecipe
    conversion: ConversionRecipe | None = Field(
        None, description="Convert the source to a Zarr store first; null: it is read as it is."
    )
    split: SplitRecipe = SplitRecipe()
    scaling: Literal["auto", "minmax", "standard", "log1p", "db"] = Field(
        "auto",
        description="auto: log1p for rain rates and amounts, standard for the rest; for networks in Lagrangian "
        "coordinates, which scale each window by themselves, a power of two alone.",
    )
    start: str | None = Field(
        None,
        min_length=1,
        description="The model whose weights training starts from: default (the one that ships), or the folder of a "
        "saved one. null: the default model where no network is described, else none.",
    )
    network: dict[str, Any] | None = Field(
        None,
        description="A preset (preset: small) and fields of NetworkConfig that differ from it, trained from random "
        "weights unless `start` says otherwise; null: the network of `start`.",
        json_schema_extra=_schema_of_network,
    )
    training: TrainingRecipe = TrainingRecipe()
    calibrate: bool = Field(
        False,
        description="Calibrate the trained model by its forecasts of the validation period: then any network has "
        "members, probabilities and quantiles.",
    )
    forecast: ForecastRecipe = ForecastRecipe()
    verification: VerificationRecipe = VerificationRecipe()
    pictures: PicturesRecipe = PicturesRecipe()
    output: OutputRecipe

    @model_validator(mode="before")
    @classmethod
    def _starts_from_a_model(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if values.get("network") is None and values.get("start") is None:
            values = {**values, "start": DEFAULT_START}
        training = values.get("training", {})
        if values.get("start") is not None and isinstance(training, dict) and "preset" not in training:
            values = {**values, "training": {"preset": FINE_TUNING, **training}}
        return values

    @property
    def least(self) -> int:
        """Frames that a window of training needs: all of them, or from a start one lead time."""
        return self.history + (self.steps if self.start is None else 1)

    @field_validator("network")
    @classmethod
    def _network_exists(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return value
        if BY_DATA in value:
            raise RecipeError(
                f"network.{BY_DATA}", "given in a recipe", expected="the data to decide it", fix="leave it out"
            )
        network_config(value, channels=1)
        return value

    @model_validator(mode="after")
    def _network_and_training_fit_together(self) -> Recipe:
        require_updates(self.training, start=self.start is not None)
        if self.network is not None:
            require_together(network_config(self.network, channels=1), self.training)
        return self

    @model_validator(mode="after")
    def _forecasts_can_be_made(self) -> Recipe:
        # Before training, which may take hours. What a saved model can is known when it is loaded.
        asked = self.forecast
        moving = self.network is None or network_config(self.network, channels=1).output == "moving"
        members, inflow = asked.members is not None, asked.inflow != "filled"
        for name, wrong, value, expected in (
            (
                "members",
                members and not moving and not self.calibrate,
                asked.members,
                "network.output: moving, or calibrate: true",
            ),
            ("inflow", inflow and not moving, asked.inflow, "network.output: moving"),
            ("product", members and asked.product != "mean", f"{asked.product}, of members", "mean"),
            ("tile", members and asked.tile is not None, f"{asked.tile}, of members", "null: the whole grid"),
        ):
            if wrong:
                raise RecipeError(f"forecast.{name}", f"{value}", expected=expected)
        if self.calibrate and not self.split.validation:
            raise RecipeError("calibrate", "true without a validation period", expected="split.validation above 0")
        return self


class SetRecipe(Block):
    """One dataset of a comparison."""

    name: str = Field(min_length=1, description="What it is called in tables.")
    source: str = Field(
        description="A path or pattern of files; ${NAME} and ${NAME:-default} stand for an environment variable."
    )
    engine: str | None = Field(None, description="Reader, as data.engine of an experiment; null: guessed.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the reader.")
    variables: tuple[str, ...] | None = Field(None, description="Variables to use; by default all gridded ones.")
    frames: tuple[int, int] | None = Field(None, description="First frame and the one after the last; null: all.")
    cells: int = Field(1, ge=1, description="So many rows and columns become one by their mean.")
    cadence: str | None = Field(
        None, description="Such as 30D: times are replaced by this cadence, where they are irregular as months are."
    )
    stride: int = Field(1, ge=1, description="Every so many init times are taken.")


class ComparisonRecipe(Block):
    """Models and references, scored side by side on datasets of many kinds.

    On data other than rain rates, references of rain and scores of thresholds are left out.
    """

    name: str = Field(description="What the comparison is called.")
    description: str = Field("", description="What it is for; no program reads it.")
    history: int = Field(4, ge=1, description="Frames before an init time that all models are given.")
    steps: int = Field(ge=1, description="Lead times.")
    models: tuple[str, ...] = Field(
        ("default", "persistence", "extrapolation"),
        min_length=2,
        description="default: the model that ships; the folder of a saved model; either with :matched or :members for "
        "that product; or the name of a reference, persistence among them. Of several such as extrapolation+1px, with "
        "other numbers of pixels, the best one of each dataset is compared with.",
    )
    metrics: tuple[str, ...] = Field((), description="Scores beside the MSE, such as [csi, frequency_bias].")
    thresholds: tuple[float, ...] = Field((), description="Of scores of events, in mm h-1.")
    scales: tuple[str, ...] = Field(
        (), description="What a value is the mean over when it is scored, such as [pixel, 20 km, 1 h]; none: one pixel."
    )
    members: int = Field(10, ge=2, description="Of the models that are told as default:members, and of steps.")
    sets: tuple[SetRecipe, ...] = Field(min_length=1, description="The datasets.")
    output: OutputRecipe
