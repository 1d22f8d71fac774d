"""A batch as bytes: functions apart from the rest, so that a worker gets each function once."""

from __future__ import annotations

import itertools
import pickle
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from flowpar.pickling import Keepers, dump, kept_until_loaded
from flowpar.pools.items import Items
from flowpar.pools.transport import Batch

MOST_FUNCTIONS: Final = 512
MOST_FUNCTION_BYTES: Final = 1 << 26
"""How much is kept on either side before everything is forgotten."""

_keys = itertools.count(1)


@dataclass(frozen=True, slots=True)
class PackedFunction:
    """A function as its pickle."""

    key: int
    """Names these bytes within this process; never used twice."""
    data: bytes
    keepers: Keepers
    """What these bytes name."""
    size_bytes: int
    """Of these bytes, and of what they name: who has loaded them has mapped that."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A batch as bytes."""

    functions: tuple[PackedFunction, ...]
    """Those that the body names by key."""
    body: bytes
    """All the rest."""
    keepers: Keepers
    """What that names."""


@dataclass(slots=True)
class _Known:
    """A function that was packed before."""

    function: Callable[[], Callable[..., object] | None]
    """Gives it as long as it lives: it may hold much."""
    packed: PackedFunction
    is_fresh: bool


class Packer:
    """Makes parcels, and remembers functions; any thread may use it.

    Two threads that pack the same function at the same time may give it two keys, which costs a
    few bytes; each step on the dictionary is atomic.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        self._size_bytes = 0

    def pack(self, batch: Batch) -> Parcel:
        """Return the batch as bytes; the parcel is to be kept until it was opened.

        Functions under a number of zero or less travel in the body: they will not come again.

        Raises
        ------
        BaseException
            Whatever the pickling of a function or an argument raises.
        """
        packed = {
            number: self._function(number, function)
            for number, function in batch.functions.items()
            if number > 0
        }
        body = (
            # First: functions are what the faster pickler refuses, before it comes to large data.
            {number: batch.functions[number] for number in batch.functions if number <= 0},
            {number: function.key for number, function in packed.items()},
            *_packed_calls(batch),
            batch.inputs,
            batch.stop_on_error,
            batch.seeds,
            batch.readers,
            batch.capture,
            batch.keeper,
        )
        with kept_until_loaded() as keepers:
            return Parcel(tuple(packed.values()), dump(body), keepers)

    def renew(self) -> None:
        """Look at every function anew before it is sent again.

        A function of ``__main__`` travels with the globals and captured variables that it had when
        it was pickled; these may have changed between two runs.
        """
        for known in list(self._known.values()):
            known.is_fresh = False

    def renew_one(self, number: int) -> None:
        """Look at one function anew before it is sent again."""
        known = self._known.get(number)
        if known is not None:
            known.is_fresh = False

    def forget(self, number: int) -> None:
        """Keep a function no more."""
        known = self._known.pop(number, None)
        if known is not None:
            self._size_bytes -= len(known.packed.data)

    def _function(self, number: int, function: Callable[..., object]) -> PackedFunction:
        known = self._known.get(number)
        is_known = known is not None and known.function() is function
        if known is not None and is_known and known.is_fresh:
            return known.packed
        with kept_until_loaded() as keepers:
            data = dump(function)
        if known is not None and is_known and known.packed.data == data:
            known.is_fresh = True
            return known.packed
        size_bytes = len(data) + sum(size for _, size in keepers.values())
        packed = PackedFunction(next(_keys), data, keepers, size_bytes)
        self._remember(number, _Known(self._weakly(number, function), packed, is_fresh=True))
        return packed

    def _weakly(
        self, number: int, function: Callable[..., object]
    ) -> Callable[[], Callable[..., object] | None]:
        def forget(reference: object) -> None:
            known = self._known.get(number)
            if known is not None and known.function is reference:
                self._known.pop(number, None)

        try:
            return weakref.ref(function, forget)
        except TypeError:  # an object of a class with slots
            return lambda: function

    def _remember(self, number: int, known: _Known) -> None:
        self._size_bytes += known.packed.size_bytes
        if len(self._known) >= MOST_FUNCTIONS or self._size_bytes > MOST_FUNCTION_BYTES:
            self._known = {}
            self._size_bytes = known.packed.size_bytes
        self._known[number] = known


class Shelf:
    """The functions that a worker was sent, loaded when first needed."""

    def __init__(self) -> None:
        self.adopt: Callable[[object], object] = id
        """Given each function that was loaded."""
        self.load: Callable[[bytes | bytearray], Any] = pickle.loads  # noqa: S301 - made by the parent
        """Loads a function."""
        self._packed: dict[int, bytes | bytearray] = {}
        self._loaded: dict[int, Callable[..., object]] = {}

    def put(self, key: int, data: bytes | bytearray) -> None:
        """Keep a function for later."""
        self._packed[key] = data

    def clear(self) -> None:
        """Forget all functions."""
        self._packed.clear()
        self._loaded.clear()

    def open(self, body: bytes | bytearray) -> Batch:
        """Return the batch that a body describes.

        Raises
        ------
        BaseException
            Whatever the loading of a function or an argument raises.
        """
        inline, keys, calls, wanted, inputs, *rest = pickle.loads(body)  # noqa: S301 - made by the parent
        functions: dict[int, Callable[..., object]] = dict(inline)
        for number, key in keys.items():
            functions[number] = self._load(key)
        stop_on_error, seeds, readers, capture, keeper = rest
        if wanted is None:
            calls = Items(*calls)
            wanted = range(len(calls))
        return Batch(
            calls,
            functions,
            inputs,
            wanted,
            stop_on_error=stop_on_error,
            seeds=seeds,
            readers=readers,
            capture=capture,
            keeper=keeper,
        )

    def _load(self, key: int) -> Callable[..., object]:
        function = self._loaded.get(key)
        if function is None:
            function = self._loaded[key] = self.load(self._packed[key])
            del self._packed[key]
            self.adopt(function)
        return function


def _packed_calls(batch: Batch) -> tuple[object, object]:
    """Return the calls and which of them are wanted; `Items`, which all are, as plain data.

    What is plain is pickled three times as fast.
    """
    calls: object = batch.calls
    return (calls.parts(), None) if isinstance(calls, Items) else (calls, batch.wanted)


def one_call(
    function: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
) -> Batch:
    """Return a batch of a single call, under index 0, of a function without a number.

    Examples
    --------
    >>> one_call(divmod, (7, 2), None).calls
    [(0, 0, 0, (7, 2), None)]
    """
    return Batch([(0, 0, 0, args, kwargs or None)], {0: function}, {}, frozenset({0}))
