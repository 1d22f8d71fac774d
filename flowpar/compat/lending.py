"""Large arguments, lent to the workers in files of shared memory, and sent once if they come again.

A loop that gives the same table to a thousand calls would send it a thousand times. Here it is
known again as the same object with the same content, as long as it was among the last that were
large.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import operator
import sys
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from flowpar.caching.objects import read_unchecked
from flowpar.pickling import travels_by_name
from flowpar.pools.depot import SHARED_FROM, Held
from flowpar.pools.home import seal
from flowpar.pools.items import ONE, SEVERAL, Frozen, Items
from flowpar.pools.transport import PLAIN, TINY_TYPES
from flowpar.task import MIXED, Call, Ref

MOST_LOOKED_AT: Final = 1000
"""Parts of a list, tuple or dictionary; in longer ones nothing large is looked for."""

MOST_KEPT: Final = 4
"""Objects that are known again; they are kept alive for that long."""

_SMALL: Final = TINY_TYPES | {tuple, list, dict, set}
"""Types whose objects are not looked at: to know how large they are costs more than it brings."""

_TABLES: Final = frozenset({"pandas", "polars", "pyarrow"})
"""Packages whose objects say how large they are only when asked as any object is."""


class Loan:
    """What is large, as the value that it is where it arrives."""

    __slots__ = ("held",)

    def __init__(self, held: Held) -> None:
        self.held = held

    def __reduce__(self) -> tuple[object, ...]:
        return read_unchecked, (self.held.path,)


class _Kept(NamedTuple):
    """An object that was lent."""

    value: object
    """Kept alive, so that no other object gets its id."""
    held: Held
    moment: object
    """When it was looked at last."""


class Lender:
    """Lends the large arguments of the calls of one pool.

    Attributes
    ----------
    moment
        What is lent at one moment is looked at once, and may be changed until the next.
    """

    def __init__(self) -> None:
        self.moment: object = None
        self._kept: collections.OrderedDict[int, _Kept] = collections.OrderedDict()

    def lend(self, items: Items, moment: object) -> tuple[list[Call], dict[int, object]] | None:
        """Return calls with refs in place of what is lent, and that; None: there is nothing.

        Parameters
        ----------
        items
            The calls.
        moment
            Items that were given at one moment have arguments that are looked at once.
        """
        self.moment = moment
        # Most messages hold only what is small, which their types tell.
        if items.form == ONE and _SMALL.issuperset(map(type, items.values)):
            return None
        if Frozen in set(map(type, items.values)):
            return None
        if items.form != ONE and _SMALL.issuperset(map(type, _arguments(items))):
            return None
        if not any(map(_is_large, _arguments(items))):
            return None
        lent: dict[int, object] = {}
        indices: dict[int, int] = {}
        calls = []
        for index, number, _, args, kwargs in items:
            new_args = tuple(self._stand_in(value, lent, indices) for value in args)
            new_kwargs = kwargs and {
                name: self._stand_in(value, lent, indices) for name, value in kwargs.items()
            }
            calls.append((index, number, MIXED, new_args, new_kwargs))
        return calls, lent

    def loan(self, value: Any, loans: dict[int, Any]) -> Any:
        """Return what is loaded from a file, once a call, in place of what is large.

        Parameters
        ----------
        value
            Anything. In lists, tuples and dictionaries one looks for it, too, but no deeper.
        loans
            What was put in place of objects for the same call, by their ids; is added to.
        """
        kind = type(value)
        if kind not in {tuple, list, dict} or len(value) > MOST_LOOKED_AT:
            return self._loan_of(value, loans)
        if id(value) in loans:
            return loans[id(value)]
        parts = list(value.values()) if kind is dict else value
        new = [self._loan_of(part, loans) for part in parts]
        if any(map(operator.is_not, new, parts)):
            # The same in place of it each time: what is one object there arrives as one.
            loans[id(value)] = dict(zip(value, new)) if kind is dict else kind(new)  # noqa: B905 - as many
        return loans.get(id(value), value)

    def _loan_of(self, value: Any, loans: dict[int, Any]) -> Any:
        if not _is_large(value):
            return value
        if id(value) not in loans:
            held = self._held(value)
            loans[id(value)] = value if held is None else Loan(held)
        return loans[id(value)]

    def forget(self) -> None:
        """Keep nothing any more."""
        self._kept.clear()

    def _stand_in(self, value: Any, lent: dict[int, object], indices: dict[int, int]) -> Any:
        if not _is_large(value):
            return value
        known = indices.get(id(value))
        if known is None:
            held = self._held(value)
            if held is None:
                return value
            known = indices[id(value)] = -1 - len(lent)
            lent[known] = held
        return Ref(known)

    def _held(self, value: Any) -> Held | None:
        """Return a file with a value as it is now; None: no room, or it does not pickle."""
        kept = self._kept.pop(id(value), None)
        held = None
        with contextlib.suppress(BaseException):  # who pickles the call names the culprit
            held = kept.held if kept is not None and self._is_as_it_was(kept) else seal(value)
        if not isinstance(held, Held):
            return None
        self._kept[id(value)] = _Kept(value, held, self.moment)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return held

    def _is_as_it_was(self, kept: _Kept) -> bool:
        is_new = kept.moment is self.moment or type(kept.value) in PLAIN
        return is_new or kept.held.holds(kept.value)


def _arguments(items: Items) -> Iterable[Any]:
    """Return the arguments of all calls."""
    if items.form == ONE:
        return items.values
    if items.form == SEVERAL:
        return itertools.chain.from_iterable(items.values)
    return (value for args, kwargs in items.values for value in (*args, *(kwargs or {}).values()))


def _is_large(value: Any) -> bool:
    kind = type(value)
    if kind in _SMALL:
        return False
    if kind in {str, bytes, bytearray}:
        return len(value) >= SHARED_FROM
    with contextlib.suppress(Exception):  # an attribute of the user's may be anything
        if kind.__module__.partition(".")[0] in _TABLES:
            return sys.getsizeof(value) >= SHARED_FROM
        is_large = bool(getattr(value, "nbytes", 0) >= SHARED_FROM)
        return is_large and not travels_by_name(value)
    return False
