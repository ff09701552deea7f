"""The recipe of a service: frames that arrive, and forecasts that are published."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import AfterValidator, Field, field_validator, model_validator

from sa_nowcast.errors import RecipeError
from sa_nowcast.recipe.blocks import Block, each_once


def seconds(text: str) -> float:
    """Return a duration such as ``5min`` or ``7d`` in seconds; `ValueError` where it is none above zero."""
    found: Any
    try:
        # What this package prints as 1 d is 1 D to pandas.
        found = pd.Timedelta(re.sub(r"(?<=[\d ])d$", "D", text))
    except ValueError:
        found = pd.NaT
    if pd.isna(found) or found <= pd.Timedelta(0) or not text.strip(" 0123456789."):
        raise ValueError("input should be a duration such as 5min, 2h or 7d")
    return float(found.total_seconds())


class ArrivalsRecipe(Block):
    """Where frames arrive, and how they are read."""

    source: str = Field(
        min_length=1,
        description="A folder that files arrive in, or a Zarr store that grows. ${NAME} and ${NAME:-default} stand for "
        "an environment variable here, in arrivals.like, areas and output.folder.",
    )
    pattern: str = Field("*", min_length=1, description="Which files of the folder are frames, such as *.nc.")
    engine: str | None = Field(None, description="Reader, as data.engine of an experiment; null: told by the files.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the reader.")
    variable: str | None = Field(None, description="The variable; by default the only gridded one.")
    time: str | None = Field(None, description="Time dimension, where attributes and common names do not tell.")
    step: str = Field(description="From one frame to the next, such as 5min.")
    region: dict[str, tuple[float, float]] | None = Field(
        None, description="Coordinate ranges to forecast in, such as {longitude: [-89, -86]}; null: the whole grid."
    )
    units: str | None = Field(
        None,
        description="Units of all that is published; null: those of the first frame. Frames in others are converted.",
    )
    like: str | None = Field(
        None,
        min_length=1,
        description="A file with the grid and units of the frames; null: the first one that is there.",
    )
    settle: float = Field(0.5, ge=0, description="Seconds without a change after which a file is read.")
    patience: float = Field(60.0, gt=0, description="Seconds that a file is waited for that cannot be read.")
    poll: float = Field(
        5.0, gt=0, description="Seconds between two listings, for folders of which the system tells no changes."
    )

    @field_validator("step")
    @classmethod
    def _is_a_duration(cls, value: str) -> str:
        seconds(value)
        return value


class PointRecipe(Block):
    """A named point: by latitude and longitude, or by y and x in the grid's own units."""

    name: str = Field(min_length=1, description="What it is called.")
    latitude: float | None = Field(None, ge=-90, le=90, description="Degrees north.")
    longitude: float | None = Field(None, ge=-360, le=360, description="Degrees east.")
    y: float | None = Field(None, description="In the units of the grid's coordinate.")
    x: float | None = Field(None, description="Likewise.")

    @model_validator(mode="after")
    def _is_one_pair(self) -> PointRecipe:
        given = [n for n in ("latitude", "longitude", "y", "x") if getattr(self, n) is not None]
        if given not in (["latitude", "longitude"], ["y", "x"]):
            raise RecipeError(
                f"points, {self.name}", f"{' and '.join(given) or 'no place'}", "latitude and longitude, or y and x"
            )
        return self


class AlertsRecipe(Block):
    """When a threshold counts as exceeded; two forecasts in a row raise an alert, and two lower it."""

    probability: float = Field(
        0.5, gt=0, lt=1, description="Of a point: how likely the threshold has to be exceeded at some lead time."
    )


class SkillRecipe(Block):
    """How the service scores itself as the truth arrives."""

    references: Annotated[tuple[Literal["persistence", "extrapolation"], ...], AfterValidator(each_once)] = Field(
        ("persistence",), description="What its skill is measured against; extrapolation needs pysteps."
    )
    bound: float = Field(
        0.0, ge=-1, lt=1, description="Skill against the first reference, over all lead times of the last day, that is "
        "a state where it falls below."
    )  # fmt: skip


