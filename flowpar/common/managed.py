"""`Manager`: dictionaries, lists and namespaces that tasks share."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from typing import Any, Final, SupportsIndex

from flowpar.common.items import Box, Items, Sent, Table, dump_call, item_of
from flowpar.common.locks import Lock, RLock
from flowpar.common.memory import Array
from flowpar.common.queues import Queue
from flowpar.common.remote import Shared, serve
from flowpar.common.signals import Barrier, BoundedSemaphore, Condition, Event, Semaphore

_COMMON: Final = ("__contains__", "__delitem__", "__getitem__", "__len__", "copy", "clear", "pop")
_DICT: Final = (*_COMMON, "popitem")
_DICT_LISTS: Final = ("list_keys", "list_values", "list_items")
_DICT_TAKES: Final = ("__setitem__", "get", "pop", "setdefault", "update")
_LIST: Final = (*_COMMON, "reverse", "sort", "multiply")
_LIST_TAKES: Final = (
    *("__contains__", "__setitem__", "append", "count", "extend", "index", "insert", "remove"),
)


class _Object(Shared):
    """An object whose methods are called where it is; what comes back is a copy."""

    def __init__(self, content: Items | Table, *methods: str) -> None:
        self._remote = serve(Box(content, methods))

    def _call(self, method: str, *args: object, **kwargs: object) -> Any:
        data = self._ask("call", method, dump_call(args, kwargs))
        return pickle.loads(data)  # noqa: S301 - from a process of ours


def _method(name: str) -> Any:
    def call(self: _Object, /, *args: object, **kwargs: object) -> Any:
        return self._call(name, *args, **kwargs)

    call.__name__ = name
    call.__doc__ = f"As of what it stands for: `{name}`."
    return call


def _sent(values: Iterable[object]) -> list[Sent]:
    return [Sent(value) for value in values]


def _sent_table(values: dict[Any, object]) -> dict[Any, Sent]:
    return {key: Sent(value) for key, value in values.items()}


class Dict(_Object):
    """A dictionary that tasks share; see `Manager`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(Table(), *_DICT, *_DICT_LISTS, *_DICT_TAKES)
        if args or kwargs:
            self.update(*args, **kwargs)

    def keys(self) -> list[Any]:
        """Return the keys, as they are now."""
        return list(self._call("list_keys"))

    def values(self) -> list[Any]:
        """Return the values, as they are now."""
        return list(self._call("list_values"))

    def items(self) -> list[tuple[Any, Any]]:
        """Return keys and values, as they are now."""
        return list(self._call("list_items"))

    def __setitem__(self, key: object, value: object) -> None:
        self._call("__setitem__", key, Sent(value))

    def get(self, key: object, default: object = None) -> Any:
        """Return the value of a key; without one, the default."""
        return self._call("get", key, Sent(default))

    def pop(self, key: object, *default: object) -> Any:
        """Take out a key, and return its value; without one, the default."""
        return self._call("pop", key, *_sent(default))

    def setdefault(self, key: object, default: object = None) -> Any:
        """Return the value of a key, which is the default from now on if there was none."""
        return self._call("setdefault", key, Sent(default))

    def update(self, *others: Any, **values: object) -> None:
        """Put in all of another dictionary, or of pairs, and what is named."""
        known = [other._copy() if isinstance(other, Dict) else other for other in others]
        self._call("update", _sent_table(dict(*known, **values)))

    def __or__(self, other: Any) -> dict[Any, Any]:
        found: dict[Any, Any] = self._copy() | (other._copy() if isinstance(other, Dict) else other)
        return found

    def __ror__(self, other: Any) -> dict[Any, Any]:
        found: dict[Any, Any] = other | self._copy()
        return found

    def __ior__(self, other: Any) -> Dict:
        self.update(other)
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def _copy(self) -> dict[Any, Any]:
        found: dict[Any, Any] = self._call("copy")
        return found

    def __repr__(self) -> str:
        return f"<Dict {self._copy()!r}>"


