"""Literal arguments that many calls take: pickled once, and loaded anew by every task.

A loop that gives the same table to a thousand calls would send it to the workers a thousand times.
Here it is known again as the same object; if it is large, it is written into shared memory, and
what travels is the name of a file, as for large values::

    f(table, 1), f(table, 2), … ──lend──> f(Ref(-1), 1), f(Ref(-1), 2), …, with -1: Held

A small one travels as its pickle, once a batch, so that what a task writes to its argument does not
depend on which other tasks share its batch.

Arrays and strings say at once that they are large; other objects are pickled apart from their call
when they come a second time.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import types
import weakref
from typing import Any, Final

from flowpar.pickling import Keepers, dump, kept_until_loaded
from flowpar.pools.depot import SHARED_FROM, Held
from flowpar.pools.home import seal
from flowpar.pools.transport import PLAIN, TINY_TYPES, Packed
from flowpar.task import ALL_REFS, MIXED, Call, Ref, Template

MOST_KEPT: Final = 1 << 30
"""Bytes of arguments that are kept while no batch takes them; the last one is, at any size."""

MOST_KNOWN: Final = 100_000
"""Objects that are remembered, before all are forgotten."""

_NEVER_LENT: Final = TINY_TYPES | {
    Ref,
    Template,
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
}


class _Known:
    """An argument that was met."""

    __slots__ = ("held", "index", "is_hopeless", "is_shared", "keepers", "packed", "turn", "value")

    def __init__(self, value: object, index: int) -> None:
        self.value = value  # keeps it alive, so that no other object gets its id
        self.index = index
        self.turn = 0
        """Of `Literals`, when it was looked at last."""
        self.held: weakref.ref[Held] | None = None
        self.keepers: Keepers = {}
        """What that, or its file, names."""
        self.packed: Packed | None = None
        """What it is as bytes, if that is little."""
        self.is_shared = False
        """Whether it came more than once."""
        self.is_hopeless = False
        """Whether it does not pickle, or is large and has no place in a file."""


class Literals:
    """Lends the literal arguments of one run that are large or come again."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        self._kept: collections.OrderedDict[int, Held] = collections.OrderedDict()
        self._count = 0
        self._turn = 0

    def lend(self, calls: list[Call], inputs: dict[int, object]) -> list[Call]:
        """Return the calls with refs in place of what is lent.

        Parameters
        ----------
        calls
            Those of one batch.
        inputs
            Its inputs, to which what is lent is added, under negative indices.
        """
        tiny = TINY_TYPES.issuperset
        return [
            call
            if call[2] == ALL_REFS or (tiny(map(type, call[3])) and not call[4])
            else self._lent(call, inputs)
            for call in calls
        ]

    def distrust(self) -> None:
        """Look at each argument anew before it is lent: a call was made in this process.

        It may have written to them, by whatever way it reached them.
        """
        self._turn += 1

    def _lent(self, call: Call, inputs: dict[int, object]) -> Call:
        index, number, _, args, kwargs = call
        ids = [id(v) for v in (*args, *(kwargs or {}).values()) if type(v) not in _NEVER_LENT]
        if len(set(ids)) < len(ids):
            return call  # who takes an object twice gets one object; as two refs it would be two
        found: dict[int, object] = {}
        lent_args = tuple([self._stand_in(value, found) for value in args])
        lent_kwargs = kwargs and {n: self._stand_in(value, found) for n, value in kwargs.items()}
        if not found:
            return call
        inputs.update(found)
        return index, number, MIXED, lent_args, lent_kwargs

    def _stand_in(self, value: Any, found: dict[int, object]) -> Any:
        if type(value) in _NEVER_LENT or (
            type(value) in {str, bytes} and sys.getsizeof(value) < SHARED_FROM
        ):
            return value
        known = self._known.get(id(value))
        if known is not None and not self._is_as_it_was(known):
            self._kept.pop(known.index, None)
            known = None
        if known is None:
            known = self._meet(value)
            if not _is_plainly_large(value):
                return value
        else:
            known.is_shared = True
        sealed = self._sealed(known)
        if sealed is None:
            return value
        if known.is_shared and type(sealed) is Held:
            self._keep(known.index, sealed)
        found[known.index] = sealed
        return Ref(known.index)

    def _meet(self, value: object) -> _Known:
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
            self._kept.clear()
        self._count += 1
        known = self._known[id(value)] = _Known(value, -self._count)
        known.turn = self._turn
        return known

    def _is_as_it_was(self, known: _Known) -> bool:
        """Return whether what was kept of an argument is what would be made of it now."""
        if known.turn == self._turn or type(known.value) in PLAIN:
            return True
        known.turn = self._turn
        held = known.held() if known.held is not None else None
        try:
            if held is not None:
                return held.holds(known.value)
            return known.packed is None or known.packed.data == dump(known.value)
        except (Exception, SystemExit):  # noqa: BLE001 - who pickles the batch names the culprit
            return False

    def _sealed(self, known: _Known) -> Held | Packed | None:
        """Return what stands for an argument; None: it travels as it is."""
        if known.packed is not None or known.is_hopeless:
            return known.packed
        sealed: object = known.held and known.held()
        if sealed is None:
            # Who pickles the batch names the culprit.
            with contextlib.suppress(Exception, SystemExit), kept_until_loaded() as known.keepers:
                sealed = seal(known.value)
        if isinstance(sealed, Held):
            known.held = weakref.ref(sealed)
            return sealed
        if isinstance(sealed, Packed) and len(sealed.data) < SHARED_FROM:
            known.packed = sealed
        else:
            known.is_hopeless = True
        return known.packed

    def _keep(self, index: int, held: Held) -> None:
        """Keep what was taken before, and will be again; the others go with their batch."""
        self._kept[index] = held
        self._kept.move_to_end(index)
        while len(self._kept) > 1 and sum(each.size for each in self._kept.values()) > MOST_KEPT:
            self._kept.popitem(last=False)


def _is_plainly_large(value: object) -> bool:
    """Return whether an object says of itself that it is large, as arrays do."""
    if type(value) in {str, bytes}:
        return True  # small ones were sorted out
    try:
        return bool(getattr(value, "nbytes", 0) >= SHARED_FROM)
    except Exception:  # noqa: BLE001 - an attribute of the user's may be anything
        return False
