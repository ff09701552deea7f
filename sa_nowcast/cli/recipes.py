"""Recipes as the command line names them: by path, or by the name of one that ships."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from sa_nowcast.errors import RecipeError

if TYPE_CHECKING:
    from sa_nowcast.recipe import Recipe


def read(name: str, seed: int | None, output: str | None) -> Recipe:
    """Read a recipe, and put in what the command line replaces."""
    from sa_nowcast.recipe import read_recipe

    parsed = read_recipe(find(name))
    if seed is not None:
        if seed < 0:
            raise RecipeError("--seed", f"{seed}", expected="0 or more")
        parsed = parsed.model_copy(update={"training": parsed.training.model_copy(update={"seed": seed})})
    if output is not None:
        parsed = parsed.model_copy(update={"output": parsed.output.model_copy(update={"folder": output})})
    return parsed


def find(name: str) -> Path:
    """Return the file of a recipe that is named by its path, or by its name where it ships."""
    path = Path(name)
    if path.is_file() or path.suffix or path.is_absolute() or ".." in path.parts:
        return path
    package = Path(str(files("sa_nowcast")))
    # The wheel carries the recipes inside the package; a checkout has them beside it.
    folders = [package / "_recipes", package.parent / "recipes"]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    shipped = sorted({str(f.relative_to(folder).with_suffix("")) for folder in folders for f in folder.rglob("*.yaml")})
    raise RecipeError(name, "no such file or shipped recipe", expected=f"a path, or one of {', '.join(shipped)}")
