"""The folder of a run: whose it is, which stages are done, and whether what they left is whole.

A stage is done while its inputs are those that it had and its files are what it left. Its inputs are the parts of the
recipe that matter to it, the data's identity and what earlier stages left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sa_nowcast._version import __version__
from sa_nowcast.errors import RecipeError
from sa_nowcast.forecasts.defaults import FOLDER
from sa_nowcast.recipe import Recipe
from sa_nowcast.recipe.model import DEFAULT_START
from sa_nowcast.recipe.training import FREE_FIELDS
from sa_nowcast.storage.whole import storage, write_whole

CLAIM, LEDGER = "recipe.json", "run.json"


@dataclass
class Ledger:
    """What is done in a run's folder; `record` is what `run.json` holds: data, and stages with inputs and files."""

    folder: Path
    record: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Ledger:
        """Read the ledger of a folder; what cannot be read counts as nothing done."""
        try:
            record = json.loads((folder / LEDGER).read_text())
            stages = {
                str(name): {
                    "inputs": str(stage["inputs"]),
                    "files": {str(k): str(v) for k, v in stage["files"].items()},
                }
                for name, stage in record["stages"].items()
            }
            return cls(folder, {"data": dict(record["data"]), "stages": stages})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(folder, {"data": {}, "stages": {}})

    def reason(self, stage: str, inputs: str) -> str | None:
        """Return why a stage is to be done, as a clause; None: it is done."""
        known = self.record["stages"].get(stage)
        if known is None:
            return "not done yet"
        if known["inputs"] != inputs:
            return "what it depends on has changed"
        for name, digest in known["files"].items():
            if not (self.folder / name).exists():
                return f"{name} is not there"
            if file_digest(self.folder / name) != digest:
                return f"{name} was altered or damaged"
        return None

    def note(self, stage: str, inputs: str, files: Sequence[Path]) -> None:
        """Note that a stage is done, and what it left."""
        named = {f.relative_to(self.folder).as_posix(): file_digest(f) for f in files}
        self.record["stages"][stage] = {"inputs": inputs, "files": named}
        self._write()

    def left(self, stage: str) -> str:
        """Return one digest of all that a stage left."""
        return digest(self.record["stages"][stage]["files"])

    def files(self, stage: str) -> tuple[Path, ...]:
        """Return the files that a stage left."""
        return tuple(self.folder / name for name in self.record["stages"][stage]["files"])

    @property
    def data(self) -> dict[str, Any]:
        """What was noted of the data's files."""
        known: dict[str, Any] = self.record["data"]
        return known

    def note_data(self, known: Mapping[str, Any]) -> None:
        """Note the data's files, so that they need not be read again to know them."""
        if self.record["data"] != known:
            self.record["data"] = dict(known)
            self._write()

    def _write(self) -> None:
        text = json.dumps({"sa_nowcast_version": __version__, **self.record}, indent=2)
        with storage(self.folder / LEDGER):
            write_whole(self.folder / LEDGER, text)


def claim(folder: Path, recipe: Recipe) -> None:
    """Note whose folder it is, where it is not noted yet."""
    path, text = folder / CLAIM, json.dumps(recipe.model_dump(mode="json"), indent=2)
    with storage(path):
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_whole(path, text)


def check_claim(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder whose model was trained, or begun, by other settings; those of later stages may change."""
    path = folder / CLAIM
    if not path.exists():
        return
    try:
        theirs = Recipe.model_validate_json(path.read_text())
    except (OSError, ValueError):
        theirs = None
    if theirs is None or _claimed(theirs) != _claimed(recipe) or recipe.training.max_steps < theirs.training.max_steps:
        raise RecipeError(
            f"output.folder {folder}",
            "it holds a run of another recipe",
            expected="a folder of its own for each model",
            fix="name another folder, or remove this one",
        )


def trained_by(recipe: Recipe) -> dict[str, Any]:
    """Return what of a recipe decides the model."""
    fields = recipe.model_dump(mode="json", include={"history", "steps", "data", "split", "scaling", "network"})
    if recipe.start is not None:
        folder = FOLDER if recipe.start == DEFAULT_START else Path(recipe.start).expanduser()
        fields["start"] = file_digest(folder) if folder.exists() else recipe.start
    del fields["split"]["test_region"]
    del fields["data"]["source"]  # its content counts, wherever it lies
    return {**fields, "training": recipe.training.model_dump(mode="json", exclude=set(FREE_FIELDS))}


def _claimed(recipe: Recipe) -> dict[str, Any]:
    fields = trained_by(recipe)
    fields["source"] = Path(recipe.data.source).name
    for name in ("max_time", "max_steps", "patience"):  # more of them lets a run go on
        del fields["training"][name]
    return fields


def digest(content: Any) -> str:
    """Return the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their names."""
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            total.update(file.relative_to(path.parent).as_posix().encode())
            with file.open("rb") as stream:
                hashlib.file_digest(stream, lambda: total)
    return total.hexdigest()
