"""What a function says, without how it is written: the same in all Python versions, if it can be.

The syntax tree of a function is found by its code object: a source counts only if compiling it
gives that very code, so an edit made after the import is never taken for what is running. Where
no source does, the instructions have to serve, which differ from one Python version to the next.

Each name becomes a number, by the order in which names are met. Two functions that agree in this
form differ in names at most, and what a global name stands for is added to it by `code`.
"""

from __future__ import annotations

import ast
import dis
import linecache
import sys
import tokenize
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flowpar.caching.digest import hashed

__all__ = ["Bound", "Import", "Reading", "Sources", "global_names"]

Chain = tuple[str, ...]
"""The attributes that are taken from a name, one of the other."""

_SEES_NAMES: Final = frozenset({"locals", "vars", "dir", "eval", "exec"})
"""Builtins to which the names of local variables matter."""
_DYNAMIC: Final = frozenset({"eval", "exec", "globals", "locals", "vars", "__import__"})
"""Builtins that reach what no analysis can see."""


@dataclass(frozen=True, slots=True)
class Import:
    """What an import statement inside a function binds a name to."""

    module: str
    attribute: str | None
    level: int


@dataclass(slots=True)
class Reading:
    """What was read out of a function, or a statement.

    Attributes
    ----------
    digest
        Of the text without names.
    names
        In the order in which they were met; global names are to be resolved in this order.
    chains
        The attributes taken from each name.
    imports
        What the names are that import statements bind.
    dynamic
        Calls that may reach anything, as in ``"eval"``.
    """

    digest: bytes = b""
    names: list[str] = field(default_factory=list)
    chains: dict[str, set[Chain]] = field(default_factory=dict)
    imports: dict[str, list[Import]] = field(default_factory=dict)
    dynamic: list[str] = field(default_factory=list)


# Syntax trees -------------------------------------------------------------------------------------

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
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
    writer.note_chain(base.id, tuple(chain))
    return ["(.", writer.name(base.id), *chain, ")"]


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
        return ["(AnnAssign", node.target, node.value or "-", ")"]
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
    return ["(Call", node.func, node.args, node.keywords, ")"]


def _dynamic_call(node: ast.Call) -> str | None:
    """Return the name of a call that may reach anything."""
    called = node.func
    if isinstance(called, ast.Attribute):
        return called.attr if called.attr == "import_module" else None
    if not isinstance(called, ast.Name):
        return None
    if called.id == "getattr":
        named = node.args[1] if len(node.args) > 1 else None
        return None if isinstance(named, ast.Constant) else "getattr"
    if called.id == "vars" and node.args:
        return None
    return called.id if called.id in {*_DYNAMIC, "import_module"} else None


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


def _read_function(node: _Function, code: types.CodeType) -> Reading:
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
    return {name for each in _codes_in(code) for name in each.co_names}


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    """Give a code object and all in it, always in the same order."""
    stack = [code]
    while stack:
        code = stack.pop()
        yield code
        stack.extend(const for const in code.co_consts if isinstance(const, types.CodeType))


# Sources ------------------------------------------------------------------------------------------


class Bound:
    """The statements of a module by the names that they bind."""

    def __init__(self, tree: ast.Module) -> None:
        self._statements: dict[str, list[ast.stmt]] = {}
        for statement in tree.body:
            for name in _bound_by(statement):
                self._statements.setdefault(name, []).append(statement)

    def digest(self, name: str) -> bytes | None:
        """Return the digest of the statements that bind a name, or None if there is none."""
        statements = self._statements.get(name)
        if statements is None:
            return None
        writer = _Writer(is_raw=True)
        writer.write(*statements)
        return writer.finish().digest


