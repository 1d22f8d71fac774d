"""`Value` and `Array`: C types in shared memory that all tasks see, with a lock."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from flowpar.common.cstructs import Form, form_of, type_of
from flowpar.common.locks import RLock
from flowpar.common.mapping import Source, make, region_at
from flowpar.pickling import refuse_to_be_kept


class _Cell:
    """A C object in shared memory, and the lock that belongs to it."""

    def __init__(self, kind: Any, lock: object) -> None:
        size = max(ctypes.sizeof(kind), 1)
        self._hold(kind, make([bytes(size)], size, is_writable=True), _lock_of(lock))

    def _hold(self, kind: Any, memory: Any, lock: Any) -> None:
        # Made of the mapped bytes, which it keeps alive.
        self._object = kind.from_buffer(memory)
        self._memory = memory
        self._lock = lock

    def get_obj(self) -> Any:
        """Return the object of `ctypes` itself; to use it does not lock it."""
        return self._object

    @property
    def get_lock(self) -> Callable[[], Any]:
        """Returns the lock, which is an `RLock` unless another was given.

        Raises
        ------
        AttributeError
            If it was made without; then there is no such method.
        """
        lock = self._lock
        if lock is None:
            raise AttributeError(f"this {type(self).__name__} was made with lock=False")
        return lambda: lock

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Lock it; see `Lock.acquire`."""
        return bool(self.get_lock().acquire(block, timeout))

    def release(self) -> None:
        """Unlock it."""
        self.get_lock().release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def _locked(self, work: Callable[..., Any], *args: Any) -> Any:
        if self._lock is None:
            return work(*args)
        with self._lock:
            return work(*args)

    def __flowpar_digest__(self) -> object:
        raise TypeError("what it holds changes while tasks run")

    def __reduce__(self) -> tuple[object, ...]:
        refuse_to_be_kept(type(self).__name__)
        region = region_at(ctypes.addressof(self._memory), 1)
        source = region and region.reference()
        if source is None:
            raise TypeError(f"this {type(self).__name__} is gone: the process that made it let go")
        return _revive, (type(self), source, form_of(type(self._object)), self._lock)


def _revive(kind: Any, source: Source, form: Form, lock: object) -> object:
    found = kind.__new__(kind)
    found._hold(type_of(form), source.map(), lock)
    return found


def _lock_of(lock: object) -> object:
    if lock is True or lock is None:
        return RLock()
    if lock is False:
        return None
    if not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    return lock


def _type_of(given: Any) -> Any:
    """Return the C type that a letter stands for, or that was given."""
    if not isinstance(given, str):
        return given
    # Slow to import, and a worker, which gets what was made, does without.
    from multiprocessing import sharedctypes  # noqa: PLC0415

    known = sharedctypes.typecode_to_type  # type: ignore[attr-defined]
    if given not in known:
        raise ValueError(f"{given!r} is none of the letters {' '.join(known)}")
    return known[given]


