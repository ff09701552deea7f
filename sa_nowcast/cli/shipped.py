"""Recipes that ship, by name: told from files, and completed by the shell."""

from __future__ import annotations

from pathlib import Path


def is_shipped(name: str) -> bool:
    """Say whether a recipe of this name ships, and no file of that name is here."""
    return name in _names() and not Path(name).is_file()


def complete(incomplete: str) -> list[str]:
    """Return the names of recipes that ship, and of files and folders that are here, that begin so."""
    begin = Path(incomplete)
    folder, prefix = (begin, "") if not incomplete or incomplete.endswith("/") else (begin.parent, begin.name)
    here = []
    if folder.is_dir():
        found = (f for f in folder.iterdir() if f.name.startswith(prefix) and (prefix or not f.name.startswith(".")))
        here = [str(f) + ("/" if f.is_dir() else "") for f in found]
    return sorted({*(n for n in _names() if n.startswith(incomplete)), *here})


def _names() -> set[str]:
    from sa_nowcast.recipe.tree import recipe_folders

    return {
        f.relative_to(folder).with_suffix("").as_posix() for folder in recipe_folders() for f in folder.rglob("*.yaml")
    }
