"""Recipes: the frozen models of a recipe YAML, with every default in one place, and its strict reader.

`blocks`, `training` and `model` say what the recipe of an experiment may hold, and `model` that of a comparison,
`tables` that of a publication's tables, `service` that of a service; `tree` finds and reads files, `reading` checks
them and tells editors their schema. The same models check the arguments of `sa_nowcast.fit`; so a notebook and a
batch job mean the same by a word.
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
from sa_nowcast.recipe.model import ComparisonRecipe, Recipe, SetRecipe, network_config, require_together
from sa_nowcast.recipe.reading import (
    AnyRecipe,
    checked,
    comparison_schema,
    parse_recipe,
    read_any,
    read_recipe,
    read_service,
    recipe_schema,
    resolve,
    service_schema,
    tables_schema,
)
from sa_nowcast.recipe.service import PointRecipe, ServiceRecipe
from sa_nowcast.recipe.tables import ColumnRecipe, TableRecipe, TablesRecipe
from sa_nowcast.recipe.training import TRAINING_PRESETS, TrainingRecipe
from sa_nowcast.recipe.tree import Tree, find_recipe, parse_tree, read_tree, with_overrides

__all__ = [
    "REFERENCE_NAMES", "SAMPLE_PREFIX", "TRAINING_PRESETS", "AnyRecipe", "BootstrapRecipe", "ColumnRecipe",
    "ComparisonRecipe", "ConversionRecipe", "DataRecipe", "ForecastRecipe", "OutputRecipe", "PicturesRecipe",
    "PointRecipe", "Recipe", "ServiceRecipe", "SetRecipe", "SplitRecipe", "TableRecipe", "TablesRecipe",
    "TrainingRecipe", "Tree", "VerificationRecipe",
    "checked", "comparison_schema", "find_recipe", "network_config", "parse_recipe", "parse_tree", "read_any",
    "read_recipe", "read_service", "read_tree", "recipe_schema", "require_together", "resolve", "service_schema",
    "tables_schema", "with_overrides",
]  # fmt: skip
