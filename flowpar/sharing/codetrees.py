"""The syntax tree of a running function; and, where there is none, what its instructions do."""

from __future__ import annotations
import __future__

import ast
import dis
import functools
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from flowpar.caching.reading import codes_in

__all__ = ["Doings", "FunctionNode", "doings_of", "tree_of"]

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

_NODES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_MOST_CANDIDATES: Final = 20
_FUTURES: Final = (
    functools.reduce(
        lambda flags, name: flags | getattr(__future__, name).compiler_flag,
        __future__.all_feature_names,
        0,
    )
    & ~__future__.nested_scopes.compiler_flag
)
_MANGLED: Final = re.compile(r"_([^_].*?)__.*[^_]_?$")


@functools.lru_cache(maxsize=10_000)
def tree_of(code: types.CodeType) -> FunctionNode | None:
    """Return the syntax tree that a function was compiled from; None if that cannot be found.

    A file that was edited since says nothing of what is running, so what is found is compiled and
    compared.

    Examples
    --------
    >>> import textwrap
    >>> tree_of(textwrap.dedent.__code__).name, tree_of(compile("0", "<nowhere>", "exec"))
    ('dedent', None)
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
        nodes = [
            each
            for each in ast.walk(tree)
            if isinstance(each, _NODES) and getattr(each, "name", "<lambda>") == code.co_name
        ]
        return next((each for each in nodes[:_MOST_CANDIDATES] if _gives(each, code)), None)
    # No source, or a part of a line, or one that Python's own tools stumble over.
    except (OSError, SyntaxError, TypeError, ValueError, IndexError):
        return None


def _gives(node: FunctionNode, code: types.CodeType) -> bool:
    """Return whether a tree compiles to this very code."""
    mangled = next(filter(None, map(_MANGLED.match, (*code.co_names, *code.co_varnames))), None)
    head = f"def _({', '.join(code.co_freevars)}):\n  "
    # A function that calls itself looks its name up where it was defined.
    is_known = code.co_name == "<lambda>" or code.co_name in code.co_freevars
    first = "pass" if is_known else f"global {code.co_name}"
    whole = ast.parse(head + (f"class {mangled[1]}: pass" if mangled else first))
    inner: Any = whole.body[0]
    inner = inner.body[0] if mangled else inner
    inner.body[mangled is None :] = [
        ast.copy_location(ast.Expr(node), node) if isinstance(node, ast.Lambda) else node
    ]
    compiled = compile(
        whole, code.co_filename, "exec", flags=code.co_flags & _FUTURES, dont_inherit=True
    )
    return any(_is_same(each, code) for each in codes_in(compiled))


def _is_same(one: types.CodeType, other: types.CodeType) -> bool:
    if one.co_name != other.co_name or one.co_names != other.co_names:
        return False
    parts, others = [*codes_in(one)], [*codes_in(other)]
    return len(parts) == len(others) and all(
        _told(a) == _told(b) for a, b in zip(parts, others, strict=True)
    )


def _told(code: types.CodeType) -> tuple[object, ...]:
    """Return what tells code apart, but for how methods are called and how far jumps go.

    Methods of what a module imports are called by other instructions than those of other things, so
    the same function is not the same without its module.
    """
    raw = code.co_code
    told = [
        (operation, 0 if operation in _UNTOLD else operand)
        for operation, operand in zip(raw[::2], raw[1::2], strict=True)
        if operation not in _OF_CALLS
    ]
    return code.co_names, code.co_varnames, code.co_freevars, told


_UNTOLD: Final = frozenset((*dis.hasjrel, *dis.hasjabs, dis.opmap["LOAD_GLOBAL"]))
_OF_CALLS: Final = frozenset(
    dis.opmap[name]
    for name in (
        *("CACHE", "NOP", "EXTENDED_ARG", "PRECALL", "PUSH_NULL", "LOAD_ATTR", "LOAD_METHOD"),
        *("CALL", "CALL_FUNCTION", "CALL_METHOD", "CALL_FUNCTION_KW", "CALL_KW", "KW_NAMES"),
    )
    if name in dis.opmap
)


@dataclass(slots=True)
class Doings:
    """What instructions do.

    Attributes
    ----------
    writes
        Parameters that are written to.
    is_writing
        Whether something is written to, nobody knows what.
    chains
        Names from outside, with the attributes that are taken of them.
    imports
        Dotted names.
    attributes
        Names of all attributes.
    """

    writes: set[str] = field(default_factory=set)
    is_writing: bool = False
    chains: list[tuple[str, ...]] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    attributes: set[str] = field(default_factory=set)


_WRITING: Final = frozenset(
    {
        *("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE", "DELETE_ATTR"),
        *("STORE_GLOBAL", "DELETE_GLOBAL"),
    }
)
_OUTSIDE: Final = frozenset(
    {
        *("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF"),
        *("LOAD_FROM_DICT_OR_GLOBALS", "LOAD_FROM_DICT_OR_DEREF"),
    }
)
_TAKING: Final = frozenset({"LOAD_ATTR", "LOAD_METHOD"})


@functools.lru_cache(maxsize=10_000)
def doings_of(code: types.CodeType) -> Doings:
    """Return what the instructions of a function do, and those of the functions in it.

    Examples
    --------
    >>> code = compile("def f(a, b): b.x = 1; return c.d.e(a)", "<nowhere>", "exec").co_consts[0]
    >>> found = doings_of(code)
    >>> found.writes, found.is_writing, found.chains
    ({'b'}, False, [('c', 'd', 'e')])
    """
    doings = Doings()
    for each in codes_in(code):
        _read(each, code, doings)
    return doings


def _read(code: types.CodeType, whole: types.CodeType, doings: Doings) -> None:
    given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code is whole else ()
    before: dis.Instruction | None = None
    chain: list[str] = []
    for each in _instructions(code):
        name = each.opname
        if name in _TAKING:
            doings.attributes.add(each.argval)
            if chain:
                chain.append(each.argval)
        else:
            doings.chains += [tuple(chain)] if chain else []
            chain = [str(each.argval)] if name in _OUTSIDE else []
        if name == "IMPORT_NAME":
            doings.imports.append(each.argval)
        elif name == "IMPORT_FROM":
            doings.imports.append(f"{doings.imports[-1] if doings.imports else ''}.{each.argval}")
        else:
            _note_write(each, before, given, doings)
        before = each
    doings.is_writing |= _has_keyword(code)
    doings.is_writing |= any(
        each.opname == "STORE_DEREF" and each.argval in whole.co_freevars
        for each in dis.get_instructions(code)
    )


def _instructions(code: types.CodeType) -> Iterator[dis.Instruction]:
    return (
        each
        for each in dis.get_instructions(code)
        if each.opname not in {"CACHE", "NOP", "EXTENDED_ARG", "PRECALL", "PUSH_NULL"}
    )


def _note_write(
    each: dis.Instruction, before: dis.Instruction | None, given: tuple[str, ...], doings: Doings
) -> None:
    if each.opname in _WRITING:
        doings.is_writing = True
    elif each.opname == "STORE_ATTR":
        # What the attribute is of was put on the stack last; others than names may be anything.
        base = _names_of(before)[-1] if before and before.opname.startswith("LOAD_FAST") else ""
        if base in given:
            doings.writes.add(base)
        else:
            doings.is_writing = True
    elif each.opname.startswith("STORE_FAST") and before is not None and _is_in_place(before):
        doings.writes.update({_names_of(each)[0]} & {*given})


def _names_of(each: dis.Instruction) -> tuple[str, ...]:
    """Return the names that an instruction works on: some work on two at once."""
    found = each.argval
    return tuple(map(str, found)) if isinstance(found, tuple) else (str(found),)


def _is_in_place(each: dis.Instruction) -> bool:
    # The text of the operator is in it since Python 3.11.
    return each.opname.startswith("INPLACE_") or (
        each.opname == "BINARY_OP" and each.argrepr.endswith("=")
    )


def _has_keyword(code: types.CodeType) -> bool:
    names = (each for each in code.co_consts if isinstance(each, tuple))
    return any(each in {"out", "inplace"} for several in names for each in several)
