"""The block ``training``, which is also the arguments of `sa_nowcast.fit`, and its presets."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sa_nowcast.recipe.blocks import Block

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
    # From a model that was trained before, on few data: what reads the recurrent layers out, in small steps.
    "fine-tune": {
        "max_steps": 400,
        "crop": 128,
        "augment": ("flips",),
        "train_core": False,
        "balanced_leads": True,
        "learning_rate": 3e-4,
        "average": 0.98,
        "validate_every": 50,
        "validation_samples": 96,
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

FREE_FIELDS = frozenset(
    {"preset", "device", "workers", "checkpoint_every", "log_every", "pictures", "tensorboard", "acceleration"}
)
"""Fields that change how fast a run gets there, or what it writes on the way, and not where it ends."""

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h)")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class TrainingRecipe(Block):
    """How the network is trained. Fields that are not given come from the preset."""

    preset: Literal["small", "fine-tune", "tuned", "faithful"] = Field(
        "small",
        description="small: minutes on two cores; fine-tune: from a trained model, in minutes too, and the default "
        "where there is a start; tuned: what we would train today; faithful: the paper's schedule.",
    )
    max_steps: int = Field(
        2000, ge=0, description="Weight updates at most (paper: 80,000); 0, with a start alone: that model as it is."
    )
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
    augment: tuple[Literal["flips", "turns"], ...] = Field(
        (),
        description="Moves of training windows at random, all frames of a window alike. flips: mirrored, each axis in "
        "every second window; turns: by quarters, for which samples have to be square. Both: the eight symmetries of a "
        "square. For fields without a preferred direction or place, such as rain where frames are few.",
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
    train_core: bool = Field(
        True,
        description="Whether the recurrent layers are trained; false: only what reads them out, which few data suffice "
        "for.",
    )
    distribution: bool = Field(
        False,
        description="Whether the distribution of the forecast is trained beside it, by the CRPS, on a quarter of each "
        "batch; for networks with `output: moving`. The forecast itself becomes the same.",
    )
    loss: Literal["l2", "l1+l2", "rain-weighted", "accumulation"] = Field(
        "l2",
        description="Mean over valid pixels of all T-1 predictions (paper: l2; l1+l2 for KTH); rain-weighted: l1+l2 "
        "with `rain_weights`; accumulation: squared error of the sum since the init time, at every lead time. "
        "Validation has the same loss.",
    )
    rain_weights: tuple[tuple[float, float], ...] = Field(
        ((2.0, 2.0), (5.0, 5.0), (10.0, 10.0), (30.0, 30.0)),
        description="Of rain-weighted: pairs (threshold in mm h-1, weight of pixels at or above it); 1 below.",
    )
    balanced_leads: bool = Field(
        False,
        description="Whether losses count as shares of persistence's at each lead time, so that the first lead "
        "times, whose errors are small, count as much as the last.",
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
