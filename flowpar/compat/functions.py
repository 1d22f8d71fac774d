"""The functions that a pool is given: known again, and in the form in which they are sent."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any, Final

from flowpar.errors import OptionError
from flowpar.policy import DEFAULT_POLICY
from flowpar.pools.transport import prepare_module
from flowpar.task import Function

MOST_KNOWN: Final = 256
"""Functions that are remembered as the same one."""


class Functions:
    """The functions of one pool's calls.

    Parameters
    ----------
    pool
        One of flowpar's own.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._is_apart: bool = pool.name == "processes"
        self._known: dict[int, Function] = {}
        self._awaited: dict[int, Callable[..., Any]] = {}
        self._loop: Any = None

    def get(self, call: Callable[..., Any]) -> Function:
        """Return a function by which like calls are known; what it captures is looked at anew.

        Raises
        ------
        OptionError
            If it is delayed, under a policy that plain calls do not have.
        """
        call = undelayed(call)
        known = self._known.get(id(call))
        if known is None or known.call is not call:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            known = self._known[id(call)] = Function(call)
        elif self._is_apart:
            self._pool.renew_functions(known.number)
        return known

    def as_sent(self, function: Function) -> Callable[..., Any]:
        """Return what the pool is given to call."""
        call = function.call
        if self._is_apart:
            prepare_module(getattr(call, "__module__", None) or "__main__")
            call = function.as_sent()
        if function.is_coroutine and self._pool.name != "async":
            return self._awaited.get(function.number) or self._await(function.number, call)
        return call

    def _await(self, number: int, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a coroutine function as an ordinary one, the same in each message.

        On threads all run on one loop: they may share locks of asyncio's.
        """
        from flowpar.pools.coroutines import Awaited, SharedLoop  # noqa: PLC0415 - bring asyncio

        if self._is_apart:
            awaited: Callable[..., Any] = Awaited(call)
        else:
            self._loop = self._loop or SharedLoop()
            awaited = functools.partial(self._loop.run, call)
        self._awaited[number] = awaited
        return awaited

    def close(self) -> None:
        """End what coroutines run on."""
        if self._loop is not None:
            self._loop.close()

    def let_go(self) -> None:
        """Keep nothing that may be the user's, but for plain functions."""
        self._awaited.clear()
        for key in [key for key, known in self._known.items() if not _is_plain(known.call)]:
            function = self._known.pop(key)
            if self._is_apart:
                self._pool.forget_function(function.number)


def undelayed(call: Any) -> Any:
    """Return the function that a delayed one makes calls of; any other as it is.

    Raises
    ------
    OptionError
        If it is under a policy that plain calls do not have.

    Examples
    --------
    >>> import flowpar
    >>> undelayed(flowpar.delayed(abs))
    <built-in function abs>
    """
    dsl = sys.modules.get("flowpar.dsl")  # without which there is none
    if dsl is None or not isinstance(call, dsl.DelayedFunction):
        return call
    function = call._function
    if function.policy != DEFAULT_POLICY or function.after:
        raise OptionError(
            f"{function.name} is delayed, and its policy is not that of plain calls: make a graph "
            "of its calls and compute that, or give the plain function"
        )
    return function.call


def _is_plain(call: object) -> bool:
    """Return whether a function holds nothing that somebody may want to be rid of."""
    if isinstance(call, types.FunctionType):
        return call.__closure__ is None
    return isinstance(call, (types.BuiltinFunctionType, type))
