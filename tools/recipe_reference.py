#!/usr/bin/env python
"""Write the JSON Schemas of docs and docs/reference/recipe.md from the models of recipes.

    python tools/recipe_reference.py

Tests fail where they are not current.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sa_nowcast.recipe import comparison_schema, recipe_schema, service_schema, tables_schema

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "reference" / "recipe.md"
SCHEMAS = {
    DOCS / "recipe.schema.json": recipe_schema,
    DOCS / "comparison.schema.json": comparison_schema,
    DOCS / "tables.schema.json": tables_schema,
    DOCS / "service.schema.json": service_schema,
}
HEAD = """\
# Recipe fields

All that a recipe may hold, from the models that check it; [Recipes and batch jobs](../how-to/recipes.md) says how to
write one. Unknown keys are refused, and the nearest known one is named. YAML is read strictly: no duplicate keys, tags,
anchors or aliases, at most 12 levels deep; `1e-3` is a number; only `true` and `false` are booleans. Times and
lengths are in the units of the data, frames and pixels unless a field says otherwise. The same as a JSON Schema:
[recipe.schema.json](../recipe.schema.json).
"""


def schema_text(schema: Mapping[str, Any]) -> str:
    """Return a JSON Schema as text."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def page_text() -> str:
    """Return the page of all fields as Markdown."""
    schema = recipe_schema()
    blocks = schema["$defs"]
    required = schema["anyOf"][-1]["required"]
    lines = [HEAD, *_table({k: v for k, v in schema["properties"].items() if not _block(v, blocks)}, required)]
    for name, field in schema["properties"].items():
        if block := _block(field, blocks):
            lines += list(_section(name, field, block, blocks))
    return "\n".join([*lines, *_comparison(), *_tables(), *_service()]) + "\n"


def _comparison() -> Iterator[str]:
    yield from _kind_of_recipe(
        comparison_schema(),
        "A comparison",
        "A recipe with `sets` is another kind: it trains nothing, and scores models, the one that ships among them, on "
        "several datasets. As a JSON Schema: [comparison.schema.json](../comparison.schema.json).",
        {"sets, each": "SetRecipe"},
    )


def _tables() -> Iterator[str]:
    yield from _kind_of_recipe(
        tables_schema(),
        "A publication's tables",
        "A recipe with `tables` is a third kind: it runs other recipes with each of the networks, and prints their "
        "scores beside printed ones. As a JSON Schema: [tables.schema.json](../tables.schema.json).",
        {"tables, each": "TableRecipe", "columns, each": "ColumnRecipe"},
    )


def _service() -> Iterator[str]:
    schema = service_schema()
    blocks = schema["$defs"]
    of_one = {n: _block(f, blocks) for n, f in schema["properties"].items()}
    plain = {n: f for n, f in schema["properties"].items() if of_one[n] is None}
    yield from _kind_of_recipe(
        {**schema, "properties": plain},
        "A service",
        "A recipe with `arrivals` is a fourth kind: `sa-nowcast watch` forecasts from each frame that arrives; see "
        "[A folder that a radar fills](../how-to/service.md). As a JSON Schema: "
        "[service.schema.json](../service.schema.json).",
        {"points, each": "PointRecipe"},
    )
    for name, block in of_one.items():
        if block is not None:
            yield f"\n### {name}\n"
            yield f"{block['description']}\n"
            yield from _table(block["properties"], block.get("required", ()))


def _kind_of_recipe(schema: Mapping[str, Any], title: str, about: str, parts: Mapping[str, str]) -> Iterator[str]:
    """Yield the section about a kind of recipe; `parts` are its blocks with headings of their own."""
    yield f"\n## {title}\n"
    yield about + "\n"
    yield from _table(schema["properties"], schema["required"])
    for heading, name in parts.items():
        yield f"\n### {heading}\n"
        each = schema["$defs"][name]
        yield from _table(each["properties"], each.get("required", ()))


def _section(path: str, field: Mapping[str, Any], block: Mapping[str, Any], blocks: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n## {path}\n"
    told = [field.get("description"), block.get("description")]
    yield " ".join(" ".join(text.split()) for text in dict.fromkeys(told) if text) + "\n"
    yield from _table(
        {k: v for k, v in block["properties"].items() if not _block(v, blocks)}, block.get("required", ())
    )
    for name, inner in block["properties"].items():
        if deeper := _block(inner, blocks):
            yield from _section(f"{path}.{name}", inner, deeper, blocks)


def _block(field: Mapping[str, Any], blocks: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the block that a field holds, if it holds one."""
    if "properties" in field:
        return field
    for part in (field, *field.get("anyOf", ())):
        if "$ref" in part:
            found: Mapping[str, Any] = blocks[part["$ref"].rsplit("/", 1)[-1]]
            return found
    return None


def _table(fields: Mapping[str, Mapping[str, Any]], required: Any) -> Iterator[str]:
    yield "| key | what it may be | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, field in fields.items():
        default = "required" if name in required else _default(field, "preset" in fields and "hidden" in fields)
        yield f"| `{name}` | {_kind(field)} | {default} | {_cell(field.get('description', ''))} |"


def _default(field: Mapping[str, Any], preset: bool) -> str:
    if "default" not in field:
        return "empty" if field.get("type") == "object" else "of the preset" if preset else "none"
    value = field["default"]
    return "empty" if value in ("", [], {}) and value is not False else f"`{_cell(json.dumps(value))}`"


def _kind(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_kind(part) for part in field["anyOf"]))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    kind = "block" if "$ref" in field else field.get("type")
    if kind == "array":
        inner = field.get("items") or next(iter(field.get("prefixItems", ())), {})
        number = field.get("maxItems")
        return f"{'list' if number is None else f'{number}'} of: {_kind(inner)}"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"mapping to: {_kind(inner)}" if isinstance(inner, dict) and inner else "mapping"
    names = {"integer": "whole number", "string": "text", "boolean": "`true`, `false`", "null": "`null`"}
    limits = [
        f"{sign} {field[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in field
    ]
    return " ".join([names.get(str(kind), str(kind or "anything")), ", ".join(limits)]).strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    for path, schema in SCHEMAS.items():
        path.write_text(schema_text(schema()), encoding="utf-8")
    PAGE.write_text(page_text(), encoding="utf-8")
