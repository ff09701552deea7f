from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import xarray as xr

import sa_nowcast
from sa_nowcast import errors
from sa_nowcast.errors import SaNowcastError

PACKAGE = Path(sa_nowcast.__file__).parent
ROOMS = ["sa_nowcast", *(f"sa_nowcast.{info.name}" for info in pkgutil.iter_modules(sa_nowcast.__path__) if info.ispkg)]
ROOMS_WITH_NAMES = [room for room in ROOMS if hasattr(importlib.import_module(room), "__all__")]


def _members(room: str) -> set[str]:
    """The public names that a room's `__init__` binds: its own, and what it takes from the package's modules.

    What a room imports as itself (``import x as x``) is for the package's other rooms, and not public; the package
    itself imports modules so, `accessors` only because that registers them.
    """
    path = PACKAGE.parent.joinpath(*room.split(".")) / "__init__.py"
    found: set[str] = set()
    for node in _statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sa_nowcast"):
            taken = {a.name for a in node.names if a.asname is None or (a.asname == a.name and room == "sa_nowcast")}
            found.update(taken - {"accessors"} if room == "sa_nowcast" else taken)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update(target.id for target in targets if isinstance(target, ast.Name))
    return {name for name in found if not name.startswith("_") or name == "__version__"}


def _statements(module: ast.Module) -> Iterator[ast.stmt]:
    """The statements that run on import, and those that only a type checker sees: names that are loaded when asked."""
    for node in module.body:
        yield from node.body if isinstance(node, ast.If) else [node]


@pytest.mark.parametrize("room", ROOMS_WITH_NAMES)
def test_all_of_a_room_is_its_public_members(room: str) -> None:
    module = importlib.import_module(room)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) == _members(room)


def test_completion_shows_every_name_of_the_package() -> None:
    assert set(sa_nowcast.__all__) <= set(dir(sa_nowcast))


def test_every_exported_function_and_class_is_documented() -> None:
    for room in ROOMS_WITH_NAMES:
        for name in importlib.import_module(room).__all__:
            thing = getattr(importlib.import_module(room), name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                assert inspect.getdoc(thing), f"{room}.{name}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'forcast'"):
        sa_nowcast.forcast  # noqa: B018


ACCESSORS = [type(xr.Dataset().sa_nowcast), type(xr.DataArray().sa_nowcast)]


@pytest.mark.parametrize("accessor", ACCESSORS)
def test_accessors_are_registered_and_documented(accessor: type) -> None:
    public = [n for n in dir(accessor) if not n.startswith("_")]
    assert {"fit", "forecast", "plot", "verify", "to_cf"} <= set(public)
    assert all(inspect.getdoc(getattr(accessor, n)) for n in public)


@pytest.mark.parametrize("name", [n for n in dir(ACCESSORS[0]) if not n.startswith("_")])
def test_a_method_of_the_accessors_hands_its_work_to_one_function(name: str) -> None:
    """Behind the docstring and imports: no loop, no handling of errors, and what is returned is a call's result."""
    source = textwrap.dedent(inspect.getsource(getattr(ACCESSORS[0], name)))
    (method,) = ast.parse(source).body
    assert isinstance(method, ast.FunctionDef)
    work = [node for node in method.body[1:] if not isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(work) <= 3
    inner = [node for statement in work for node in ast.walk(statement)]
    assert not any(
        isinstance(n, ast.For | ast.While | ast.Try | ast.With | ast.comprehension | ast.BinOp) for n in inner
    )
    returned = [node.value for node in inner if isinstance(node, ast.Return)]
    assert returned
    assert all(isinstance(value, ast.Call) for value in returned)


def test_errors_are_the_tree_that_their_module_shows_with_their_exit_codes() -> None:
    shown = dict(re.findall(r"^[\s│├└─]*(\w+)\s+exit (\d+)", errors.__doc__ or "", re.MULTILINE))
    classes = {n: c for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, SaNowcastError)}
    assert {name: int(code) for name, code in shown.items()} == {n: c.exit_code for n, c in classes.items()}
    others = {n for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, Exception)} - classes.keys()
    assert others == {"ForecastWarning"}


def test_the_package_raises_no_public_class_of_errors_beside_the_tree() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and path.name != "errors.py" and not node.name.startswith("_"):
                bases = {ast.unparse(base) for base in node.bases}
                assert not any(re.fullmatch(r"\w*(Error|Exception|Warning)", base) for base in bases), node.name
