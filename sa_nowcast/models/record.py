"""Records of networks: frozen dataclasses whose values pydantic checks, refused in this package's words."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from sa_nowcast.errors import ModelError, RecipeError, SaNowcastError, nearest

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def network_record(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose values pydantic checks, and which is refused in this package's words."""
    made = validated(
        frozen=True,
        config=ConfigDict(strict=True, allow_inf_nan=False, extra="forbid", use_attribute_docstrings=True),
    )(cls)
    checked: Callable[..., None] = made.__init__

    @functools.wraps(checked)
    def __init__(self: T, /, *args: Any, **fields: Any) -> None:
        try:
            checked(self, *args, **fields)
        except ValidationError as error:
            raise _refusal(error, made) from None

    made.__init__ = __init__  # type: ignore[method-assign,assignment]
    return cast("type[T]", made)


def fields_schema(config: type) -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each field of a record, with its description."""
    fields: dict[str, dict[str, Any]] = TypeAdapter(config).json_schema()["properties"]
    # pydantic reads the docstrings below a class's own fields alone.
    base = config.__mro__[1]
    inherited = fields_schema(base) if dataclasses.is_dataclass(base) else {}
    return {
        name: inherited.get(name) or {**schema, "description": " ".join(schema["description"].split())}
        for name, schema in fields.items()
    }


def first_fault(error: ValidationError) -> tuple[ErrorDetails, SaNowcastError | None]:
    """Return the first thing that is wrong, and this package's error where a validator raised one.

    A mistyped key is both unknown and missing: the unknown one goes first, for it says what to mend.
    """
    unknown = ("extra_forbidden", "unexpected_keyword_argument")
    first = min(error.errors(include_url=False), key=lambda e: e["type"] not in unknown)
    inner = first.get("ctx", {}).get("error")
    return first, inner if isinstance(inner, SaNowcastError) else None


_NUMBERS = {"integer": "a whole number", "number": "a finite number"}


def _refusal(error: ValidationError, config: type) -> SaNowcastError:
    """Return the first thing that is wrong as an error of this package."""
    first, inner = first_fault(error)
    if inner is not None:
        return inner
    field, *inside = first["loc"]
    known = fields_schema(config)
    if field not in known:
        return ModelError(
            f"network.{field}",
            "is no field of a network",
            f"one of {', '.join(known)}",
            f"write {nearest(str(field), known, 0.0)!r}",
        )
    schema = known[str(field)]
    schema = schema["items"] if inside else schema.get("anyOf", [schema])[0]
    expected = (
        f"one of {', '.join(schema['enum'])}"
        if "enum" in schema
        else "true or false"
        if schema["type"] == "boolean"
        else f"{_NUMBERS[schema['type']]} of at least {schema['minimum']}"
        if "minimum" in schema
        else "a finite number"
    )
    where = "".join([f"network.{field}", *(f"[{place}]" for place in inside)])
    return RecipeError(where, f"{first['input']!r}", expected)