class Value(_Cell):
    """A number or structure of C in shared memory, which all tasks that get it read and write.

    Used like `multiprocessing.Value`. Single reads and writes of `value` are locked; what reads
    and then writes, such as ``+=``, needs ``with value.get_lock():``, or ``with value:``.

    Parameters
    ----------
    typecode_or_type
        A letter as of the module `array`, or a type of `ctypes`.
    *args
        For that type; without any it is zero.
    lock
        True: an `RLock` of its own; False: none; or a lock to be used.

    Examples
    --------
    >>> import flowpar
    >>> @flowpar.delayed
    ... def add(total, amount):
    ...     with total.get_lock():
    ...         total.value += amount
    >>> total = flowpar.Value("d", 0.5)
    >>> _ = flowpar.compute([add(total, n) for n in range(5)], scheduler="processes")
    >>> total.value
    10.5
    """

    def __init__(self, typecode_or_type: Any, *args: Any, lock: object = True) -> None:
        kind = _type_of(typecode_or_type)
        first = kind(*args)
        super().__init__(kind, lock)
        ctypes.memmove(ctypes.addressof(self._object), ctypes.addressof(first), ctypes.sizeof(kind))

    @property
    def value(self) -> Any:
        """What it is."""
        return self._locked(getattr, self._object, "value")

    @value.setter
    def value(self, new: Any) -> None:
        self._locked(setattr, self._object, "value", new)

    def __getitem__(self, place: Any) -> Any:
        return self._locked(operator.getitem, self._object, place)

    def __setitem__(self, place: Any, new: Any) -> None:
        self._locked(operator.setitem, self._object, place, new)

    def __getattr__(self, name: str) -> Any:
        if name == "get_lock":  # which has said so, and is asked for in this way then
            raise AttributeError(f"this {type(self).__name__} was made with lock=False")
        if name.startswith("_") or name not in _fields(self._object):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self._locked(getattr, self._object, name)

    def __setattr__(self, name: str, new: Any) -> None:
        if not name.startswith("_") and name in _fields(self._object):
            self._locked(setattr, self._object, name, new)
        else:
            super().__setattr__(name, new)

    def __repr__(self) -> str:
        return f"<Value {self._object!r}>"


def _fields(thing: object) -> list[str]:
    classes = type(thing).__mro__
    return [field[0] for each in classes for field in vars(each).get("_fields_", ())]


class Array(_Cell):
    """An array of C in shared memory, which all tasks that get it read and write.

    Used like `multiprocessing.Array`. Reads and writes of items and slices are locked.

    Parameters
    ----------
    typecode_or_type
        A letter as of the module `array`, or a type of `ctypes`.
    size_or_initializer
        How many items, all zero; or the items.
    lock
        True: an `RLock` of its own; False: none; or a lock to be used.

    Examples
    --------
    >>> import flowpar
    >>> @flowpar.delayed
    ... def square(numbers, place):
    ...     numbers[place] **= 2
    >>> numbers = flowpar.Array("i", [1, 2, 3])
    >>> _ = flowpar.compute([square(numbers, place) for place in range(3)], scheduler="processes")
    >>> numbers[:]
    [1, 4, 9]
    """

    def __init__(
        self, typecode_or_type: Any, size_or_initializer: Any, *, lock: object = True
    ) -> None:
        item = _type_of(typecode_or_type)
        items: Any = ()
        try:
            length = operator.index(size_or_initializer)
        except TypeError:
            items = list(size_or_initializer)
            length = len(items)
        first = (item * length)(*items)
        super().__init__(item * length, lock)
        ctypes.memmove(
            ctypes.addressof(self._object), ctypes.addressof(first), ctypes.sizeof(first)
        )

    def __len__(self) -> int:
        return len(self._object)

    def __getitem__(self, place: Any) -> Any:
        return self._locked(operator.getitem, self._object, place)

    def __setitem__(self, place: Any, new: Any) -> None:
        self._locked(operator.setitem, self._object, place, new)

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:])

    @property
    def value(self) -> Any:
        """Of an array of characters, the bytes before the first zero."""
        return self._locked(getattr, self._object, "value")

    @value.setter
    def value(self, new: Any) -> None:
        self._locked(setattr, self._object, "value", new)

    @property
    def raw(self) -> Any:
        """Of an array of characters, all bytes."""
        return self._locked(getattr, self._object, "raw")

    @raw.setter
    def raw(self, new: Any) -> None:
        self._locked(setattr, self._object, "raw", new)

    def __buffer__(self, flags: int) -> memoryview:
        """See PEP 688; before Python 3.12, `get_obj` has the buffer."""
        if self._lock is not None:
            raise TypeError("an Array that has a lock shows its memory by get_obj() only")
        return memoryview(self._object)

    def __repr__(self) -> str:
        return f"<Array {self[:]!r}>"
