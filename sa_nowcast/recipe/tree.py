"""A recipe as it stands in files: values, and the place of each, before anything is checked.

A recipe may extend one other; the command line may replace values; ``${NAME}`` stands for an environment variable in
paths, and nowhere else.
"""

from __future__ import annotations

import copy
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from sa_nowcast.errors import RecipeError, nearest
from sa_nowcast.recipe.strict_yaml import load_strict
from sa_nowcast.storage.whole import nearest_to

MAX_BYTES = 100_000
"""A recipe has a hundred lines; YAML of so many bytes is read in a second."""

EXTENDS = "extends"
Key = tuple[str, ...]
PATHS: tuple[Key, ...] = (
    ("data", "source"),
    ("data", "options", "also", "*"),
    ("sets", "*", "source"),
    ("conversion", "to"),
    ("output", "folder"),
    ("arrivals", "source"),
    ("arrivals", "like"),
    ("areas",),
)
"""Where ``${NAME}`` and ``${NAME:-default}`` are read from the environment; ``*`` is every entry of a list."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}")


@dataclass(frozen=True)
class Tree:
    """What a recipe's text says.

    Attributes
    ----------
    values : dict
        Nested, as YAML gives it.
    name : str
        What errors call the whole.
    places : dict
        Path of keys to where it was said: ``file, line 3``, or ``override training.seed``.
    """

    values: dict[str, Any]
    name: str
    places: dict[Key, str] = field(default_factory=dict)

    def where(self, keys: Key) -> str:
        """Return place and path, for an error."""
        place = next((self.places[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in self.places), self.name)
        path = ".".join(keys)
        return place if not keys or place == f"override {path}" else f"{place}, {path}"


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
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    near = nearest(name, sorted(shipped), 0.7)
    raise RecipeError(
        name,
        "no such file or shipped recipe",
        expected=f"a path, or one of {', '.join(sorted(shipped))}",
        fix=f"write {near!r}" if near else None,
    )


def shipped_recipes() -> dict[str, Path]:
    """Return the files of the recipes that ship, by name, such as ``paper_tables``."""
    package = Path(str(files("sa_nowcast")))
    # The wheel carries the recipes inside the package; a checkout has them beside it.
    folders = (package.parent / "recipes", package / "_recipes")
    return {f.relative_to(folder).with_suffix("").as_posix(): f for folder in folders for f in folder.rglob("*.yaml")}


def read_tree(path: str | Path) -> Tree:
    """Read a recipe file, and the one that it extends.

    Raises
    ------
    RecipeError
        No such file, or YAML that is not plain.
    """
    return _extended(_load(_text(Path(path)), str(path)), Path(path).parent)


def parse_tree(text: str, name: str) -> Tree:
    """Read the text of a recipe; a recipe that it extends is looked for from the working directory."""
    return _extended(_load(text, name), Path())


def with_overrides(tree: Tree, overrides: Sequence[str]) -> Tree:
    """Return `tree` with values replaced.

    Parameters
    ----------
    tree : Tree
    overrides : sequence of str
        Such as ``training.max_steps=100`` or ``network.hidden=[8, 8]``; what follows ``=`` is read as in a recipe. A
        mapping or list replaces the whole of what stood there. Of two with the same key, the later one holds.

    Raises
    ------
    RecipeError
        No ``key=value``, a value that is not plain YAML, or a key within a value that is no block. Whether keys and
        values are allowed is checked with the recipe.
    """
    values, places = copy.deepcopy(tree.values), dict(tree.places)
    for text in overrides:
        path, equals, value = text.partition("=")
        keys = tuple(path.strip().split("."))
        if not equals or not value.strip() or not all(keys):
            raise RecipeError(
                f"override {text!r:.60}", "cannot be read", expected="key=value, such as training.max_steps=100"
            )
        where = f"override {'.'.join(keys)}"
        if keys[0] == EXTENDS:
            raise RecipeError(where, "given", expected="it in a recipe file only", fix="write it into a recipe")
        inner = values
        for depth, key in enumerate(keys[:-1], 1):
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise RecipeError(where, f"{'.'.join(keys[:depth])} is {inner!r:.60}", expected="a block there")
        inner[keys[-1]], _ = load_strict(value, where)
        _forget(places, keys)
        places[keys] = where
    return Tree(values, tree.name, places)


def expanded(tree: Tree) -> Tree:
    """Return `tree` with the environment variables of its paths put in.

    Refused are a variable that is not set, or is empty, and has no default; and ``${`` that names none.
    """
    values = copy.deepcopy(tree.values)
    for keys in PATHS:
        values = _filled_at(values, keys, (), tree)
    return Tree(values, tree.name, tree.places)


def _filled_at(value: Any, keys: Key, above: Key, tree: Tree) -> Any:
    """Return `value`, which stands at `above`, with the variables of the texts put in that `keys` lead to from it."""
    if not keys:
        return _filled(value, tree.where(above)) if isinstance(value, str) and "${" in value else value
    key, *rest = keys
    if key == "*" and isinstance(value, list):
        return [_filled_at(each, tuple(rest), (*above, str(number)), tree) for number, each in enumerate(value)]
    if isinstance(value, dict) and key in value:
        value[key] = _filled_at(value[key], tuple(rest), (*above, key), tree)
    return value


def _filled(text: str, where: str) -> str:
    if "${" in _VARIABLE.sub("", text):
        raise RecipeError(where, f"{text!r:.80}", expected="${NAME} or ${NAME:-default} for a variable")

    def value(found: re.Match[str]) -> str:
        # As in a shell, an empty variable counts as one that is not set.
        told = os.environ.get(found[1]) or found[2]
        if told is None:
            remedy = f"set it, or write ${{{found[1]}:-a default}}"
            raise RecipeError(where, f"the environment variable {found[1]} is not set", fix=remedy)
        return told

    return _VARIABLE.sub(value, text)


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise RecipeError(str(path), "is a folder or a device", expected="a YAML file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RecipeError(str(path), "too large", expected=f"a recipe of at most {MAX_BYTES} bytes")
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()
    except OSError as error:
        remedy = nearest_to(path) or "name a recipe that is there, or write one with sa-nowcast init"
        raise RecipeError(str(path), f"cannot be read ({error.strerror})", fix=remedy) from error
    except UnicodeDecodeError as error:
        raise RecipeError(str(path), "is not UTF-8 text", expected="a YAML file") from error


def _load(text: str, name: str) -> Tree:
    values, lines = load_strict(text, name)
    if not isinstance(values, dict):
        found = "empty" if values is None else f"a {type(values).__name__}"
        raise RecipeError(name, found, expected="keys and values")
    return Tree(values, name, {keys: f"{name}, line {line}" for keys, line in lines.items()})


def _extended(tree: Tree, folder: Path) -> Tree:
    if EXTENDS not in tree.values:
        return tree
    where, name = tree.where((EXTENDS,)), tree.values[EXTENDS]
    if not isinstance(name, str) or not name:
        raise RecipeError(where, f"{name!r:.60}", expected="the path or name of a recipe")
    path = _parent(name, folder, where)
    parent = _load(_text(path), str(path))
    if EXTENDS in parent.values:
        raise RecipeError(
            parent.where((EXTENDS,)),
            f"this recipe is extended by {tree.name}",
            expected="one that extends none",
            fix="write what is needed into one of the two",
        )
    values, places = copy.deepcopy(parent.values), dict(parent.places)
    own = {key: value for key, value in tree.values.items() if key != EXTENDS}
    _merge(values, own, (), places, tree.places)
    return Tree(values, tree.name, places)


def _parent(name: str, folder: Path, where: str) -> Path:
    beside = folder / (name if Path(name).suffix in (".yaml", ".yml") else f"{name}.yaml")
    try:
        if beside.is_file():
            return beside
        found = find_recipe(name)
    except OSError as error:
        raise RecipeError(
            where, f"{name:.60}: cannot be read ({error.strerror})", expected="the path or name of a recipe"
        ) from error
    except RecipeError as error:
        raise RecipeError(where, f"{name}: {error.found}", error.expected) from None
    if not found.is_file():
        raise RecipeError(where, f"no recipe at {beside}", fix=f"give its path from {folder}")
    return found


def _merge(
    values: dict[str, Any], own: Mapping[str, Any], path: Key, places: dict[Key, str], own_places: Mapping[Key, str]
) -> None:
    """Put `own` over `values`: blocks key by key, everything else as a whole."""
    for key, value in own.items():
        keys = (*path, str(key))
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value, keys, places, own_places)
            continue
        values[key] = copy.deepcopy(value)
        _forget(places, keys)
        places |= {other: place for other, place in own_places.items() if other[: len(keys)] == keys}


def _forget(places: dict[Key, str], keys: Key) -> None:
    for other in [other for other in places if other[: len(keys)] == keys]:
        del places[other]
