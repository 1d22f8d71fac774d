"""Whether calls may share this process, going by the names in their code.

Some libraries have one state for the whole process: the current figure of pyplot, the generator of
``random.seed``, the working directory. Two threads that use one spoil each other's results without
a word. Other code may end the process. What names such things is for processes of its own. So is
what writes to its arguments: threads share them, and processes have copies.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Iterator
from typing import Any, Final

NAMES: Final = frozenset(
    {
        *("seed", "set_state", "setstate"),
        *("chdir", "umask", "setlocale", "redirect_stdout", "redirect_stderr"),
        *("signal", "setitimer", "alarm", "settrace", "setprofile", "setrecursionlimit"),
        *("_exit", "abort", "kill", "fork"),
    }
)
"""Functions that change or end the whole process."""

MODULES: Final = frozenset(
    {"matplotlib.pyplot", "pylab", "seaborn", "tkinter", "turtle", "signal", "ctypes", "cffi"}
)
"""Modules that have one state for the process, or are only for its main thread, or may crash it."""

MOST: Final = 200
"""Functions that are looked at, from one to what it calls."""


def shares_badly(call: Any) -> str:
    """Return a name in a function's code, or in that of its helpers, that threads should not share.

    Examples
    --------
    >>> import os, random
    >>> def draw(n):
    ...     random.seed(n)
    ...     return random.random()
    >>> shares_badly(draw), shares_badly(lambda n: draw(n) + 1), shares_badly(abs)
    ('seed', 'seed', '')
    """
    stack, seen = [_function(call)], set[int]()
    while stack and len(seen) < MOST:
        function = stack.pop()
        if function is None or id(function) in seen:
            continue
        seen.add(id(function))
        for name in _names(function.__code__):
            value = function.__globals__.get(name)
            # What a name stands for says more: there is scipy.signal.
            told = value.__name__ if isinstance(value, types.ModuleType) else name
            if told in MODULES or (told is name and name in NAMES):
                return told
            if callable(value):
                stack.append(_function(value))
    return ""


MUTATORS: Final = frozenset(
    {
        *("append", "extend", "insert", "remove", "pop", "popitem", "clear", "sort", "reverse"),
        *("update", "setdefault", "add", "discard", "fill", "put", "partition", "resize"),
    }
)
"""Methods that change the object that has them."""


def changes_arguments(call: Any) -> bool:
    """Return whether a function's source says that it writes to what it is given.

    Examples
    --------
    >>> import statistics, textwrap
    >>> changes_arguments(statistics.mean), changes_arguments(textwrap.TextWrapper._wrap_chunks)
    (False, True)
    """
    function = _function(call)
    return False if function is None else _writes(function.__code__)


@functools.lru_cache(maxsize=10_000)
def _writes(code: types.CodeType) -> bool:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, SyntaxError, TypeError, ValueError):  # no source, or only a part of a line
        return False
    given = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    return any(_base(changed) in given for node in ast.walk(tree) for changed in _changed(node))


def _changed(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what a statement or a call changes, as it is written."""
    if isinstance(node, (ast.Assign, ast.Delete)):
        yield from (each for each in node.targets if not isinstance(each, ast.Name))
    elif isinstance(node, ast.AugAssign):  # of a number it makes another; of an array it does not
        yield node.target
    elif isinstance(node, ast.Call):
        in_place = any(each.arg in {"inplace", "out"} for each in node.keywords)
        if isinstance(node.func, ast.Attribute) and (in_place or node.func.attr in MUTATORS):
            yield node.func.value
        if isinstance(node.func, ast.Attribute) and node.func.attr == "shuffle":
            yield from node.args


def _base(changed: ast.expr) -> str | None:
    while isinstance(changed, (ast.Attribute, ast.Subscript, ast.Starred)):
        changed = changed.value
    return changed.id if isinstance(changed, ast.Name) else None


def _function(call: Any) -> types.FunctionType | None:
    for _ in range(10):
        if isinstance(call, types.FunctionType):
            return call
        if isinstance(call, functools.partial):
            call = call.func
        else:
            call = getattr(call, "__func__", None) or getattr(call, "__wrapped__", None)
    return None


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
