"""YAML as people mean it: no tags, aliases or duplicate keys, ``1e-3`` is a number, and every key has a line."""

from __future__ import annotations

import re
from typing import Any

import yaml

from sa_nowcast.errors import RecipeError, SaNowcastError

MAX_DEPTH = 12


class _StrictLoader(yaml.SafeLoader):
    """YAML without what makes it surprising: no tags, aliases, merges or duplicate keys; 1e-3 is a number."""


# YAML 1.1 reads dates, yes/no/on/off, 1e-3, 010 (8) and 1:30 (90) in ways that people do not mean; these are replaced
# below.
_REPLACED = {f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "float", "int", "merge", "bool")}
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.[0-9]+(?:[eE][-+]?[0-9]+)?)$"),
    list("-+0123456789."),
)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")
)
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false|True|False)$"), list("tfTF"))


def load_strict(text: str, name: str) -> tuple[Any, dict[tuple[str, ...], int]]:
    """Return what a YAML text holds, and the line of every key and list item by its path; errors call it `name`.

    Tags, anchors, aliases, duplicate keys and deep nesting are refused by their line.
    """
    lines: dict[tuple[str, ...], int] = {}
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_StrictLoader):
            line = 0 if event.start_mark is None else event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise RecipeError(
                    f"{name}, line {line}", "an anchor or alias", expected="plain values", fix="write it out"
                )
            tag = getattr(event, "tag", None)
            if tag:
                raise RecipeError(f"{name}, line {line}", f"the tag {tag}", expected="plain values", fix="remove it")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise RecipeError(f"{name}, line {line}", "nested too deeply", expected=f"at most {MAX_DEPTH} levels")
        loader = _StrictLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, lines
            _check_keys(node, (), lines, name)
            return loader.construct_document(node), lines
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = name if mark is None else f"{name}, line {mark.line + 1}"
        raise RecipeError(where, f"not YAML ({getattr(error, 'problem', None) or error})") from error
    except (ValueError, RecursionError, OverflowError) as error:
        if isinstance(error, SaNowcastError):
            raise
        raise RecipeError(name, f"a value that cannot be read ({error})") from error


def _check_keys(node: yaml.Node, path: tuple[str, ...], lines: dict[tuple[str, ...], int], name: str) -> None:
    if isinstance(node, yaml.SequenceNode):
        for i, entry in enumerate(node.value):
            lines[*path, str(i)] = entry.start_mark.line + 1
            _check_keys(entry, (*path, str(i)), lines, name)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise RecipeError(f"{name}, line {line}", "a key that is not a word")
        place = (*path, key.value)
        if place in lines:
            raise RecipeError(
                f"{name}, line {line}, {'.'.join(place)}",
                "the key stands twice",
                expected="once",
                fix=f"remove it here or in line {lines[place]}",
            )
        lines[place] = line
        _check_keys(value, place, lines, name)
