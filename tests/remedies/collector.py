"""Every error that the package can raise and every remedy that it can print, read from its source, with … for what is
put in. `tools/error_reference.py` writes the page on errors from the same.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
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


@dataclass
class _Module:
    name: str
    tree: ast.Module
    everywhere: bool  # whether other functions and modules are read for a text; without, such a text is …
    around: dict[ast.AST, list[ast.FunctionDef]] = field(default_factory=dict)

    def functions(self, node: ast.AST) -> list[ast.FunctionDef]:
        return self.around.get(node, [])

    def all(self) -> tuple[_Module, ...]:
        """Return the modules in which a name is looked for, this one first."""
        return (self, *(m for m in _modules() if m is not self)) if self.everywhere else (self,)

    def unread(self, what: str) -> Iterator[Site]:
        if self.everywhere:
            raise AssertionError(f"{self.name}: {what} cannot be read from the source")
        yield self.name, PUT_IN


@cache
def sites() -> dict[Site, set[str]]:
    """Return the module and text of every remedy, and the modules that make an error with it."""
    found: dict[Site, set[str]] = {}
    for module in _modules():
        for call in _calls(module):
            given = _fields(call)
            for name, text in _texts(module, given["fix"], ()) if "fix" in given else ():
                found.setdefault((name, " ".join(text.split()).rstrip(".")), set()).add(module.name)
    return found


def messages() -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Give the class of every error that is made by its name, and what each of its fields can say."""
    for module in _modules(False):
        for call in _calls(module):
            if isinstance(call.func, ast.Name) and not any(isinstance(a, ast.Starred) for a in call.args):
                yield (
                    call.func.id,
                    {name: [text for _, text in _texts(module, node, ())] for name, node in _fields(call).items()},
                )


@cache
def _modules(everywhere: bool = True) -> tuple[_Module, ...]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = _Module(str(path.relative_to(PACKAGE)), ast.parse(path.read_text(encoding="utf-8")), everywhere)
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


def _fields(call: ast.Call, names: Sequence[str] = FIELDS) -> dict[str, ast.expr]:
    return dict(zip(names, call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}


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
        case ast.Attribute(attr="fix") if module.everywhere:
            return  # the words of another error, handed on
        case ast.Name(id=name):
            yield from _named(module, node, name, seen)
        case ast.Call(func=ast.Name(id="install" | "pip_install" as called), args=args) if not module.everywhere:
            wanted = " ".join(a.value if isinstance(a, ast.Constant) else PUT_IN for a in args)
            extra = called == "install"
            yield module.name, f"pip install, of what the extra {wanted} needs" if extra else f"pip install {wanted}"
        case ast.Call(func=func) if module.everywhere:
            yield from _returned(module, _name(func), node, seen)
        case ast.Subscript(value=ast.Name(id=name)):
            for value in _assigned(module.tree, name):
                for entry in value.values if isinstance(value, ast.Dict) else ():
                    yield from _texts(module, entry, seen)
        case _:
            yield from module.unread(f"what stands in line {node.lineno}")


def _named(module: _Module, node: ast.AST, name: str, seen: tuple[ast.AST, ...]) -> Iterator[Site]:
    for function in module.functions(node):
        values = list(_assigned(function, name))
        for value in values:
            yield from _texts(module, value, seen)
        if values:
            return
        names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
        if name in (*names, *(a.arg for a in function.args.kwonlyargs)):
            yield from _handed(function, name, names, seen) if module.everywhere else module.unread(name)
            return
    for other in module.all():
        values = list(_assigned(other.tree, name, deep=False))
        for value in values:
            yield from _texts(other, value, seen)
        if values:
            return
    yield from module.unread(name)


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
                value = _fields(call, own).get(name, defaults.get(name))
                if value is not None:
                    yield from _texts(module, value, seen)


def _returned(module: _Module, name: str, node: ast.Call, seen: tuple[ast.AST, ...]) -> Iterator[Site]:
    found = False
    for other in module.all():
        for function in ast.walk(other.tree):
            if isinstance(function, ast.FunctionDef) and function.name == name:
                found = True
                for inner in ast.walk(function):
                    if isinstance(inner, ast.Return) and inner.value is not None:
                        yield from _texts(other, inner.value, seen)
        if found:
            return
    yield from module.unread(f"{name}() in line {node.lineno}")


def matches(template: str, fix: str) -> bool:
    """Whether `fix` is the text of `template` with something put in."""
    pattern = ".*".join(re.escape(part) for part in template.split(PUT_IN))
    return re.fullmatch(pattern, " ".join(fix.split()).rstrip("."), re.DOTALL) is not None
