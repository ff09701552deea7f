"""Recipes: the frozen models of a recipe YAML, with every default in one place, and its strict reader.

`blocks`, `training`, `network` and `model` say what a recipe may hold; `tree` reads files, `reading` checks them,
`schema` tells editors, `shipped` finds those that ship. The same models check the arguments of `sa_nowcast.fit`; so a
notebook and a batch job mean the same by a word.
"""

from sa_nowcast.recipe.blocks import (
    REFERENCE_NAMES,
    SAMPLE_PREFIX,
    BootstrapRecipe,
    ConversionRecipe,
    DataRecipe,
    ForecastRecipe,
    OutputRecipe,
    PicturesRecipe,
    SplitRecipe,
    VerificationRecipe,
)
from sa_nowcast.recipe.model import Recipe
from sa_nowcast.recipe.network import network_config
from sa_nowcast.recipe.reading import checked, parse_recipe, read_recipe, resolve
from sa_nowcast.recipe.schema import recipe_schema
from sa_nowcast.recipe.shipped import find_recipe
from sa_nowcast.recipe.training import TRAINING_PRESETS, TrainingRecipe
from sa_nowcast.recipe.tree import Tree, parse_tree, read_tree, with_overrides

__all__ = [
    "REFERENCE_NAMES",
    "SAMPLE_PREFIX",
    "TRAINING_PRESETS",
    "BootstrapRecipe",
    "ConversionRecipe",
    "DataRecipe",
    "ForecastRecipe",
    "OutputRecipe",
    "PicturesRecipe",
    "Recipe",
    "SplitRecipe",
    "TrainingRecipe",
    "Tree",
    "VerificationRecipe",
    "checked",
    "find_recipe",
    "network_config",
    "parse_recipe",
    "parse_tree",
    "read_recipe",
    "read_tree",
    "recipe_schema",
    "resolve",
    "with_overrides",
]
