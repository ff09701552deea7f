"""The JSON Schema of recipe files, from which editors complete and check."""

from __future__ import annotations

from typing import Any

from sa_nowcast.recipe.comparison import ComparisonRecipe
from sa_nowcast.recipe.model import Recipe
from sa_nowcast.recipe.tables import TablesRecipe
from sa_nowcast.recipe.tree import EXTENDS


def comparison_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the recipe of a comparison."""
    return _titled("sa_nowcast comparison", ComparisonRecipe.model_json_schema())


def tables_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the recipe of a publication's tables."""
    return _titled("sa_nowcast tables", TablesRecipe.model_json_schema())


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a recipe file.

    Returns
    -------
    dict
        Every key with type, default, limits and description. A file that extends another recipe need not hold the
        required keys; that the two together do is checked by `read_recipe`.
    """
    schema = Recipe.model_json_schema()
    required = schema.pop("required")
    schema["properties"] = {
        EXTENDS: {
            "type": "string",
            "minLength": 1,
            "description": "Another recipe, by path from this file's folder or by the name of one that ships; what "
            "stands here goes over it, block by block.",
        },
        **schema["properties"],
    }
    return {**_titled("sa_nowcast recipe", schema), "anyOf": [{"required": [EXTENDS]}, {"required": required}]}


def _titled(title: str, schema: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in schema.items() if key != "title"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **rest}
