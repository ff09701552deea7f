#!/usr/bin/env python
"""Write docs/recipe.schema.json and docs/reference/recipe.md from the models of a recipe.

    python tools/recipe_reference.py

Tests fail where the two are not current.
"""

from __future__ import annotations

import json
from pathlib import Path

from sa_nowcast.recipe import recipe_schema

DOCS = Path(__file__).parent.parent / "docs"
SCHEMA = DOCS / "recipe.schema.json"


def schema_text() -> str:
    """Return the JSON Schema of recipes as text."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
