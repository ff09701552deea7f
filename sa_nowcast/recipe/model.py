"""The whole recipe: one experiment."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sa_nowcast.errors import RecipeError
from sa_nowcast.recipe.base import Block
from sa_nowcast.recipe.blocks import (
    ConversionRecipe,
    DataRecipe,
    ForecastRecipe,
    OutputRecipe,
    PicturesRecipe,
    SplitRecipe,
    VerificationRecipe,
)
from sa_nowcast.recipe.network import BY_DATA, network_config, network_fields, require_together
from sa_nowcast.recipe.training import TrainingRecipe


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
        "auto", description="auto: log1p for rain rates and amounts, standard for the rest."
    )
    network: dict[str, Any] = Field(
        default_factory=dict,
        description="A preset (preset: small) and fields of NetworkConfig that differ from it.",
        json_schema_extra=_schema_of_network,
    )
    training: TrainingRecipe = TrainingRecipe()
    forecast: ForecastRecipe = ForecastRecipe()
    verification: VerificationRecipe = VerificationRecipe()
    pictures: PicturesRecipe = PicturesRecipe()
    output: OutputRecipe

    @field_validator("network")
    @classmethod
    def _network_exists(cls, value: dict[str, Any]) -> dict[str, Any]:
        if BY_DATA in value:
            raise RecipeError(
                f"network.{BY_DATA}", "given in a recipe", expected="the data to decide it", fix="leave it out"
            )
        network_config(value, channels=1)
        return value

    @model_validator(mode="after")
    def _network_and_training_fit_together(self) -> Recipe:
        require_together(network_config(self.network, channels=1), self.training)
        return self
