"""Recipes by path, or by the name of one that ships."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path

from sa_nowcast.errors import RecipeError


def find_recipe(name: str) -> Path:
    """Return the file of a recipe that is named by its path, or by its name where it ships.

    Raises
    ------
    RecipeError
        There is neither; the message lists the recipes that ship.
    """
    path = Path(name)
    try:
        there = path.is_file()
    except OSError as error:  # such as a name that is too long for any file
        raise RecipeError(
            f"{name:.60}", f"cannot be read ({error.strerror})", expected="the path or name of a recipe"
        ) from error
    if there or path.suffix or path.is_absolute() or ".." in path.parts:
        return path
    folders = recipe_folders()
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    shipped = sorted({str(f.relative_to(folder).with_suffix("")) for folder in folders for f in folder.rglob("*.yaml")})
    near = difflib.get_close_matches(name, shipped, n=1, cutoff=0.7)
    raise RecipeError(
        name,
        "no such file or shipped recipe",
        expected=f"a path, or one of {', '.join(shipped)}",
        fix=f"write {near[0]!r}" if near else None,
    )


def recipe_folders() -> list[Path]:
    """Return where recipes that ship may lie."""
    package = Path(str(files("sa_nowcast")))
    # The wheel carries the recipes inside the package; a checkout has them beside it.
    return [package / "_recipes", package.parent / "recipes"]
