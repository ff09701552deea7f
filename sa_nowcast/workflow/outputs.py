"""The folder of a run: whose it is, what is finished in it, and how files get there whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from sa_nowcast._version import __version__
from sa_nowcast.errors import RecipeError
from sa_nowcast.recipe import Recipe
from sa_nowcast.storage import storage, write_whole

CLAIM, DONE = "recipe.json", "run.json"
# Where a result is written, how fast it is computed and what is said on the way do not change it.
_FREE = {
    "output": {"folder"},
    "training": {
        "preset", "device", "workers", "checkpoint_every", "log_every", "pictures", "tensorboard", "acceleration",
    },
}  # fmt: skip


def claim(folder: Path, recipe: Recipe) -> None:
    """Note whose folder it is."""
    write_text(folder / CLAIM, json.dumps(recipe.model_dump(mode="json"), indent=2))


def finish(folder: Path, recipe: Recipe, files: tuple[Path, ...]) -> None:
    """Note that the run is finished, and what its results are."""
    record = {
        "sa_nowcast_version": __version__,
        "recipe_sha256": _recipe_digest(recipe),
        "files": {f.name: _file_digest(f) for f in files},
    }
    write_text(folder / DONE, json.dumps(record, indent=2))


def _recipe_digest(recipe: Recipe) -> str:
    content = recipe.model_dump(mode="json", exclude=_FREE)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_claim(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder that holds another run."""
    path = folder / CLAIM
    if not path.exists():
        return
    try:
        theirs = Recipe.model_validate_json(path.read_text())
    except (OSError, ValueError):
        theirs = None
    if theirs is None or _recipe_digest(theirs) != _recipe_digest(recipe):
        raise RecipeError(
            f"output.folder {folder}",
            "it holds a run of another recipe",
            expected="a folder of its own for each run",
            fix="name another folder, or remove this one",
        )


def finished(folder: Path, recipe: Recipe) -> tuple[Path, ...] | None:
    """Return the results of a finished run that are all still whole, or None."""
    try:
        record = json.loads((folder / DONE).read_text())
        if record["recipe_sha256"] != _recipe_digest(recipe):
            return None
        files = {folder / name: digest for name, digest in record["files"].items()}
        return tuple(files) if all(_file_digest(f) == digest for f, digest in files.items()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file_digest(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.relative_to(path.parent).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; an error of the operating system becomes one line."""
    with storage(path):
        write_whole(path, text)
