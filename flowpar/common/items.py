"""Shared objects of Python's as the process has them that serves them: of items it has the pickles.

So nobody's classes are loaded there, nor looked for, but what is compared, and the keys of
dictionaries; and an item is given out as it came, be it that what it names is gone by now.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from typing import Any, Final

from flowpar.common.things import Ask, Thing
from flowpar.pickling import dump

_PLAIN: Final = frozenset({int, str, float, bool, bytes, type(None)})
"""Types that the quickest pickler knows all about."""


def dump_item(value: object) -> bytes:
    """Return the pickle of an item.

    Raises
    ------
    Exception
        Whatever the value's own pickling raises.
    """
    return pickle.dumps(value, protocol=5) if type(value) in _PLAIN else dump(value)


def dump_call(args: tuple[object, ...], kwargs: dict[str, object]) -> bytes:
    """Return the pickle of arguments for a method of a `Box`.

    Raises
    ------
    Exception
        Whatever their own pickling raises.
    """
    if not kwargs and all(type(arg) in _PLAIN or type(arg) is Sent for arg in args):
        return pickle.dumps((args, kwargs), protocol=5)
    return dump((args, kwargs))


class Item:
    """A value, by its pickle; when it is pickled itself, it arrives as the value."""

    __slots__ = ("data",)
    __hash__ = None  # type: ignore[assignment]  # as of what can be changed

    def __init__(self, data: bytes) -> None:
        self.data = data

    def load(self) -> Any:
        """Return the value."""
        return pickle.loads(self.data)  # noqa: S301 - from a process of ours

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Item):
            return NotImplemented
        return self.data == other.data or bool(self.load() == other.load())

    def __reduce__(self) -> tuple[object, ...]:
        return pickle.loads, (self.data,)  # noqa: S301 - as above

    def __repr__(self) -> str:
        return repr(self.load())


class Sent:
    """A value on its way to where it is an item.

    Raises
    ------
    Exception
        Whatever the value's own pickling raises.
    """

    __slots__ = ("data",)

    def __init__(self, value: object) -> None:
        self.data = dump_item(value)

    def __reduce__(self) -> tuple[object, ...]:
        return Item, (self.data,)


def item_of(value: object) -> Item:
    """Return a value as an item; what it names stays for it.

    Raises
    ------
    Exception
        Whatever the value's own pickling raises.
    """
    return Item(dump_item(value))


class Items(list[Item]):
    """A list."""

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        """Sort by what the items are."""
        if key is None:
            super().sort(key=Item.load, reverse=reverse)
        else:
            super().sort(key=lambda item: key(item.load()), reverse=reverse)

    def multiply(self, count: int) -> None:
        """Repeat it so many times."""
        self *= count


class Table(dict[Any, Item]):
    """A dictionary."""

    # As lists: views do not pickle.
    def list_keys(self) -> list[Any]:
        """Return the keys."""
        return list(self)

    def list_values(self) -> list[Item]:
        """Return the values."""
        return list(self.values())

    def list_items(self) -> list[tuple[Any, Item]]:
        """Return keys and values."""
        return list(self.items())


class Box(Thing):
    """An object of Python's whose methods are called here.

    Parameters
    ----------
    content
        Which.
    methods
        Those that may be called.
    """

    def __init__(self, content: Items | Table, methods: Iterable[str]) -> None:
        self._content = content
        self._methods = frozenset(methods)

    def call(self, ask: Ask, method: str, data: bytes) -> None:
        """Answer with the pickle of what a method returns."""
        if method not in self._methods:
            raise AttributeError(f"{type(self._content).__name__!r} has no method {method!r} here")
        args, kwargs = pickle.loads(data)  # noqa: S301 - from a process of ours
        found = getattr(self._content, method)(*args, **kwargs)
        ask.answer(found.data if type(found) is Item else dump_item(found))
