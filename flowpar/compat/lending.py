"""Large arguments, lent to the workers in files of shared memory, and sent once if they come again.

A loop that gives the same table to a thousand calls would send it a thousand times. Here it is
known again as the same object, as long as it was among the last that were large.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import sys
from collections.abc import Iterable
from typing import Any, Final

from flowpar.pools.depot import SHARED_FROM, Held
from flowpar.pools.home import seal
from flowpar.pools.items import ONE, SEVERAL, Items
from flowpar.pools.transport import TINY_TYPES
from flowpar.task import MIXED, Call, Ref

MOST_KEPT: Final = 4
"""Objects that are known again; they are kept alive for that long."""

_SMALL: Final = TINY_TYPES | {tuple, list, dict, set}
"""Types whose objects are not looked at: to know how large they are costs more than it brings."""

_TABLES: Final = frozenset({"pandas", "polars", "pyarrow"})
"""Packages whose objects say how large they are only when asked as any object is."""


class Lender:
    """Lends the large arguments of the calls of one pool."""

    def __init__(self) -> None:
        self._kept: collections.OrderedDict[int, tuple[object, Held]] = collections.OrderedDict()

    def lend(self, items: Items) -> tuple[list[Call], dict[int, object]] | None:
        """Return calls with refs in place of what is lent, and that; None: there is nothing."""
        # Most messages hold only what is small, which their types tell.
        if _SMALL.issuperset(map(type, _arguments(items))):
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
        kept = self._kept.get(id(value))
        if kept is not None:
            self._kept.move_to_end(id(value))
            return kept[1]
        sealed: object = None
        # Who pickles the call names the culprit.
        with contextlib.suppress(Exception, SystemExit):
            sealed = seal(value)
        if not isinstance(sealed, Held):
            return None
        self._kept[id(value)] = value, sealed
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return sealed


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
        return bool(getattr(value, "nbytes", 0) >= SHARED_FROM)
    return False