class ClockRecipe(Block):
    """A clock that runs from another time, or faster: for replays."""

    origin: str = Field(description="What time it showed, in UTC, such as 2020-10-31T00:00.")
    began: float = Field(description="When it showed that, in seconds since 1970.")
    speed: float = Field(1.0, gt=0, description="How many times as fast as other clocks it runs.")

    @field_validator("origin")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        try:
            pd.Timestamp(value)
        except ValueError as error:
            raise ValueError("input should be a time such as 2020-10-31T00:00") from error
        return value


class PublishedRecipe(Block):
    """Where forecasts are published, and as what beside the archive (Zarr) and JSON."""

    folder: str = Field(min_length=1, description="The service's folder; relative to the working directory.")
    formats: tuple[Literal["netcdf", "geotiff", "stac"], ...] = Field(
        ("netcdf",), description="Of each forecast: netcdf, geotiff (cloud-optimised), and a stac item."
    )


class ServiceRecipe(Block):
    """A service: frames arrive, forecasts are published."""

    name: str = Field(min_length=1, description="What the service is called.")
    description: str = Field("", description="What it is for; no program reads it.")
    arrivals: ArrivalsRecipe
    model: str = Field(
        "default", min_length=1, description="default: the model that ships; or the folder of a saved one."
    )
    steps: int = Field(12, ge=1, description="Lead times.")
    products: tuple[Literal["mean", "matched"], ...] = Field(
        ("mean", "matched"), description="Forecasts that are published; mean is always among them."
    )
    members: int | None = Field(None, ge=2, description="Members of an ensemble that are published; null: none.")
    seed: int = Field(0, ge=0, description="Of the members.")
    tile: int | None = Field(
        None, ge=16, description="Width of tiles (pixels); null: the whole grid where memory allows."
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    thresholds: tuple[float | str, ...] = Field(
        (),
        description="Whose probabilities and alerts are published: in the published units, or such as 5 mm h-1.",
    )
    quantiles: tuple[float, ...] = Field((0.1, 0.5, 0.9), description="Of the series at points.")
    points: tuple[PointRecipe, ...] = Field((), description="Named points whose series are published.")
    areas: str | None = Field(None, description="GeoJSON of areas, such as catchments, whose means are published.")
    areas_name: str | None = Field(None, description="The property that names the areas; null: name, or their id.")
    alerts: AlertsRecipe = AlertsRecipe()
    verification: SkillRecipe = SkillRecipe()
    fill_gaps: int = Field(
        1, ge=0, description="Frames of the longest gap in a history that is filled along the motion; 0: none is."
    )
    max_age: str = Field("30min", description="How old the last frame of a forecast may be when it is published.")
    keep: str = Field("7d", description="How long forecasts and frames are kept.")
    output: PublishedRecipe
    port: int | None = Field(
        None, ge=1, le=65535, description="Of /healthz and /metrics on the loopback address; null: neither."
    )
    clock: ClockRecipe | None = Field(None, description="For replays; null: the machine's clock.")

    @field_validator("max_age", "keep")
    @classmethod
    def _is_a_duration(cls, value: str) -> str:
        seconds(value)
        return value

    @field_validator("products")
    @classmethod
    def _mean_is_among_them(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "mean" not in value or len(set(value)) < len(value):
            raise ValueError("input should be [mean] or [mean, matched]")
        return value

    @field_validator("quantiles")
    @classmethod
    def _are_shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < q < 1 for q in value) or list(value) != sorted(set(value)):
            raise ValueError("input should be ascending numbers between 0 and 1, such as [0.1, 0.5, 0.9]")
        return value

    @field_validator("points")
    @classmethod
    def _names_differ(cls, value: tuple[PointRecipe, ...]) -> tuple[PointRecipe, ...]:
        names = [point.name for point in value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise RecipeError("points", f"{twice!r} is there twice", expected="a name of its own for each")
        return value

    @model_validator(mode="after")
    def _outputs_are_kept_long_enough(self) -> ServiceRecipe:
        least = seconds(self.arrivals.step) * (self.steps + 1)
        if seconds(self.keep) < least:
            raise RecipeError(
                "keep", self.keep, expected=f"at least {least / 60:g}min, by which a forecast is verified"
            )
        return self
