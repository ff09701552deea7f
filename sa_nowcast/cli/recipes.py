"""Recipes as the command line names them: by path, or by the name of one that ships, with what it replaces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sa_nowcast.errors import RecipeError

if TYPE_CHECKING:
    from sa_nowcast.recipe import Recipe


def read(name: str, seed: int | None, output: str | None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, and put in what the command line replaces."""
    from sa_nowcast.recipe import find_recipe, read_recipe

    if seed is not None and seed < 0:
        raise RecipeError("--seed", f"{seed}", expected="0 or more")
    replaced = list(overrides)
    if seed is not None:
        replaced.append(f"training.seed={seed}")
    if output is not None:
        replaced.append(f"output.folder={json.dumps(output)}")
    return read_recipe(find_recipe(name), replaced)
