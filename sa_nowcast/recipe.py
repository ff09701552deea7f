"""Recipes: the frozen models of a recipe YAML, with every default in one place, and its strict reader.

The same models check the arguments of `sa_nowcast.fit`; so a notebook and a batch job mean the same by a word.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from sa_nowcast.errors import RecipeError, SaNowcastError
from sa_nowcast.models.config import NetworkConfig, preset
from sa_nowcast.strict_yaml import load_strict

MAX_BYTES = 1_000_000
M = TypeVar("M", bound=BaseModel)
SAMPLE_PREFIX = "sample:"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and wanted is not bool:  # pydantic would take it for 1 or 0
            raise ValueError("input should not be true or false")
        return value


class DataRecipe(_Model):
    """Where the frames come from, and how their dimensions are called."""

    source: str = Field(
        description="A path that xarray opens (NetCDF, Zarr), or 'sample:mrms' for the embedded sample."
    )
    engine: str | None = Field(
        None,
        description="Reader: taxibj, moving_mnist, kth, array, a pysteps importer or an engine of xarray; null: "
        "guessed; moving_mnist_digits: MNIST's idx files, from which sequences are made while training.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the reader.")
    variables: tuple[str, ...] | None = Field(None, description="Variables to use; by default all gridded ones.")
    time: str | None = Field(None, description="Time dimension, where attributes and common names do not tell.")
    y: str | None = Field(None, description="First horizontal dimension, likewise.")
    x: str | None = Field(None, description="Second horizontal dimension, likewise.")
    channel: str | None = Field(None, description="Channel dimension, likewise.")
    gaps: Literal["refuse", "skip"] = Field(
        "refuse", description="Missing times: refuse, or skip the windows they cut."
    )


class SplitRecipe(_Model):
    """Three periods in time order, and optionally regions, so that scores come from unseen times and places."""

    train: float | None = Field(None, gt=0, lt=1, description="Share of the frames to train on; by default all left.")
    validation: float = Field(0.2, ge=0, lt=1, description="Share of the frames that chooses the best weights.")
    test: float = Field(
        0.2, ge=0, lt=1, description="Share of the frames that is forecast and scored, the latest ones."
    )
    guard: int | None = Field(None, ge=0, description="Frames left unused between periods; by default one history.")
    train_region: dict[str, tuple[float, float]] | None = Field(
        None, description="Coordinate ranges to train and validate in, such as {longitude: [-89, -86]}."
    )
    test_region: dict[str, tuple[float, float]] | None = Field(
        None, description="Coordinate ranges to forecast and score in; by default the whole grid."
    )


TRAINING_PRESETS: dict[str, dict[str, Any]] = {
    # Minutes on two CPU cores: the defaults of the fields.
    "small": {},
    # The paper and, where it is silent, the code it descends from; see docs/explanation/networks.md.
    "faithful": {
        "max_steps": 80_000,
        "batch_size": 8,
        "crop": None,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "clip_norm": None,
        "truth_start": 1.0,
        "validate_every": 1000,
        "checkpoint_every": 1000,
        "precision": "fp32",
    },
    # What we would train today.
    "tuned": {
        "max_steps": 80_000,
        "batch_size": 16,
        "crop": None,
        "learning_rate": 1e-3,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "average": 0.999,
        "context_truth_start": 0.5,
        "truth_start": 0.5,
        "validate_every": 1000,
        "checkpoint_every": 1000,
    },
}
"""Named starting points of training; each holds only what differs from the defaults of `TrainingRecipe`."""

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h)")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class TrainingRecipe(_Model):
    """How the network is trained. Fields that are not given come from the preset."""

    preset: Literal["small", "tuned", "faithful"] = Field(
        "small",
        description="small: minutes on two cores; tuned: what we would train today; faithful: the paper's schedule.",
    )
    max_steps: int = Field(2000, ge=1, description="Weight updates at most (paper: 80,000).")
    max_time: str | None = Field(
        None,
        description="Longest time spent on updates, such as '30 min' or '8 h', all resumed parts together; the "
        "learning rate then falls by the clock where that is ahead of the updates. null: no limit.",
    )
    batch_size: int = Field(4, ge=1, description="Windows an update, of all processes together (paper: 8).")
    crop: int | None = Field(
        96,
        ge=1,
        description="Rows and columns of the random crops of a training window (pixels); null: the whole grid.",
    )
    reversed_input: bool = Field(
        False,
        description="Each batch makes a second update with its frames in reverse order, which counts as an update of "
        "its own (an option of the paper's lineage); the sampling schedules count batches.",
    )
    optimizer: Literal["adam", "adamw"] = Field("adam", description="AdamW decays weights apart from the gradient.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay of the weights, as a share of learning rate.")
    learning_rate: float = Field(2e-3, gt=0, description="Highest learning rate (paper: 1e-3).")
    schedule: Literal["one-cycle", "cosine", "constant"] = Field(
        "one-cycle",
        description="Learning rate over the run. one-cycle: a linear rise over `warm_up`, then a half cosine down to a "
        "thousandth; cosine: the fall alone; constant: the paper.",
    )
    warm_up: float = Field(0.1, ge=0, lt=1, description="Share of the run in which one-cycle rises.")
    loss: Literal["l2", "l1+l2", "rain-weighted"] = Field(
        "l2",
        description="Mean over valid pixels of all T-1 predictions (paper: l2; l1+l2 for KTH); rain-weighted: l1+l2 "
        "with `rain_weights`.",
    )
    rain_weights: tuple[tuple[float, float], ...] = Field(
        ((2.0, 2.0), (5.0, 5.0), (10.0, 10.0), (30.0, 30.0)),
        description="Of rain-weighted: pairs (threshold in mm h-1, weight of pixels at or above it); 1 below.",
    )
    clip_norm: float | None = Field(1.0, gt=0, description="Largest gradient norm; null: no clipping (paper).")
    truth_start: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability that a forecast step reads the true frame, at step 0 (scheduled sampling; paper: 1).",
    )
    truth_decay: float = Field(2e-5, ge=0, description="What that probability loses with every batch (paper: 2e-5).")
    context_truth_start: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Probability that a step within the history reads the true frame, at step 0 (reverse scheduled "
        "sampling); 1: always (paper).",
    )
    context_truth_rise: float = Field(2e-5, ge=0, description="What that probability gains with every batch.")
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of the exponential moving average of the weights that is validated and kept, such as 0.999; "
        "0: the weights themselves (paper).",
    )
    validate_every: int = Field(100, ge=1, description="Updates between two validations.")
    validation_samples: int = Field(32, ge=1, description="Validation windows, the same ones every time.")
    patience: int | None = Field(
        None, ge=1, description="Stop after so many validations in a row without a better one; null: never."
    )
    checkpoint_every: int = Field(
        100, ge=1, description="Updates between two checkpoints, where there is a run folder."
    )
    log_every: int = Field(20, ge=1, description="Updates between two rows of the log.")
    pictures: int = Field(
        1,
        ge=0,
        description="Validation windows whose forecast is drawn at every validation, where there is a run folder.",
    )
    tensorboard: bool = Field(False, description="Write a TensorBoard log into the run folder too.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Of the network's products; weights stay float32. auto: bf16 on a GPU that has it."
    )
    acceleration: Literal["auto", "none", "compile", "graph"] = Field(
        "auto", description="compile: compiled cells; graph: one CUDA graph a step. auto: graph on one GPU, else none."
    )
    seed: int = Field(0, ge=0, description="Decides weights, order, crops and sampling masks.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    workers: int = Field(0, ge=0, description="Loader processes; 0 reads in the training process.")

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        name = values.get("preset") if isinstance(values, dict) else None
        if not isinstance(name, str) or name not in TRAINING_PRESETS:
            return values  # what is wrong with it is said by the fields
        return {**TRAINING_PRESETS[name], **values}

    @field_validator("max_time")
    @classmethod
    def _is_a_duration(cls, value: str | None) -> str | None:
        if value is not None and (not (found := _DURATION.fullmatch(value.strip())) or not float(found[1])):
            raise ValueError("input should be a duration above 0 in s, min or h, such as '30 min'")
        return value

    @field_validator("rain_weights")
    @classmethod
    def _weights_rise(cls, value: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        thresholds = [threshold for threshold, _ in value]
        if not value or thresholds != sorted(set(thresholds)) or min(weight for _, weight in value) <= 0:
            raise ValueError("input should be pairs of a threshold and a weight above 0, thresholds rising")
        return value

    @property
    def max_seconds(self) -> float | None:
        """`max_time` in seconds."""
        if self.max_time is None:
            return None
        found = _DURATION.fullmatch(self.max_time.strip())
        assert found is not None  # checked above
        return float(found[1]) * _SECONDS[found[2]]


class VerificationRecipe(_Model):
    """What the held-back period is scored with."""

    metrics: tuple[str, ...] = Field(
        (),
        description="Names of scores; by default mse, and csi where there are thresholds. ssim stands for all three.",
    )
    thresholds: tuple[float, ...] = Field((), description="CSI thresholds in the data's units, compared with >=.")
    data_range: tuple[float, float] = Field(
        (0.0, 1.0), description="Values in the data's units that stand for 0 and 1 in frame_mse, frame_mae, ssim, psnr."
    )
    clip: bool = Field(False, description="Clip forecasts to data_range in these.")
    reference: Literal["persistence"] = Field("persistence", description="The forecast that skill is measured against.")


class OutputRecipe(_Model):
    """Where results are written. One folder holds a whole run."""

    folder: str = Field(description="The run's folder; relative to the working directory.")
    format: Literal["netcdf", "zarr"] = Field("netcdf", description="Of the forecasts: forecast.nc or forecast.zarr.")


class Recipe(_Model):
    """One experiment: data, split, scaling, network, training, verification, output."""

    name: str = Field(description="What the run is called in titles and provenance.")
    description: str = Field("", description="For people.")
    history: int = Field(ge=1, description="Frames that a forecast starts from.")
    steps: int = Field(ge=1, description="Frames that are forecast.")
    data: DataRecipe
    split: SplitRecipe = SplitRecipe()
    scaling: Literal["auto", "minmax", "standard", "log1p", "db"] = Field(
        "auto", description="auto: log1p for rain rates and amounts, standard for the rest."
    )
    network: dict[str, Any] = Field(
        default_factory=dict, description="A preset (preset: small) and fields of NetworkConfig that differ from it."
    )
    training: TrainingRecipe = TrainingRecipe()
    verification: VerificationRecipe = VerificationRecipe()
    output: OutputRecipe

    @field_validator("network")
    @classmethod
    def _network_exists(cls, value: dict[str, Any]) -> dict[str, Any]:
        network_config(value, channels=1)
        return value

    @model_validator(mode="after")
    def _channels_come_from_data(self) -> Self:
        if "channels" in self.network:
            raise RecipeError(
                "network.channels", "given in a recipe", expected="the data to decide it", fix="leave it out"
            )
        return self


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
    name = rest.pop("preset", "small")
    if not isinstance(name, str):
        raise RecipeError("network.preset", f"{name!r:.60}", expected="the name of a preset")
    hidden = rest.get("hidden", ())
    if not isinstance(hidden, list | tuple):
        raise RecipeError("network.hidden", f"{hidden!r:.60}", expected="a list of channels, one number a layer")
    return preset(name, **{**rest, "channels": channels})


def read_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe file.

    Raises
    ------
    RecipeError
        No such file, YAML that is not plain (duplicate keys, tags, aliases, deep nesting), unknown keys (the nearest
        known one is named) or values that are not allowed. The message names file, line and key.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RecipeError(str(path), f"{size} bytes", expected=f"a recipe of at most {MAX_BYTES}")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(
            str(path), f"cannot be read ({error.strerror})", fix="check the path of the recipe"
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(str(path), "is not UTF-8 text", expected="a YAML file") from error
    return parse_recipe(text, str(path))


def parse_recipe(text: str, name: str = "recipe") -> Recipe:
    """Check the text of a recipe; `name` is what errors call it."""
    tree, lines = load_strict(text, name)
    if not isinstance(tree, dict):
        raise RecipeError(name, f"a {type(tree).__name__}" if tree is not None else "empty", expected="keys and values")
    return checked(Recipe, tree, name, lines)


def checked(
    model: type[M], values: Mapping[str, Any], name: str, lines: Mapping[tuple[str, ...], int] | None = None
) -> M:
    """Validate `values` as `model`, or raise one `RecipeError` about the first thing that is wrong."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise _explained(error, model, name, lines or {}) from None
    except SaNowcastError as error:
        raise RecipeError(f"{name}, {error.where}", error.found, error.expected, error.fix) from None


def _explained(
    error: ValidationError, model: type[BaseModel], name: str, lines: Mapping[tuple[str, ...], int]
) -> RecipeError:
    # A mistyped key is both unknown and missing; the unknown one says what to mend.
    first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    keys = tuple(str(k) for k in first["loc"])
    line = next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), None)
    where = name + (f", line {line}" if line else "") + (f", {'.'.join(keys)}" if keys else "")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, SaNowcastError):
        return RecipeError(f"{where} ({inner.where})", inner.found, inner.expected, inner.fix)
    if first["type"] == "extra_forbidden":
        known = _fields(model, keys[:-1])
        near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
        if near:
            return RecipeError(where, f"unknown key{more}", fix=f"write {near[0]!r}")
        return RecipeError(where, f"unknown key{more}", expected=f"one of {', '.join(known)}", fix="remove it")
    if first["type"] == "missing":
        return RecipeError(where, f"missing{more}", fix="add it")
    return RecipeError(where, f"{first['input']!r:.60}{more}", expected=first["msg"][0].lower() + first["msg"][1:])


def _fields(model: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    for key in path:
        field = model.model_fields.get(key)
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
