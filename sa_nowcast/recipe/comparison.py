"""The recipe of a comparison: several models, none of them trained here, on several datasets."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from sa_nowcast.recipe.base import Block
from sa_nowcast.recipe.blocks import OutputRecipe


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
    """Models and references, scored side by side on datasets of many kinds."""

    name: str = Field(description="What the comparison is called.")
    description: str = Field("", description="What it is for; no program reads it.")
    history: int = Field(4, ge=1, description="Frames before an init time that all models are given.")
    steps: int = Field(ge=1, description="Lead times.")
    models: tuple[str, ...] = Field(
        ("default", "persistence", "extrapolation"),
        min_length=2,
        description="default: the model that ships; the name of a reference; or the folder of a saved model.",
    )
    sets: tuple[SetRecipe, ...] = Field(min_length=1, description="The datasets.")
    output: OutputRecipe
