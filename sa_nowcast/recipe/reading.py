"""From text to a checked recipe; what is wrong is said in one line, with its place and the nearest known key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from sa_nowcast.errors import RecipeError, SaNowcastError, nearest
from sa_nowcast.models.record import first_fault
from sa_nowcast.recipe.model import BY_DATA, ComparisonRecipe, Recipe, network_fields
from sa_nowcast.recipe.service import ServiceRecipe
from sa_nowcast.recipe.tables import TablesRecipe
from sa_nowcast.recipe.tree import EXTENDS, Key, Tree, expanded, parse_tree, read_tree, with_overrides

M = TypeVar("M", bound=BaseModel)
AnyRecipe = Recipe | ComparisonRecipe | TablesRecipe | ServiceRecipe
"""A recipe of any kind."""

SERVICE = "arrivals"
_KINDS: dict[str, tuple[type[ComparisonRecipe | TablesRecipe | ServiceRecipe], str]] = {
    "sets": (ComparisonRecipe, "a comparison"),
    "tables": (TablesRecipe, "a publication's tables"),
    SERVICE: (ServiceRecipe, "a service"),
}
"""By the key that tells it: kinds that are no experiment."""


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file.

    Parameters
    ----------
    path : path
    overrides : sequence of str
        Values to replace, such as ``training.max_steps=100``; see `with_overrides`.

    Raises
    ------
    RecipeError
        No such file, YAML that is not plain (duplicate keys, tags, aliases, deep nesting), unknown keys (the nearest
        known one is named), values that are not allowed, an environment variable that is not set, or a recipe of
        another kind. The message names file, line and key.
    """
    tree = with_overrides(read_tree(path), overrides)
    for key, (_, kind) in _KINDS.items():
        if key in tree.values:
            raise RecipeError(
                tree.where((key,)),
                f"the recipe of {kind}",
                expected="one of an experiment",
                fix=f"start it by sa-nowcast {'watch' if key == SERVICE else 'run'}, with --dry-run to check it",
            )
    return resolve(tree)


def read_service(path: str | Path, overrides: Sequence[str] = ()) -> ServiceRecipe:
    """Read and check the recipe of a service; any other kind is refused. As `read_recipe` otherwise."""
    tree = with_overrides(read_tree(path), overrides)
    if SERVICE not in tree.values:
        raise RecipeError(
            tree.name, f"no block {SERVICE}", expected="the recipe of a service", fix="see sa-nowcast watch --help"
        )
    return _validated(ServiceRecipe, expanded(tree))


