"""Calls of one function, many in a message: what a pool's `map` is made of.

They travel as the arguments that the user gave, and a worker makes them in a loop that does little
besides: an item more costs a fraction of what a task of a graph does.
"""

from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, overload

from flowpar.errors import NotPicklable
from flowpar.pools.mainclasses import Published, take_in
from flowpar.task import LITERAL, Call

ONE, SEVERAL, FULL = range(3)
"""What an item is: the only argument of a call; its arguments; (arguments, keyword arguments)."""


class Frozen:
    """An item as it was when it was pickled, whatever has become of it since.

    Parameters
    ----------
    data
        Its pickle, which only a worker loads.
    item
        The item, as it is now; it stays here.
    classes
        Those of ``__main__`` that the pickle names.
    item
        The item, as it is now; it stays here.
    keepers
        What the pickle names; as that.
    """

    __slots__ = ("classes", "data", "item", "keepers")

    def __init__(
        self,
        data: bytes,
        classes: tuple[Published, ...] = (),
        item: Any = None,
        keepers: object = None,
    ) -> None:
        self.data = data
        self.classes = classes
        self.item = item
        self.keepers = keepers

    def load(self) -> Any:
        """Return a new copy of the item.

        Raises
        ------
        NotPicklable
            If its loading raises.
        """
        try:
            take_in(self.classes)
            return pickle.loads(self.data)  # noqa: S301 - made by the parent
        except Exception as error:
            raise NotPicklable(
                "the arguments could not be loaded where they arrived: "
                f"{type(error).__name__}: {error}"
            ) from error

    def __reduce__(self) -> tuple[object, ...]:
        return Frozen, (self.data, self.classes)


class Items(Sequence[Call]):
    """The calls of one function as a batch has them, each made when it is looked at.

    Parameters
    ----------
    number
        Of the function.
    form
        `ONE`, `SEVERAL` or `FULL`.
    values
        The arguments.
    first
        The index of the first call.

    Examples
    --------
    >>> list(Items(7, SEVERAL, [(2, 3)]))
    [(0, 7, 0, (2, 3), None)]
    """

    __slots__ = ("first", "form", "number", "values")

    def __init__(self, number: int, form: int, values: Sequence[Any], first: int = 0) -> None:
        self.number = number
        self.form = form
        self.values = values
        self.first = first

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Call]:
        for index, value in enumerate(self.values, self.first):
            args, kwargs = arguments_of(self.form, value)
            yield index, self.number, LITERAL, args, kwargs

    @overload
    def __getitem__(self, at: int) -> Call: ...
    @overload
    def __getitem__(self, at: slice) -> Items: ...
    def __getitem__(self, at: int | slice) -> Call | Items:
        numbers = range(len(self))[at]
        if isinstance(numbers, range):
            return Items(self.number, self.form, self.values[at], self.first + numbers.start)
        args, kwargs = arguments_of(self.form, self.values[at])
        return self.first + numbers, self.number, LITERAL, args, kwargs

    def parts(self) -> tuple[int, int, Sequence[Any], int]:
        """Return what it can be made from again."""
        return self.number, self.form, self.values, self.first

    def __reduce__(self) -> tuple[object, ...]:
        return Items, self.parts()


def arguments_of(form: int, value: Any) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
    """Return the arguments of a call, for who only looks at them: nothing is loaded."""
    if type(value) is Frozen:
        value = value.item
    if form == ONE:
        return (value,), None
    return (value, None) if form == SEVERAL else value


BLOCK_SECONDS: Final = 2e-5
"""Calls that take less together are made without a look around in between."""

MOST_IN_BLOCK: Final = 64


def make_calls(
    function: Any, items: Items, made: list[Any], may_go_on: Callable[[int, int], bool]
) -> BaseException | None:
    """Make calls, as many as give a value, and return the error of the one that does not.

    Parameters
    ----------
    function
        What is called.
    items
        With what.
    made
        Values are put behind those that are there, which are of the first calls.
    may_go_on
        Asked before calls are made, with the position of the first of them, and how many they are.
        Quick ones are made together, since to ask costs more than to call.
    """
    form, given = items.form, items.values
    are_apart = form == FULL or Frozen in set(map(type, given))
    block, begun = 1, time.perf_counter()
    try:
        while (at := len(made)) < len(given) and may_go_on(at, min(block, len(given) - at)):
            if block == 1 or are_apart:
                item = given[at]
                args, kwargs = arguments_of(form, item.load() if type(item) is Frozen else item)
                made.append(function(*args, **(kwargs or {})))
            else:
                _make_block(function, form, given[at : at + block], made)
            now = time.perf_counter()
            is_quick = now - begun < BLOCK_SECONDS
            block = min(MOST_IN_BLOCK, 2 * block) if is_quick else max(1, block // 2)
            begun = now
    except BaseException as error:  # noqa: BLE001 - handed to who asked
        return error
    return None


def _make_block(function: Any, form: int, given: Sequence[Any], made: list[Any]) -> None:
    """Make some calls with nothing in between."""
    expected = len(made) + len(given)
    # If one raises, the values of those before it have been put there.
    made.extend((itertools.starmap if form == SEVERAL else map)(function, given))
    if len(made) < expected:
        raise StopIteration  # which was taken for the end of all; what it said is lost
