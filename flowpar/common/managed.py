"""`Manager`: dictionaries, lists and namespaces that tasks share."""

from __future__ import annotations

import pickle
import types
from collections.abc import Iterator
from typing import Any, Final

from flowpar.common.locks import Lock, RLock
from flowpar.common.memory import Array, Value
from flowpar.common.queues import Queue
from flowpar.common.remote import Shared, serve
from flowpar.common.signals import Barrier, BoundedSemaphore, Condition, Event, Semaphore
from flowpar.common.things import Box
from flowpar.pickling import dump

_COMMON: Final = ("__contains__", "__delitem__", "__getitem__", "__len__", "__setitem__", "copy")
_DICT: Final = (
    *_COMMON,
    *("clear", "get", "pop", "popitem", "setdefault", "update"),
)
_LIST: Final = (
    *_COMMON,
    *("append", "clear", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"),
)


class _Object(Shared):
    """An object whose methods are called where it is; what comes back is a copy."""

    def __init__(self, content: object, methods: frozenset[str]) -> None:
        self._remote = serve(Box(content, methods, dump))

    def _call(self, method: str, *args: object, **kwargs: object) -> Any:
        data = self._ask("call", method, dump((args, kwargs)))
        return pickle.loads(data)  # noqa: S301 - from a process of ours


def _method(name: str) -> Any:
    def call(self: _Object, /, *args: object, **kwargs: object) -> Any:
        return self._call(name, *args, **kwargs)

    call.__name__ = name
    call.__doc__ = f"As of what it stands for: `{name}`."
    return call


class Dict(_Object):
    """A dictionary that tasks share; see `Manager`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(_taken(dict(*args, **kwargs)), frozenset(_DICT))

    def keys(self) -> list[Any]:
        """Return the keys, as they are now."""
        return list(self._call("copy"))

    def values(self) -> list[Any]:
        """Return the values, as they are now."""
        return list(self._call("copy").values())

    def items(self) -> list[tuple[Any, Any]]:
        """Return keys and values, as they are now."""
        return list(self._call("copy").items())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __repr__(self) -> str:
        return f"<Dict {self._call('copy')!r}>"


class List(_Object):
    """A list that tasks share; see `Manager`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(_taken(list(*args)), frozenset(_LIST))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._call("copy"))

    def __iadd__(self, other: Any) -> List:
        self._call("extend", list(other))
        return self

    def __repr__(self) -> str:
        return f"<List {self._call('copy')!r}>"


class Namespace(_Object):
    """Attributes that tasks share; see `Manager`."""

    def __init__(self, **attributes: object) -> None:
        methods = frozenset({"__getattribute__", "__setattr__", "__delattr__"})
        super().__init__(_taken(types.SimpleNamespace(**attributes)), methods)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._call("__getattribute__", name)

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self._call("__setattr__", name, value)

    def __delattr__(self, name: str) -> None:
        self._call("__delattr__", name)


for _name in _DICT:
    setattr(Dict, _name, _method(_name))
for _name in _LIST:
    setattr(List, _name, _method(_name))


def _taken(content: Any) -> Any:
    """Return a copy, as what is put in later is one too."""
    return pickle.loads(dump(content))  # noqa: S301 - just made


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
    the process that makes it. Items are copies: to change one, put it in again.

    Returns
    -------
    Makers
        It has `dict`, `list`, `Namespace`, and all that flowpar has by itself: `Queue`, `Lock`,
        `RLock`, `Semaphore`, `BoundedSemaphore`, `Event`, `Condition`, `Barrier`, `Value` and
        `Array`.

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