def read_any(path: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read and check a recipe file of any kind.

    One with ``sets`` compares, one with ``tables`` fills those of a publication, one with ``arrivals`` is a service's,
    any other is an experiment.

    Raises
    ------
    RecipeError
        As for `read_recipe`.
    """
    tree = with_overrides(read_tree(path), overrides)
    for key, (model, _) in _KINDS.items():
        if key in tree.values:
            return _validated(model, expanded(tree))
    return resolve(tree)


def parse_recipe(text: str, name: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """Check the text of a recipe; `name` is what errors call it."""
    return resolve(with_overrides(parse_tree(text, name), overrides))


def resolve(tree: Tree) -> Recipe:
    """Return the recipe that `tree` describes: environment variables put in, everything checked."""
    return _validated(Recipe, expanded(tree))


def checked(model: type[M], values: Mapping[str, Any], name: str) -> M:
    """Validate `values` as `model`, or raise one `RecipeError` about the first thing that is wrong."""
    return _validated(model, Tree(dict(values), name))


def _validated(model: type[M], tree: Tree) -> M:
    try:
        return model.model_validate(tree.values)
    except ValidationError as error:
        raise _explained(error, model, tree) from None
    except SaNowcastError as error:
        raise RecipeError(f"{tree.name}, {error.where}", error.found, error.expected, error.fix) from None


def _explained(error: ValidationError, model: type[BaseModel], tree: Tree) -> RecipeError:
    first, inner = first_fault(error)
    keys = tuple(str(k) for k in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if inner is not None:
        return _of_network(inner, keys, tree, more)
    if first["type"] == "extra_forbidden":
        return _unknown(keys, _fields(model, keys[:-1]), tree, more)
    where = tree.where(keys)
    if first["type"] == "missing":
        return RecipeError(where, f"missing{more}", fix="add it")
    allowed = re.findall(r"'([^']+)'", first["ctx"]["expected"]) if first["type"] == "literal_error" else []
    near = nearest(str(first["input"]), allowed, 0.5)
    return RecipeError(
        where,
        f"{first['input']!r:.60}{more}",
        expected=_expected(first["msg"]),
        fix=f"write {near!r}" if near else None,
    )


def _expected(message: str) -> str:
    """Return what pydantic says that a value should be, in the words of a recipe."""
    for theirs, ours in (
        ("Input should be a valid integer", "a whole number"),
        ("Input should be a valid number", "a number"),
        ("Input should be a valid boolean", "true or false"),
        ("Input should be a valid string", "text"),
    ):
        if message.startswith(theirs):
            return ours
    return message[0].lower() + message[1:]


def _of_network(inner: SaNowcastError, keys: Key, tree: Tree, more: str) -> RecipeError:
    named = inner.where.startswith("network.") or not keys
    path = tuple(re.findall(r"[^.\[\]]+", inner.where)) if named else keys
    known = list(network_fields())
    if len(path) == 2 and path[1] not in known and path[1] in tree.values.get("network", {}) and path[1] != BY_DATA:
        return _unknown(path, known, tree, more)
    return RecipeError(tree.where(path), f"{inner.found}{more}", inner.expected, inner.fix)


def _unknown(keys: Key, known: list[str], tree: Tree, more: str) -> RecipeError:
    name, colon, value = keys[-1].partition(":")
    if colon and value and name in known:  # YAML reads it as one word
        return RecipeError(tree.where(keys), f"unknown key{more}", fix=f"write '{name}: {value}', with a space")
    near = nearest(keys[-1], known, 0.5)
    if near:
        return RecipeError(tree.where(keys), f"unknown key{more}", fix=f"write {near!r}")
    return RecipeError(tree.where(keys), f"unknown key{more}", expected=f"one of {', '.join(known)}", fix="remove it")


def _fields(model: type[BaseModel], path: Key) -> list[str]:
    whole = not path and model is Recipe
    for key in path:
        if key.isdigit():  # the place in a list
            continue
        field = model.model_fields.get(key)
        options = () if field is None else (field.annotation, *get_args(field.annotation))
        inner = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return [*model.model_fields, *([EXTENDS] if whole else [])]


def comparison_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the recipe of a comparison."""
    return _titled("sa_nowcast comparison", ComparisonRecipe.model_json_schema())


def tables_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the recipe of a publication's tables."""
    return _titled("sa_nowcast tables", TablesRecipe.model_json_schema())


def service_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the recipe of a service."""
    return _titled("sa_nowcast service", ServiceRecipe.model_json_schema())


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a recipe file.

    Returns
    -------
    dict
        Every key with type, default, limits and description. A file that extends another recipe need not hold the
        required keys; that the two together do is checked by `read_recipe`.
    """
    schema = Recipe.model_json_schema()
    required = schema.pop("required")
    schema["properties"] = {
        EXTENDS: {
            "type": "string",
            "minLength": 1,
            "description": "Another recipe, by path from this file's folder or by the name of one that ships; what "
            "stands here goes over it, block by block.",
        },
        **schema["properties"],
    }
    return {**_titled("sa_nowcast recipe", schema), "anyOf": [{"required": [EXTENDS]}, {"required": required}]}


def _titled(title: str, schema: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in schema.items() if key != "title"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **rest}