class List(_Object):
    """A list that tasks share; see `Manager`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(Items(map(item_of, list(*args))), *_LIST, *_LIST_TAKES)

    def __setitem__(self, place: Any, value: Any) -> None:
        self._call("__setitem__", place, _sent(value) if isinstance(place, slice) else Sent(value))

    def __contains__(self, value: object) -> bool:
        return bool(self._call("__contains__", Sent(value)))

    def append(self, value: object) -> None:
        """Put an item at the end."""
        self._call("append", Sent(value))

    def extend(self, values: Iterable[object]) -> None:
        """Put items at the end."""
        self._call("extend", _sent(values))

    def insert(self, place: SupportsIndex, value: object) -> None:
        """Put an item in before that of a place."""
        self._call("insert", place, Sent(value))

    def remove(self, value: object) -> None:
        """Take out the first item that is equal."""
        self._call("remove", Sent(value))

    def count(self, value: object) -> int:
        """Return how many items are equal."""
        return int(self._call("count", Sent(value)))

    def index(self, value: object, *limits: SupportsIndex) -> int:
        """Return the place of the first item that is equal, between two places if given."""
        return int(self._call("index", Sent(value), *limits))

    def __iter__(self) -> Iterator[Any]:
        known: list[Any] = self._call("copy")
        return iter(known)

    def __reversed__(self) -> Iterator[Any]:
        known: list[Any] = self._call("copy")
        return iter(known[::-1])

    def __add__(self, other: Any) -> list[Any]:
        known: list[Any] = self._call("copy")
        return known + list(other)

    def __radd__(self, other: Any) -> list[Any]:
        found: list[Any] = other + self._call("copy")
        return found

    def __mul__(self, count: SupportsIndex) -> list[Any]:
        known: list[Any] = self._call("copy")
        return known * count

    __rmul__ = __mul__

    def __iadd__(self, other: Any) -> List:
        self.extend(other)
        return self

    def __imul__(self, count: SupportsIndex) -> List:
        self._call("multiply", count)
        return self

    def __repr__(self) -> str:
        return f"<List {self._call('copy')!r}>"


class Namespace(_Object):
    """Attributes that tasks share; see `Manager`."""

    def __init__(self, **attributes: object) -> None:
        content = Table({name: item_of(value) for name, value in attributes.items()})
        super().__init__(content, "__getitem__", "__setitem__", "__delitem__", "copy")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._call("__getitem__", name)
        except KeyError:
            raise self._lacks(name) from None

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self._call("__setitem__", name, Sent(value))

    def __delattr__(self, name: str) -> None:
        try:
            self._call("__delitem__", name)
        except KeyError:
            raise self._lacks(name) from None

    def _lacks(self, name: str) -> AttributeError:
        return AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        known = self._call("copy")
        return f"Namespace({', '.join(f'{name}={value!r}' for name, value in known.items())})"


class Value(_Object):
    """Any value that tasks share; see `Manager`.

    Parameters
    ----------
    typecode
        Of no effect: it is for programs that used `multiprocessing.Manager`.
    value
        What it is at first.
    lock
        Of no effect, too.
    """

    def __init__(self, typecode: object, value: object, lock: object = True) -> None:  # noqa: ARG002 - see above
        super().__init__(Table(value=item_of(value)), "__getitem__", "__setitem__")

    @property
    def value(self) -> Any:
        """What it is: a copy."""
        return self._call("__getitem__", "value")

    @value.setter
    def value(self, new: object) -> None:
        self._call("__setitem__", "value", Sent(new))

    def get(self) -> Any:
        """Return what it is."""
        return self.value

    def set(self, value: object) -> None:
        """Have it be another."""
        self.value = value

    def __repr__(self) -> str:
        return f"<Value {self.value!r}>"


for _name in _DICT:
    if _name not in vars(Dict):
        setattr(Dict, _name, _method(_name))
for _name in _LIST:
    if _name not in vars(List):
        setattr(List, _name, _method(_name))


class Makers:
    """Makes what tasks share; see `Manager`."""

    dict = Dict
    list = List
    Namespace = Namespace
    Queue = JoinableQueue = Queue
    Lock = Lock
    RLock = RLock
    Semaphore = Semaphore
    BoundedSemaphore = BoundedSemaphore
    Event = Event
    Condition = Condition
    Barrier = Barrier
    Value = Value
    Array = Array

    def start(self) -> None:
        """Do nothing: it is for programs that used `multiprocessing.Manager`."""

    def shutdown(self) -> None:
        """Do nothing: what was made ends when nobody has it any more."""

    def __enter__(self) -> Makers:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


def Manager() -> Makers:  # noqa: N802 - as multiprocessing has it
    """Return what makes dictionaries, lists and other things that tasks share.

    Used like `multiprocessing.Manager`, but without a process of its own: what is made lives in
    the process that makes it. Items are copies: to change one, put it in again. That process has
    their pickles only, and loads what has to be compared: keys, and items that are looked for or
    sorted. What is called for that, such as the key of a sort, cannot wait for something shared.

    Returns
    -------
    Makers
        It has `dict`, `list`, `Namespace`, and all that flowpar has by itself: `Queue`, `Lock`,
        `RLock`, `Semaphore`, `BoundedSemaphore`, `Event`, `Condition`, `Barrier` and `Array`. Its
        `Value` is one of anything, without a lock, whose typecode means nothing.

    Examples
    --------
    >>> import flowpar
    >>> @flowpar.delayed
    ... def note(found, name):
    ...     found[name] = len(name)
    >>> with flowpar.Manager() as manager:
    ...     found = manager.dict()
    ...     _ = flowpar.compute([note(found, n) for n in ("a", "bb")], scheduler="processes")
    ...     sorted(found.items())
    [('a', 1), ('bb', 2)]
    """
    return Makers()
