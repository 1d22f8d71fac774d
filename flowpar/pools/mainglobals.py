"""Globals of ``__main__`` in a worker, which the functions that came from there share.

Functions of ``__main__`` travel by value, each with the globals that it names and a namespace of
its own. In the script they share one. So do they here, for pools whose users expect it: what an
initializer sets with ``global model`` the calls find, and what one call puts into a global list the
next finds there. Where the script itself has changed a global since, its value wins.
"""

from __future__ import annotations

import sys
import types
from typing import Any, Final

from flowpar.pickling import MAIN, dump
from flowpar.pools.transport import PLAIN

MOST_BYTES: Final = 1 << 20
"""Larger values are not compared: what the parent sends then wins."""

_CODE: Final = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
"""Kinds of values that come with each function, and are what they are."""

_UNKNOWN: Final = object()


class MainGlobals:
    """What the globals of ``__main__`` are in this worker, over all functions that came."""

    def __init__(self) -> None:
        self._sent: dict[str, object] = {}
        """By name, what tells the value that the parent has sent from others."""
        self._now: dict[str, object] = {}
        self._spaces: dict[int, dict[str, Any]] = {}

    def adopt(self, function: object) -> None:
        """Have a function that was loaded find the globals that others have set."""
        space = _space_of(function)
        if space is None:
            return
        for name, value in _values(space).items():
            mark = _mark_of(value)
            if mark is not _UNKNOWN and self._sent.get(name, _UNKNOWN) == mark:
                space[name] = self._now[name]
            else:
                self._sent[name] = mark
                self._set(name, value)
        for name, value in self._now.items():
            space.setdefault(name, value)
        self._spaces[id(space)] = space

    def collect(self, function: object) -> None:
        """Know what a call of a function has set."""
        space = _space_of(function)
        if space is None:
            return
        for name, value in _values(space).items():
            if self._now.get(name, _UNKNOWN) is not value:
                self._set(name, value)

    def _set(self, name: str, value: object) -> None:
        self._now[name] = value
        for space in self._spaces.values():
            space[name] = value


def _space_of(function: object) -> dict[str, Any] | None:
    """Return the namespace of a function that came by value from ``__main__``, if it is one."""
    found: Any = function
    while hasattr(found, "func") and not isinstance(found, types.FunctionType):
        found = found.func  # as functools.partial has it
    found = getattr(found, "__func__", found)
    if not isinstance(found, types.FunctionType):
        found = vars(type(found)).get("__call__")
    space: dict[str, Any] | None = getattr(found, "__globals__", None)
    if space is None or getattr(found, "__module__", None) not in MAIN:
        return None
    # One that this process has itself, as under "fork", is shared already.
    return None if space is vars(sys.modules["__main__"]) else space


def _values(space: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of a namespace: not what Python puts there, and no code."""
    return {
        name: value
        for name, value in space.items()
        if not name.startswith("__") and not isinstance(value, _CODE)
    }


def _mark_of(value: object) -> object:
    """Return what tells a value from others; `_UNKNOWN`: that would take too long."""
    if type(value) in PLAIN:
        return type(value), value
    try:
        if max(sys.getsizeof(value), getattr(value, "nbytes", 0)) > MOST_BYTES:
            return _UNKNOWN
        return dump(value)
    except Exception:  # noqa: BLE001 - it runs the user's code
        return _UNKNOWN
