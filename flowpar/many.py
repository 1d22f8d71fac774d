"""Builds many delayed calls at once: lists and trees."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from flowpar.dsl import OUR_GLOBALS, Delayed, DelayedFunction, delayed, delayed_value

T = TypeVar("T")
OUR_GLOBALS.add(id(globals()))


def map(  # noqa: A001 - it does what the builtin does, later
    func: Callable[..., T], /, *iterables: Iterable[Any], **policy: Any
) -> list[Delayed[T]]:
    """Return a delayed call of the function for each item, or each group of items.

    Parameters
    ----------
    func
        A function, delayed or not.
    *iterables
        At least one; of several, items at the same place go into one call, up to the shortest.
    **policy
        As for `delayed`.

    Returns
    -------
    list of Delayed
        In the order of the items.

    Examples
    --------
    >>> import flowpar
    >>> flowpar.compute(flowpar.map(pow, [2, 3], [5, 2]), scheduler="sync")
    [32, 9]
    """
    if not iterables:
        raise TypeError("flowpar.map takes a function and at least one iterable")
    call = _delayed_function(func, policy)
    return [call(*items) for items in builtins.zip(*iterables, strict=False)]


def starmap(
    func: Callable[..., T], /, iterable: Iterable[Iterable[Any]], **policy: Any
) -> list[Delayed[T]]:
    """Return a delayed call of the function for each tuple of arguments.

    Parameters
    ----------
    func
        A function, delayed or not.
    iterable
        Of tuples of arguments.
    **policy
        As for `delayed`.

    Returns
    -------
    list of Delayed
        In the order of the tuples.

    Examples
    --------
    >>> import flowpar
    >>> flowpar.compute(flowpar.starmap(pow, [(2, 5), (3, 2)]), scheduler="sync")
    [32, 9]
    """
    call = _delayed_function(func, policy)
    return [call(*arguments) for arguments in iterable]


def reduce(
    func: Callable[..., T], /, iterable: Iterable[Any], *initial: Any, **policy: Any
) -> Delayed[T]:
    """Return the items combined by the function, two and two, as a tree.

    Parameters
    ----------
    func
        Of two arguments, delayed or not, and associative: ``f(f(a, b), c) == f(a, f(b, c))``. It
        need not be commutative: the order of the items is kept.
    iterable
        Items, delayed or not.
    *initial
        At most one: put before the items; the result for no items.
    **policy
        As for `delayed`.

    Returns
    -------
    Delayed
        One item is returned as it is.

    Raises
    ------
    TypeError
        If there are neither items nor an initial one.

    Examples
    --------
    >>> import flowpar
    >>> flowpar.reduce(lambda a, b: a + b, "pipeline").compute(scheduler="sync")
    'pipeline'
    """
    if len(initial) > 1:
        raise TypeError("flowpar.reduce takes one initial item at most")
    call = _delayed_function(func, policy)
    level: list[Any] = [*initial, *iterable]
    if not level:
        raise TypeError("flowpar.reduce of nothing needs an initial item")
    while len(level) > 1:
        pairs = [call(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = [*pairs, *level[len(pairs) * 2 :]]
    last = level[0]
    return last if isinstance(last, Delayed) else delayed_value(last)


def _delayed_function(func: Any, policy: dict[str, Any]) -> DelayedFunction[Any]:
    call = delayed(func, **policy)
    if not isinstance(call, DelayedFunction):
        raise TypeError(f"expected a function, and not {func!r}")
    return call
