"""Every remedy that the package can print, read from its source: (module, text), with … for what is put in."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import sa_nowcast
from sa_nowcast import errors

PACKAGE = Path(sa_nowcast.__file__).parent
KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
FIELDS = ("where", "found", "expected", "fix")
PUT_IN = "…"
Site = tuple[str, str]
Function = ast.FunctionDef | ast.Lambda


@dataclass
class _Module:
    name: str
    tree: ast.Module
    around: dict[ast.AST, list[ast.FunctionDef]] = field(default_factory=dict)

    def functions(self, node: ast.AST) -> list[ast.FunctionDef]:
        return self.around.get(node, [])


@cache
def sites() -> dict[Site, set[str]]:
    """Return the module and text of every remedy, and the modules that make an error with it."""
    found: dict[Site, set[str]] = {}
    for module in _modules():
        for call in _calls(module):
            for site in _of(module, call):
                found.setdefault(site, set()).add(module.name)
    return found


@cache
def _modules() -> tuple[_Module, ...]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = _Module(str(path.relative_to(PACKAGE)), ast.parse(path.read_text(encoding="utf-8")))
        _descend(module, module.tree, [])
        found.append(module)
    return tuple(found)


def _descend(module: _Module, node: ast.AST, around: list[ast.FunctionDef]) -> None:
    module.around[node] = around
    inner = [node, *around] if isinstance(node, ast.FunctionDef) else around
    for child in ast.iter_child_nodes(node):
        _descend(module, child, inner)


def _calls(module: _Module) -> Iterator[ast.Call]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and (_name(node.func) in KINDS or _is_chosen(node)):
            yield node


def _is_chosen(call: ast.Call) -> bool:
    """Whether the class of an error is chosen by an expression."""
    return not _name(call.func) and any(keyword.arg == "fix" for keyword in call.keywords)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _of(module: _Module, call: ast.Call) -> Iterator[Site]:
    given = dict(zip(FIELDS, call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}
    if "fix" in given:
        for name, text in _texts(module, given["fix"], ()):
            yield name, " ".join(text.split()).rstrip(".")


def _texts(module: _Module, node: ast.expr, seen: tuple[ast.AST, ...]) -> Iterator[Site]:
    """Give every text that `node` can be, with the module that it stands in."""
    if node in seen:
        return
    seen = (*seen, node)
    match node:
        case ast.Constant(value=None):
            return
        case ast.Constant(value=str(text)):
            yield module.name, text
        case ast.JoinedStr(values=values):
            yield module.name, "".join(str(v.value) if isinstance(v, ast.Constant) else PUT_IN for v in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            for (name, one), (_, other) in itertools.product(_texts(module, left, seen), _texts(module, right, seen)):
                yield name, one + other
        case ast.IfExp(body=body, orelse=orelse):
            yield from _texts(module, body, seen)
            yield from _texts(module, orelse, seen)
        case ast.BoolOp(values=values):
            for value in values:
                yield from _texts(module, value, seen)
        case ast.NamedExpr(value=value):
            yield from _texts(module, value, seen)
        case ast.Attribute(attr="fix"):
            return  # the words of another error, handed on
        case ast.Name(id=name):
            yield from _named(module, node, name, seen)
        case ast.Call(func=func):
            yield from _returned(module, _name(func), node, seen)
        case ast.Subscript(value=ast.Name(id=name)):
            for value in _assigned(module.tree, name):
                for entry in value.values if isinstance(value, ast.Dict) else ():
                    yield from _texts(module, entry, seen)
        case _:
            raise AssertionError(f"{module.name}, line {node.lineno}: the remedy cannot be read from the source")


def _named(module: _Module, node: ast.AST, name: str, seen: tuple[ast.AST, ...]) -> Iterator[Site]:
    for function in module.functions(node):
        values = list(_assigned(function, name))
        for value in values:
            yield from _texts(module, value, seen)
        if values:
            return
        if name in (names := [a.arg for a in (*function.args.posonlyargs, *function.args.args)]) or name in [
            a.arg for a in function.args.kwonlyargs
        ]:
            yield from _handed(function, name, names, seen)
            return
    for other in (module, *(m for m in _modules() if m is not module)):
        values = list(_assigned(other.tree, name, deep=False))
        for value in values:
            yield from _texts(other, value, seen)
        if values:
            return
    raise AssertionError(f"{module.name}: nothing is known of {name}")


def _assigned(scope: ast.AST, name: str, deep: bool = True) -> Iterator[ast.expr]:
    for node in ast.walk(scope) if deep else ast.iter_child_nodes(scope):
        match node:
            case ast.Assign(targets=[*targets], value=value):
                for target in targets:
                    if isinstance(target, ast.Name) and target.id == name:
                        yield value
                    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                        for one, part in zip(target.elts, value.elts, strict=True):
                            if isinstance(one, ast.Name) and one.id == name:
                                yield part
            case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value) if target == name:
                yield value
            case ast.NamedExpr(target=ast.Name(id=target), value=value) if target == name:
                yield value


def _handed(function: ast.FunctionDef, name: str, names: list[str], seen: tuple[ast.AST, ...]) -> Iterator[Site]:
    """Give what the calls of `function` hand it as `name`, and its default."""
    own = [n for n in names if n not in ("self", "cls")]
    defaults = dict(zip(reversed(names), reversed(function.args.defaults), strict=False)) | {
        a.arg: d for a, d in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True) if d is not None
    }
    called = [function.name] if function.name != "__init__" else []
    for module in _modules():
        for call in ast.walk(module.tree):
            if isinstance(call, ast.Call) and _name(call.func) in called:
                given = dict(zip(own, call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}
                value = given.get(name, defaults.get(name))
                if value is not None:
                    yield from _texts(module, value, seen)


def _returned(module: _Module, name: str, node: ast.Call, seen: tuple[ast.AST, ...]) -> Iterator[Site]:
    found = False
    for other in (module, *(m for m in _modules() if m is not module)):
        for function in ast.walk(other.tree):
            if isinstance(function, ast.FunctionDef) and function.name == name:
                found = True
                for inner in ast.walk(function):
                    if isinstance(inner, ast.Return) and inner.value is not None:
                        yield from _texts(other, inner.value, seen)
        if found:
            return
    raise AssertionError(f"{module.name}, line {node.lineno}: nothing is known of {name}()")


def matches(template: str, fix: str) -> bool:
    """Whether `fix` is the text of `template` with something put in."""
    pattern = ".*".join(re.escape(part) for part in template.split(PUT_IN))
    return re.fullmatch(pattern, " ".join(fix.split()).rstrip("."), re.DOTALL) is not None
