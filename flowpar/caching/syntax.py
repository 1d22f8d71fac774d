"""What a syntax tree says, without how it is written: the same in all Python versions.

Each name becomes a number, by the order in which names are met. Two functions that agree in this
form differ in names at most, and what a global name stands for is added to it by `code`.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Callable, Sequence
from typing import Any, Final

from flowpar.caching.digest import hashed
from flowpar.caching.reading import DYNAMIC, DYNAMIC_METHODS, Chain, Import, Reading, codes_in

__all__ = ["Function", "read_function", "read_statements"]

_SEES_NAMES: Final = frozenset({"locals", "vars", "dir", "eval", "exec"})
"""Builtins to which the names of local variables matter."""
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_SKIPPED: Final = frozenset(
    {"ctx", "kind", "type_comment", "type_ignores", "annotation", "returns", "type_params"}
)


_FIELDS: Final[dict[type[ast.AST], tuple[str, ...]]] = {}


def _fields_of(kind: type[ast.AST]) -> tuple[str, ...]:
    fields = _FIELDS.get(kind)
    if fields is None:
        fields = tuple(name for name in kind._fields if name not in _SKIPPED)
        _FIELDS[kind] = fields
    return fields


class _Ended:
    """The end of a class on the stack of what is to be written."""


_ENDED: Final = _Ended()
_Item = object
"""A token, a node, a list of nodes, or `_ENDED`."""


class _Writer:
    """Writes a syntax tree as tokens; on a stack of its own, as trees may be deep."""

    def __init__(self, *, is_raw: bool) -> None:
        self.reading = Reading()
        self._tokens: list[str] = []
        self._numbers: dict[str, str] = {}
        self._is_raw = is_raw
        self._classes = 0

    def write(self, *roots: _Item) -> None:
        tokens = self._tokens
        stack: list[_Item] = list(reversed(roots))
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                tokens.append(item)
            elif isinstance(item, ast.AST):
                special = _SPECIAL.get(type(item))
                if special is None:
                    self._plain(item, stack)
                else:
                    stack.extend(reversed(special(self, item)))
            elif isinstance(item, list):
                tokens.append("[")
                stack.append("]")
                stack.extend(reversed(item))
            elif item is _ENDED:
                self._classes -= 1
            else:
                tokens.append(ascii(item))

    def finish(self) -> Reading:
        self.reading.names = list(self._numbers)
        text = " ".join(self._tokens).encode("utf-8", "surrogatepass")
        self.reading.digest = hashed(b"syntax", text)
        return self.reading

    def _plain(self, node: ast.AST, stack: list[_Item]) -> None:
        """Put the fields of a node on the stack; an empty one may not exist in all versions."""
        kind = type(node)
        self._tokens.append(f"({kind.__name__}")
        stack.append(")")
        for name in reversed(_fields_of(kind)):
            value = getattr(node, name, None)
            if value is not None and value != []:
                stack.append(value)
                stack.append(f"{name}=")

    def name(self, name: str) -> str:
        """Return what stands for a name that may be chosen freely."""
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = f"${len(self._numbers)}"
        # In a class, names are attributes.
        return f"{number}:{name}" if self._classes or self._is_raw else number

    def names(self, names: list[str]) -> list[_Item]:
        return [self.name(name) for name in names]

    def note_chain(self, name: str, chain: Chain) -> None:
        self.reading.chains.setdefault(name, set()).add(chain)

    def note_import(self, name: str, what: Import) -> None:
        self.reading.imports.setdefault(name, []).append(what)

    def enter_class(self) -> None:
        self._classes += 1

    @property
    def is_in_class(self) -> bool:
        return self._classes > 0


def _write_name(writer: _Writer, node: Any) -> list[_Item]:
    writer.note_chain(node.id, ())
    return [writer.name(node.id)]


def _write_attribute(writer: _Writer, node: Any) -> list[_Item]:
    chain = [node.attr]
    base = node.value
    while isinstance(base, ast.Attribute):
        chain.append(base.attr)
        base = base.value
    if not isinstance(base, ast.Name):
        return ["(.", node.attr, node.value, ")"]
    chain.reverse()
    if isinstance(node.ctx, ast.Store) and len(chain) == 1:
        writer.reading.stored.setdefault(base.id, set()).add(node.attr)
    return _chained(writer, base.id, chain)


def _chained(writer: _Writer, name: str, chain: Sequence[str]) -> list[_Item]:
    writer.note_chain(name, tuple(chain))
    return ["(.", writer.name(name), *chain, ")"]


def _write_constant(_: _Writer, node: Any) -> list[_Item]:
    value = node.value
    kind = type(value)
    if kind is int:
        return [f"#{value:x}"]
    if kind is float:
        return [value.hex()]
    if kind is complex:
        return [f"{value.real.hex()}+{value.imag.hex()}j"]
    # The text of a string must not depend on which letters this Python can print.
    return [ascii(value)]


def _write_joined(_: _Writer, node: Any) -> list[_Item]:
    """Write an f-string; how its plain parts are cut differs between Python versions."""
    parts: list[_Item] = []
    plain = ""
    for part in node.values:
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            plain += part.value
            continue
        parts += [ascii(plain), part] if plain else [part]
        plain = ""
    return ["(JoinedStr", *parts, *([ascii(plain)] if plain else []), ")"]


def _write_expression(_: _Writer, node: Any) -> list[_Item]:
    # Docstrings and other constants that stand for themselves.
    return [] if isinstance(node.value, ast.Constant) else ["(Expr", node.value, ")"]


def _write_nothing(_: _Writer, __: Any) -> list[_Item]:
    return []


def _write_annotated(writer: _Writer, node: Any) -> list[_Item]:
    if writer.is_in_class:
        # Dataclasses and others read them.
        return ["(AnnAssign", node.target, node.annotation, node.value or "-", ")"]
    if node.value is None:
        return []
    return ["(Assign", "targets=", [node.target], "value=", node.value, ")"]


def _write_argument(writer: _Writer, node: Any) -> list[_Item]:
    # Callers may name it.
    return [f"{writer.name(node.arg)}:{node.arg}"]


def _write_function(writer: _Writer, node: Any) -> list[_Item]:
    writer.note_chain(node.name, ())
    head = [f"({type(node).__name__}", writer.name(node.name), node.decorator_list, node.args]
    return [*head, node.body, ")"]


def _write_class(writer: _Writer, node: Any) -> list[_Item]:
    head = ["(ClassDef", writer.name(node.name), node.decorator_list, node.bases, node.keywords]
    writer.enter_class()
    return [*head, node.body, _ENDED, ")"]


def _write_handler(writer: _Writer, node: Any) -> list[_Item]:
    name = writer.name(node.name) if node.name else "-"
    return ["(ExceptHandler", node.type or "-", name, node.body, ")"]


def _write_scope(writer: _Writer, node: Any) -> list[_Item]:
    return [f"({type(node).__name__}", *writer.names(node.names), ")"]


def _write_import(writer: _Writer, node: Any) -> list[_Item]:
    items: list[_Item] = ["(Import"]
    for alias in node.names:
        top = alias.name.partition(".")[0]
        module = alias.name if alias.asname else top
        writer.note_import(alias.asname or top, Import(module, None, 0))
        items += [alias.name, writer.name(alias.asname or top), "as" if alias.asname else "-"]
    return [*items, ")"]


def _write_import_from(writer: _Writer, node: Any) -> list[_Item]:
    items: list[_Item] = ["(ImportFrom", str(node.level), node.module or "."]
    for alias in node.names:
        name = alias.asname or alias.name
        writer.note_import(name, Import(node.module or "", alias.name, node.level))
        items += [alias.name, writer.name(name)]
    return [*items, ")"]


def _write_match_as(writer: _Writer, node: Any) -> list[_Item]:
    return ["(MatchAs", node.pattern or "-", writer.name(node.name) if node.name else "-", ")"]


def _write_match_star(writer: _Writer, node: Any) -> list[_Item]:
    return ["(MatchStar", writer.name(node.name) if node.name else "-", ")"]


def _write_match_mapping(writer: _Writer, node: Any) -> list[_Item]:
    rest = writer.name(node.rest) if node.rest else "-"
    return ["(MatchMapping", node.keys, node.patterns, rest, ")"]


def _write_call(writer: _Writer, node: Any) -> list[_Item]:
    dynamic = _dynamic_call(node)
    if dynamic is not None and dynamic not in writer.reading.dynamic:
        writer.reading.dynamic.append(dynamic)
    args = node.args
    taken = _taken_by_getattr(node)
    if taken is not None:
        name, chain = taken
        # As if it were written with dots: of a module, that attribute alone is used.
        args = ["named", *_chained(writer, name, chain), *args[2:]]
    return ["(Call", node.func, "[", *args, "]", node.keywords, ")"]


def _taken_by_getattr(node: ast.Call) -> tuple[str, list[str]] | None:
    """Return the name and the chain of attributes in a call such as ``getattr(a.b, "c")``."""
    if not isinstance(node.func, ast.Name) or node.func.id != "getattr" or len(node.args) < 2:  # noqa: PLR2004
        return None
    base, named = node.args[:2]
    if not isinstance(named, ast.Constant) or not isinstance(named.value, str):
        return None
    chain = [named.value]
    while isinstance(base, ast.Attribute):
        chain.insert(0, base.attr)
        base = base.value
    return (base.id, chain) if isinstance(base, ast.Name) else None


def _dynamic_call(node: ast.Call) -> str | None:
    """Return the name of a call that may reach anything."""
    called = node.func
    if isinstance(called, ast.Attribute):
        return called.attr if called.attr in DYNAMIC_METHODS else None
    if not isinstance(called, ast.Name):
        return None
    if called.id == "getattr":
        named = node.args[1] if len(node.args) > 1 else None
        return None if isinstance(named, ast.Constant) else "getattr"
    if called.id == "vars" and node.args:
        return None
    return called.id if called.id in {*DYNAMIC, "import_module"} else None


_SPECIAL: Final[dict[type, Callable[[_Writer, Any], list[_Item]]]] = {
    ast.Name: _write_name,
    ast.Attribute: _write_attribute,
    ast.Constant: _write_constant,
    ast.JoinedStr: _write_joined,
    ast.Expr: _write_expression,
    ast.Pass: _write_nothing,
    ast.AnnAssign: _write_annotated,
    ast.arg: _write_argument,
    ast.FunctionDef: _write_function,
    ast.AsyncFunctionDef: _write_function,
    ast.ClassDef: _write_class,
    ast.ExceptHandler: _write_handler,
    ast.Global: _write_scope,
    ast.Nonlocal: _write_scope,
    ast.Import: _write_import,
    ast.ImportFrom: _write_import_from,
    ast.MatchAs: _write_match_as,
    ast.MatchStar: _write_match_star,
    ast.MatchMapping: _write_match_mapping,
    ast.Call: _write_call,
}


def read_function(node: Function, code: types.CodeType) -> Reading:
    """Read the syntax of a function, without its name, decorators and defaults.

    What decorators and defaults came to is seen on the function itself.
    """
    writer = _Writer(is_raw=not _SEES_NAMES.isdisjoint(_all_names(code)))
    args = node.args
    given = [len(args.posonlyargs), len(args.args), len(args.kwonlyargs)]
    named: list[_Item] = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    rest: list[_Item] = [args.vararg or "-", args.kwarg or "-"]
    writer.write(f"({type(node).__name__}", str(given), *named, *rest, node.body, ")")
    return writer.finish()


def _all_names(code: types.CodeType) -> set[str]:
    return {name for each in codes_in(code) for name in each.co_names}


def read_statements(statements: Sequence[ast.stmt]) -> Reading:
    """Read statements, names and all."""
    writer = _Writer(is_raw=True)
    writer.write(*statements)
    return writer.finish()
