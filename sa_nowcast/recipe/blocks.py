"""The blocks of a recipe other than ``network`` and ``training``, and what all blocks share."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from sa_nowcast.metadata.bounds import UNIT_RANGE

SAMPLE_PREFIX = "sample:"
ReferenceName = Literal[
    "persistence", "climatology", "extrapolation", "smoothed-extrapolation", "sprog", "sprog-unmatched", "steps",
    "steps-mean",
]  # fmt: skip
REFERENCE_NAMES: tuple[str, ...] = get_args(ReferenceName)
Names = TypeVar("Names", bound=tuple[str, ...])


class Block(BaseModel):
    """A mapping of a recipe: frozen, no unknown keys, no infinite numbers, and true is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and wanted is not bool:  # pydantic would take it for 1 or 0
            raise ValueError("input should not be true or false")
        return value


def each_once(value: Names) -> Names:
    """Return names of references, of which there is at least one."""
    if not value or len(set(value)) < len(value):
        raise ValueError("input should name at least one reference, and each once")
    return value


class DataRecipe(Block):
    """Where the frames come from, and how their dimensions are called."""

    source: str = Field(
        description="A path or pattern of files (NetCDF, Zarr or of the engine), or sample:mrms, which ships. ${NAME} "
        "and ${NAME:-default} stand for an environment variable here, in options.also, conversion.to and output.folder."
    )
    engine: str | None = Field(
        None,
        description="Reader: taxibj, moving_mnist, kth, array, film, geotiff, a format of radar composites or an "
        "engine of xarray; null: told by the files; moving_mnist_digits: MNIST's idx files, from which sequences are "
        "made while training; synthetic_fields: fields of many kinds made while training, some of them cut from the "
        "real ones in source and options.also.",
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
    valid_min: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Least value that a forecast can have, in the data's units, where their attributes give no bounds; "
        "0 for counts.",
    )


class SplitRecipe(Block):
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


class ConversionRecipe(Block):
    """The source is first converted to a Zarr store, from which training reads its windows quickly.

    A field that is null is decided by `sa_nowcast.convert`.
    """

    to: str = Field(
        min_length=1, description="The store; relative to the working directory. Several recipes may share it."
    )
    irregular: Literal["refuse", "allow"] | None = Field(
        None, description="Times that are no multiples of one step, such as months; null: refuse."
    )
    frames_per_shard: int | None = Field(
        None, ge=1, le=1_000_000, description="Frames in one file; null: by history and steps."
    )
    level: int | None = Field(None, ge=1, le=22, description="Of Zstandard's compression.")


class ForecastRecipe(Block):
    """Which forecasts are made of the test period."""

    stride: int = Field(1, ge=1, description="Init times from one forecast to the next (frames); 1: every one.")
    tile: int | None = Field(
        None, ge=1, description="Width of tiles (pixels), for large grids; null: the whole grid where memory allows."
    )
    product: Literal["mean", "matched"] = Field(
        "mean",
        description="What the network's forecasts are: of least squared error, or with its pattern and the "
        "distribution of the observed values.",
    )
    inflow: Literal["filled", "missing"] = Field(
        "filled",
        description="What stands where the motion brings in what lay beyond the grid: an estimate, or nothing.",
    )
    members: int | None = Field(
        None,
        ge=1,
        description="Members of an ensemble that are drawn from the distribution of the forecast; null: one forecast.",
    )
    seed: int = Field(0, ge=0, description="Of the members.")
    latest: bool = Field(False, description="Forecast from the newest frames too, for which there is no truth yet.")


class BootstrapRecipe(Block):
    """The interval of a skill, and of scores. A field that is null is that of `sa_nowcast.verification.Bootstrap`."""

    samples: int | None = Field(None, ge=0, description="Resampled archives; 0: no interval.")
    level: float | None = Field(None, gt=0, lt=1, description="Share of the samples within the interval.")
    block: int | None = Field(
        None, ge=1, description="Successive init times drawn together; null: by lead time and number of forecasts."
    )
    seed: int | None = Field(None, ge=0, description="The same seed gives the same interval.")
    scores: bool = Field(False, description="Whether each score has an interval too, and not only skills.")


class VerificationRecipe(Block):
    """What the test period is scored with."""

    metrics: tuple[str, ...] = Field(
        (),
        description="Names of scores; by default mse, and csi where there are thresholds. ssim stands for all three.",
    )
    thresholds: tuple[float, ...] = Field((), description="CSI thresholds in the data's units, compared with >=.")
    neighbourhoods: tuple[int, ...] | None = Field(
        None, description="Odd window widths of the FSS (pixels); null: those of `sa_nowcast.verification.verify`."
    )
    scales: tuple[str, ...] | None = Field(
        None,
        description="What values are means over before they are scored, such as [pixel, 20 km, 1 h, 20 km 1 h]; null: "
        "single pixels and lead times.",
    )
    data_range: tuple[float, float] = Field(
        UNIT_RANGE, description="Values in the data's units that stand for 0 and 1 in frame_mse, frame_mae, ssim, psnr."
    )
    clip: bool = Field(False, description="Clip forecasts to data_range in these.")
    references: Annotated[tuple[ReferenceName, ...], AfterValidator(each_once)] = Field(
        ("persistence",),
        description="Forecasts without training that are made and scored beside the network's; skill is measured "
        "against the first. climatology averages the training period by time of day; all but "
        "it and persistence need pysteps.",
    )
    bootstrap: BootstrapRecipe = BootstrapRecipe()

    @field_validator("neighbourhoods")
    @classmethod
    def _widths_are_odd(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or min(value) < 1 or not all(width % 2 for width in value)):
            raise ValueError("input should be odd widths of at least 1, such as [1, 5, 11]")
        return value


class PicturesRecipe(Block):
    """What is drawn at the end; of several variables or channels each, as in forecast-NAME.png."""

    forecast: bool = Field(True, description="forecast.png: history, truth, forecast, persistence and error.")
    init_time: str = Field(
        "last", description="Of forecast.png, the film and attention.png: last, first, or an init time (UTC)."
    )
    scores: bool = Field(True, description="scores.png: scores by lead time, with each reference.")
    diagrams: tuple[Literal["reliability", "roc", "value", "rank", "spread-skill", "spectra"], ...] = Field(
        (),
        description="diagrams.png: these at the longest lead time, of the metrics reliability, roc, economic_value, "
        "rank_histogram, binned_spread_skill and spectra.",
    )
    film: Literal["gif", "mp4"] | None = Field(None, description="forecast.gif or .mp4: the same, animated.")
    attention: tuple[float, float] | None = Field(
        None,
        description="attention.png: what the grid point nearest to this y and x attends to, in the units of the "
        "grid's coordinates (rows and columns where it has none); null: none.",
    )
    title: str | None = Field(
        None, description="Above the pictures; null: what the data are called, and the init time."
    )


class OutputRecipe(Block):
    """Where results are written. One folder holds a whole run."""

    folder: str = Field(min_length=1, description="The run's folder; relative to the working directory.")
    format: Literal["netcdf", "zarr"] = Field(
        "netcdf",
        description="Of the forecasts: forecast.nc, or forecast.zarr, for periods that are larger than memory.",
    )
