"""Items as they are when they are read, whatever becomes of them until they are sent."""

from __future__ import annotations

import contextlib
from typing import Any

from flowpar.compat.lending import Lender, Loan
from flowpar.pickling import kept_until_loaded
from flowpar.pools.items import ONE, SEVERAL, Frozen
from flowpar.pools.mainclasses import MainClasses
from flowpar.pools.transport import PLAIN


class Freezer:
    """Pickles the items of one iterable, which may use its objects again.

    A generator may give the same object each time with other content: an array that it reads into,
    say.

    Parameters
    ----------
    form
        What an item is.
    is_still
        Whether nothing becomes of arguments between two items.

    Attributes
    ----------
    largest
        Bytes of the largest item so far.
    """

    def __init__(self, form: int, *, is_still: bool = False) -> None:
        self._form = form
        self._is_still = is_still
        self._lender = Lender()
        self.largest = 0
        self._classes = MainClasses()

    def freeze(self, item: Any) -> Any:
        """Return an item that nothing can change any more; what does not pickle, as it is."""
        if self._form == ONE:
            args, kwargs = (item,), None
        else:
            args, kwargs = (item, None) if self._form == SEVERAL else item
        if not kwargs and all(map(_is_fixed, args)):
            return item
        if not self._is_still:
            self._lender.moment = object()
        with contextlib.suppress(BaseException):  # who sends it names the culprit
            return self._frozen(item, args, kwargs)
        return item

    def _frozen(self, item: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Frozen:
        loans: dict[int, Any] = {}
        loan, dump = self._lender.loan, self._classes.dump
        new_args = tuple([loan(value, loans) for value in args])
        new_kwargs = kwargs and {name: loan(value, loans) for name, value in kwargs.items()}
        with kept_until_loaded() as keepers:
            if self._form == ONE:
                data, classes = dump(new_args[0])
            else:
                data, classes = dump(new_args if self._form == SEVERAL else (new_args, new_kwargs))
        size = len(data) + sum(each.held.size for each in loans.values() if type(each) is Loan)
        self.largest = max(self.largest, size)
        return Frozen(data, classes, item, (keepers, loans, self._classes.keepers))


def _is_fixed(value: Any) -> bool:
    """Return whether a value is of a kind that nobody can change."""
    kind = type(value)
    return kind in PLAIN or (kind is tuple and PLAIN.issuperset(map(type, value)))
