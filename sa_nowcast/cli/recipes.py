"""Recipes as the command line names them: by path, or by the name of one that ships, which the shell completes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sa_nowcast.errors import RecipeError

if TYPE_CHECKING:
    from sa_nowcast.recipe import AnyRecipe, Recipe


def read(name: str, seed: int | None, output: str | None, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe of an experiment, and put in what the command line replaces."""
    from sa_nowcast.recipe import find_recipe, read_recipe

    return read_recipe(find_recipe(name), replaced(seed, output, overrides))


def read_any(name: str, seed: int | None, output: str | None, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read a recipe of any kind, likewise; only that of an experiment has a seed to replace."""
    from sa_nowcast.recipe import Recipe, find_recipe
    from sa_nowcast.recipe import read_any as read_recipe

    parsed = read_recipe(find_recipe(name), replaced(None, output, overrides))
    if seed is None:
        return parsed
    if not isinstance(parsed, Recipe):
        raise RecipeError(
            "--seed",
            f"{seed} for {name}, which trains no network of its own",
            expected="the recipe of an experiment",
            fix="leave --seed out",
        )
    return read(name, seed, output, overrides)


def replaced(seed: int | None, output: str | None, overrides: Sequence[str]) -> list[str]:
    """Return what the command line replaces, as overrides."""
    if seed is not None and seed < 0:
        raise RecipeError("--seed", f"{seed}", expected="0 or more")
    result = list(overrides)
    if seed is not None:
        result.append(f"training.seed={seed}")
    if output is not None:
        result.append(f"output.folder={json.dumps(output)}")
    return result


def is_shipped(name: str) -> bool:
    """Say whether a recipe of this name ships, and no file of that name is here."""
    from sa_nowcast.recipe.tree import shipped_recipes

    return name in shipped_recipes() and not Path(name).is_file()


def complete(incomplete: str) -> list[str]:
    """Return the names of recipes that ship, and of files and folders that are here, that begin so."""
    from sa_nowcast.recipe.tree import shipped_recipes

    begin = Path(incomplete)
    folder, prefix = (begin, "") if not incomplete or incomplete.endswith("/") else (begin.parent, begin.name)
    here = []
    if folder.is_dir():
        found = (f for f in folder.iterdir() if f.name.startswith(prefix) and (prefix or not f.name.startswith(".")))
        here = [str(f) + ("/" if f.is_dir() else "") for f in found]
    return sorted({*(n for n in shipped_recipes() if n.startswith(incomplete)), *here})