def _bound_by(statement: ast.stmt) -> set[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
    return names


class _Source:
    """The text of a file at one time, and its functions by their code."""

    def __init__(self, text: str, filename: str) -> None:
        self.functions: dict[types.CodeType, _Function] = {}
        try:
            tree = ast.parse(text)
            code = compile(tree, filename, "exec", dont_inherit=True)
            self.bound = Bound(tree)
            functions = _number_functions(tree)
            numbered = compile(tree, filename, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            self.bound = Bound(ast.Module([], []))
            return
        for each, twin in zip(_codes_in(code), _codes_in(numbered), strict=True):
            node = functions.get(twin.co_firstlineno)
            if node is not None:
                self.functions.setdefault(each, node)


def _number_functions(tree: ast.Module) -> dict[int, _Function]:
    """Give each function a line of its own, so that its code object tells which one it is.

    Only so can two lambdas on one line be told apart in Python 3.10.
    """
    functions: dict[int, _Function] = {}
    line = 1_000_000
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            line += 1
            functions[line] = node
            decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
            for each in (node, *decorators[:1]):
                each.lineno = each.end_lineno = line
                each.col_offset = each.end_col_offset = 0
    return functions


class Sources:
    """The sources met so far. A file that changes is read again for code that is not in the old."""

    def __init__(self) -> None:
        self._files: dict[str, list[tuple[object, _Source]]] = {}
        self._readings: dict[int, tuple[types.CodeType, Reading]] = {}

    def read(self, function: types.FunctionType) -> Reading:
        """Return what a function says."""
        code = function.__code__
        known = self._readings.get(id(code))
        if known is None:
            node = self._node(code, function.__globals__)
            reading = _read_code(code) if node is None else _read_function(node, code)
            # By identity, for equal code may come from elsewhere; with the code, to keep its id.
            known = self._readings[id(code)] = code, reading
        return known[1]

    def binding(self, namespace: Mapping[str, Any], name: str) -> bytes | None:
        """Return the digest of the statements that bind a global name."""
        filename = namespace.get("__file__")
        if not isinstance(filename, str):
            return None
        self._look(filename, namespace)
        found = self._files[filename]
        return found[-1][1].bound.digest(name) if found else None

    def _node(self, code: types.CodeType, namespace: Mapping[str, Any]) -> _Function | None:
        filename = code.co_filename
        known = self._files.get(filename)
        if known is None:
            self._look(filename, namespace)
            known = self._files[filename]
        found = self._find(code)
        if found is None and self._look(filename, namespace):
            found = self._find(code)
        return found

    def _find(self, code: types.CodeType) -> _Function | None:
        for _, source in reversed(self._files[code.co_filename]):
            node = source.functions.get(code)
            if node is not None:
                return node
        return None

    def _look(self, filename: str, namespace: Mapping[str, Any]) -> bool:
        """Read a file, if it is not as it was; return whether there is anything new."""
        known = self._files.setdefault(filename, [])
        text, state, path = "", None, _path_of(filename, namespace)
        try:
            stat = path.stat()
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except (OSError, ValueError):
            # A cell of a notebook, or a module in an archive.
            text = "".join(linecache.getlines(filename, dict(namespace)))
        if known and known[-1][0] == (state or text):
            return False
        if state is not None:
            text = _text_of(path)
        known.append((state or text, _Source(text, filename)))
        return True


def _path_of(filename: str, namespace: Mapping[str, Any]) -> Path:
    """Return where a file is; a script has the name it was called by, which chdir makes void."""
    path = Path(filename)
    known = namespace.get("__file__")
    if not path.is_absolute() and isinstance(known, str) and Path(known).name == path.name:
        return Path(known)
    return path


def _text_of(filename: Path) -> str:
    try:
        with tokenize.open(filename) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""


# Code objects -------------------------------------------------------------------------------------

_NAMES_GLOBALS: Final = {
    dis.opmap[name]: 1 if name == "LOAD_GLOBAL" and sys.version_info >= (3, 11) else 0
    for name in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    if name in dis.opmap
}
"""Instructions that read a global name, with the bits of the operand that are not its index."""


def global_names(code: types.CodeType) -> set[str]:
    """Return the names that a function, or one in it, looks up outside of all functions."""
    # Many times faster than dis, which makes an object of each instruction.
    names = set()
    for each in _codes_in(code):
        raw = each.co_code
        operations = raw[::2]
        for operation, shift in _NAMES_GLOBALS.items():
            at = operations.find(operation)
            while at >= 0:
                names.add(each.co_names[_operand_at(raw, at) >> shift])
                at = operations.find(operation, at + 1)
    return names


def _operand_at(raw: bytes, at: int) -> int:
    operand, scale = raw[2 * at + 1], 8
    while at > 0 and raw[2 * at - 2] == dis.EXTENDED_ARG:
        at -= 1
        operand |= raw[2 * at + 1] << scale
        scale += 8
    return operand


_NO_OPERATION: Final = frozenset(
    {"RESUME", "CACHE", "NOP", "EXTENDED_ARG", "PRECALL", "COPY_FREE_VARS", "MAKE_CELL"}
)
_JUMPS: Final = frozenset((*dis.hasjrel, *dis.hasjabs))


def _read_code(code: types.CodeType) -> Reading:
    """Read the instructions of a function, which hold for one version of Python."""
    reading = Reading()
    tokens = [sys.implementation.cache_tag or sys.version]
    for each in _codes_in(code):
        _read_instructions(each, tokens, reading)
    outside = global_names(code)
    # Names that are global are compared by what they are, as others have no meaning.
    reading.names = [*dict.fromkeys(name for name in reading.chains if name in outside)]
    reading.names += [name for name in reading.imports if name not in outside]
    reading.names += [name for name in code.co_freevars if name not in reading.names]
    reading.dynamic += sorted(_DYNAMIC & outside)
    text = "\n".join(tokens).encode("utf-8", "surrogatepass")
    reading.digest = hashed(b"instructions", text)
    return reading


def _read_instructions(code: types.CodeType, tokens: list[str], reading: Reading) -> None:
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
    given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    tokens.append(ascii((counts, given, code.co_flags & 0x2AC)))
    instructions = [each for each in dis.get_instructions(code) if each.opname not in _NO_OPERATION]
    places = {each.offset: number for number, each in enumerate(instructions)}
    doc = code.co_consts[0] if code.co_consts and isinstance(code.co_consts[0], str) else None
    chains = _Chains(reading)
    for number, each in enumerate(instructions):
        chains.see(each, instructions[max(0, number - 2) : number])
        tokens.append(f"{each.opname} {_operand(each, places, doc)}")
    chains.end()


def _operand(each: dis.Instruction, places: dict[int, int], doc: str | None) -> str:
    if each.opcode in _JUMPS:
        return f"to {places.get(each.argval, -1)}"
    if each.opcode in dis.hasconst:
        return "doc" if doc is not None and each.argval is doc else constant_text(each.argval)
    return ascii(each.argval)


def constant_text(value: object) -> str:
    """Return the text of a constant in code; sets are in no order."""
    if isinstance(value, types.CodeType):
        return "code"
    if isinstance(value, tuple):
        return f"({', '.join(map(constant_text, value))})"
    if isinstance(value, frozenset):
        return f"{{{', '.join(sorted(map(constant_text, value)))}}}"
    return ascii(value) if not isinstance(value, int) or isinstance(value, bool) else f"{value:x}"


class _Chains:
    """Finds in instructions, given one by one, attributes of names, and imports."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._name: str | None = None
        self._chain: list[str] = []
        self._imported: Import | None = None

    def see(self, each: dis.Instruction, before: list[dis.Instruction]) -> None:
        name = each.opname
        if name.startswith("LOAD_") and ("ATTR" in name or "METHOD" in name):
            self._chain.append(each.argval)
            return
        self.end()
        if (
            name.startswith("LOAD_")
            and isinstance(each.argval, (str, tuple))
            and name != "LOAD_CONST"
        ):
            self._name = each.argval if isinstance(each.argval, str) else str(each.argval[-1])
        elif name == "IMPORT_NAME":
            level = before[0].argval if before and isinstance(before[0].argval, int) else 0
            self._imported = Import(each.argval, None, level)
        elif name == "IMPORT_FROM" and self._imported is not None:
            self._imported = Import(self._imported.module, each.argval, self._imported.level)
        elif name.startswith("STORE_") and self._imported is not None:
            self._reading.imports.setdefault(str(each.argval), []).append(self._imported)

    def end(self) -> None:
        if self._name is not None:
            self._reading.chains.setdefault(self._name, set()).add(tuple(self._chain))
        self._name, self._chain = None, []
