"""What travels between the scheduler and a pool, and how it is pickled.

A `Batch` goes out, a `Report` comes back. Both may be handed over as they are, to a thread, or
pickled: then functions, arguments and results each travel in a way that one bad object cannot
spoil the rest, and an exception arrives with its type, its notes, its causes and the lines of the
user's code that it passed.
"""

from __future__ import annotations

import functools
import pickle
import sys
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from flowpar.caching.keeping import Keeper, Kept, Small
from flowpar.caching.objects import Stored
from flowpar.errors import NotPicklable
from flowpar.pickling import MAIN, Keepers, dump, dumps, kept_until_loaded
from flowpar.pools.depot import SHARED_FROM, Borrowed, Deposit, Depot, Held
from flowpar.pools.failures import pack_error, text_of, unpack_error
from flowpar.task import ALL_REFS, LITERAL, Call, Ref, Template

PLAIN: Final = frozenset({int, float, str, bytes, bool, type(None), complex})
"""Types whose values pickle for certain, and load without running anybody's code."""

TINY_TYPES: Final = PLAIN - {str, bytes}
"""Those of them whose values are small, but for integers of thousands of digits."""


@dataclass(slots=True)
class Batch:
    """Calls that one worker makes one after another. Values of earlier calls feed later ones."""

    calls: list[Call]
    """In an order in which each comes after those whose values it takes."""
    functions: dict[int, Callable[..., object]]
    """By number; every number in `calls`."""
    inputs: dict[int, object]
    """Values from outside the batch, by index."""
    wanted: Collection[int]
    """Calls whose values are needed outside the batch."""
    timeout: float | None = None
    """Seconds that the batch, then of one call, may run."""
    memory: float | None = None
    """Bytes that the batch, then of one call, may come to hold; for processes alone."""
    stop_on_error: bool = False
    """Whether a failure leaves the calls after it unstarted."""
    seeds: dict[int, int] | None = None
    """Seed of the random generators for each call, by index."""
    lent: frozenset[int] = frozenset()
    """Those of the wanted whose values others take, in this process too."""
    readers: frozenset[int] = frozenset()
    """Functions, by number, that only read what they get, and return a part of it."""
    patience: float | None = None
    """Seconds after which no further call is begun here, and the rest is given back."""
    capture: str | None = None
    """Whose output is captured: "all", or that of calls that have "failed"."""
    keeper: Keeper | None = None
    """Digests the values, and writes those that are to be kept; None: the run has no cache."""
    room: int = 2
    """How many batches may be at a worker when this one is sent there: one runs, others wait."""
    keepers: Keepers = field(default_factory=dict)
    """What the pickles that were made of it name; it stays here."""

    def __reduce__(self) -> tuple[object, ...]:
        return load_batch, (dump_batch(self),)


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that raised."""

    error: BaseException


@dataclass(slots=True)
class Report:
    """How the calls of a batch ended.

    A call that is in none of `failed`, `expanded` and `unstarted` succeeded; its value is in
    `values` if it was wanted.
    """

    values: dict[int, object]
    """By index."""
    failed: dict[int, Failure]
    """By index."""
    expanded: dict[int, object]
    """What a call returned that is, or holds, delayed values, by index."""
    unstarted: list[int]
    """Calls that were not made: what they need failed, was expanded, or stopped the batch."""
    start: float
    """When the batch started, on `time.perf_counter`, which all processes of a machine share."""
    ends: list[float]
    """When each call that was made ended, in the order of the calls, on the same clock."""
    cpu_seconds: dict[int, float]
    """CPU time of the calls that took more than 0.1 ms, by index."""
    worker: str
    """Which thread or process."""
    kept: dict[int, Kept] = field(default_factory=dict)
    """What the cache is told of values, by index."""
    damaged: list[int] = field(default_factory=list)
    """Inputs that were kept and cannot be read any more, by index."""
    delayed_seconds: dict[int, float] = field(default_factory=dict)
    """For how long the calls that took more than 1 ms had no CPU though they wanted one."""
    output: dict[int, str] = field(default_factory=dict)
    """What calls printed and logged, by index, where that is captured."""
    row: list[object] | None = None
    """The values of calls of one function, in their order, if all gave one; then `values` is
    empty."""
    shown: dict[int, str] = field(default_factory=dict)
    """What failed calls were, by index, where only the worker knows what they were given."""

    def __reduce__(self) -> tuple[object, ...]:
        return load_report, (dump_report(self),)


@dataclass(frozen=True, slots=True)
class Packed:
    """A value as its pickle: made where the value was, loaded only where it is needed."""

    data: bytes

    def load(self) -> object:
        """Return a new copy of the value."""
        return pickle.loads(self.data)  # noqa: S301 - made by our own worker


KEPT: Final = frozenset({Small, Stored})
"""What stands for a value that the cache has; one that cannot be loaded can be made again."""

SEALED: Final = KEPT | {Packed, Held, Borrowed, Deposit}
"""What stands for a value until somebody loads it."""


# ---------------------------------------------------------------------------------- dumping


@functools.lru_cache(maxsize=1024)
def prepare_module(name: str) -> None:
    """Let what a module defines travel by value if a worker would not find it by its name.

    Such are modules that were loaded from a path, as test runners and plugin systems do.
    """
    import cloudpickle  # noqa: PLC0415 - as above

    module = sys.modules.get(name)
    if name in MAIN or getattr(module, "__file__", None) is None:
        return
    top = name.partition(".")[0]
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
    if not any(finder.find_spec(top, None) for finder in finders):
        cloudpickle.register_pickle_by_value(module)


def pack(value: object, depot: Depot | None = None, mark: int = 0) -> object:
    """Return what travels in place of a value: itself if it is plain, else its pickle.

    Parameters
    ----------
    value
        Anything.
    depot
        Where it is put, and its place travels, if it is large; None: it travels anyhow.
    mark
        What the depot is to find it by, should the message be lost.

    Raises
    ------
    Exception
        Whatever the value's own pickling raises.
    """
    kind = type(value)
    if kind in SEALED:
        return value
    if kind in PLAIN and (depot is None or sys.getsizeof(value) < SHARED_FROM):
        return value
    if depot is None:
        return Packed(dump(value))
    put = depot.put(value, mark)
    return put if isinstance(put, Deposit) else Packed(put)


def dump_batch(batch: Batch) -> bytes:
    """Return the pickle of a whole batch, functions included.

    Raises
    ------
    NotPicklable
        Naming the first function or argument that cannot be pickled.
    """
    try:
        with kept_until_loaded() as keepers:
            data = dumps(_plain_batch(batch))
    except BaseException as error:
        raise not_picklable(batch, error) from error
    batch.keepers.update(keepers)
    return data


def _plain_batch(batch: Batch) -> tuple[object, ...]:
    return (
        batch.calls,
        batch.functions,
        batch.inputs,
        batch.wanted,
        batch.timeout,
        batch.memory,
        batch.stop_on_error,
        batch.seeds,
        batch.lent,
        batch.readers,
        batch.patience,
        batch.capture,
        batch.keeper,
    )


def load_batch(data: bytes) -> Batch:
    """Return the batch that `dump_batch` pickled."""
    return Batch(*pickle.loads(data))  # noqa: S301 - made by the parent


def not_picklable(batch: Batch, error: BaseException) -> BaseException:
    """Return the error that names what in a batch cannot be pickled.

    An interrupt is returned as it is.
    """
    if isinstance(error, KeyboardInterrupt):
        return error
    for number, function in batch.functions.items():
        if not _pickles(function):
            path = find_culprit(function, "function")
            return _refusal(path, function, error, f"the function (number {number})")
    for call in batch.calls:
        for path, argument in _arguments(call):
            if not _pickles(argument):
                return _refusal(find_culprit(argument, path), argument, error, f"argument {path}")
    for value in batch.inputs.values():
        if not _pickles(value):
            path = find_culprit(value, "input")
            return _refusal(path, value, error, "the value of a dependency")
    return _refusal("batch", batch, error, "the batch")


_OURS: Final = {
    "_thread.lock": "Lock()",
    "_thread.RLock": "RLock()",
    "threading._RLock": "RLock()",
    "threading.Condition": "Condition()",
    "threading.Semaphore": "Semaphore()",
    "threading.BoundedSemaphore": "BoundedSemaphore()",
    "threading.Event": "Event()",
    "threading.Barrier": "Barrier()",
    "queue.Queue": "Queue()",
    "_queue.SimpleQueue": "Queue()",
    "multiprocessing.synchronize.Lock": "Lock()",
    "multiprocessing.synchronize.RLock": "RLock()",
    "multiprocessing.synchronize.Condition": "Condition()",
    "multiprocessing.synchronize.Semaphore": "Semaphore()",
    "multiprocessing.synchronize.BoundedSemaphore": "BoundedSemaphore()",
    "multiprocessing.synchronize.Event": "Event()",
    "multiprocessing.synchronize.Barrier": "Barrier()",
    "multiprocessing.queues.Queue": "Queue()",
    "multiprocessing.queues.JoinableQueue": "Queue()",
    "multiprocessing.queues.SimpleQueue": "Queue()",
    "multiprocessing.sharedctypes.Synchronized": "Value()",
    "multiprocessing.sharedctypes.SynchronizedArray": "Array()",
    "multiprocessing.sharedctypes.SynchronizedString": "Array()",
}
"""By class, what of flowpar's stands in for what cannot travel."""


def _ours(value: object) -> str | None:
    for base in type(value).__mro__:
        found = _OURS.get(f"{base.__module__}.{base.__qualname__}")
        if found is not None:
            return found
    return None


def _refusal(path: str, value: object, error: BaseException, what: str) -> NotPicklable:
    kind = type(value).__name__
    ours = _ours(_innermost(value, "")[1])
    cure = "Make it inside the task, pass something that it can be made from"
    if ours is not None:
        cure = f"To share it, pass a flowpar.{ours} instead"
    return NotPicklable(
        f"{what} cannot be sent to another process: {path} ({kind}): "
        f"{type(error).__name__}: {text_of(error)}. {cure}, "
        'or use pool="threads" for this function',
        path=path,
    )


def _arguments(call: Call) -> Iterator[tuple[str, object]]:
    _, _, _, args, kwargs = call
    for position, argument in enumerate(args):
        yield f"args[{position}]", argument
    for name, argument in (kwargs or {}).items():
        yield f"kwargs[{name!r}]", argument


def _pickles(value: object) -> bool:
    try:
        with kept_until_loaded():  # for as long as it takes
            dumps(value)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - anything that pickling raises means no
        return False
    return True


def find_culprit(value: object, path: str, *, depth: int = 12) -> str:
    """Return the path to the innermost part of a value that cannot be pickled.

    Parameters
    ----------
    value
        Something that cannot be pickled.
    path
        Where it is, such as ``args[0]``.
    depth
        How many levels to look into.

    Examples
    --------
    >>> import threading
    >>> find_culprit({"a": [1, threading.Lock()]}, "args[0]")
    "args[0]['a'][1]"
    """
    return _innermost(value, path, depth)[0]


def _innermost(value: object, path: str, depth: int = 12) -> tuple[str, object]:
    """Return that path, and what is there; what we have a stand-in for is not looked into."""
    parts = list(_parts(value)) if depth and _ours(value) is None else []
    # By halves: of a million parts twenty groups are pickled, and not each by itself.
    while len(parts) > 1:
        half = len(parts) // 2
        first = parts[:half]
        parts = parts[half:] if _pickles([part for _, part in first]) else first
    if parts and not _pickles(parts[0][1]):
        name, part = parts[0]
        return _innermost(part, path + name, depth - 1)
    return path, value


def _parts(value: object) -> Iterator[tuple[str, object]]:  # noqa: C901 - one branch a kind
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{number}]", part) for number, part in enumerate(value))
    elif isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=False)
        for name, cell in cells:
            try:
                yield f" (captured variable {name})", cell.cell_contents
            except ValueError:  # not bound yet
                continue
        for name in value.__code__.co_names:
            if name in value.__globals__ and value.__module__ in MAIN:
                yield f" (global {name})", value.__globals__[name]
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, Template):
        yield from ((f"[{number}]", part) for number, part in enumerate(value.parts))
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        yield from ((f".{name}", part) for name, part in vars(value).items())


# ---------------------------------------------------------------------------------- reports


def dump_report(report: Report, depot: Depot | None = None, mark: int = 0) -> bytes:
    """Return the pickle of a report; a value that does not pickle becomes a failure of its call.

    Large values are put into the depot, if there is one, under the mark.
    """
    values: dict[int, object] = {}
    failed: dict[int, object] = {}
    expanded: dict[int, object] = {}
    for index, kept in report.kept.items():
        if kept.stored is not None and index in report.values:
            # What lies in a file travels as its name, and is not pickled again.
            report.values[index] = kept.stored
    row = report.row
    if row is not None and not TINY_TYPES.issuperset(map(type, row)):
        report.values, row = dict(enumerate(row)), None
    for source, target in ((report.values, values), (report.expanded, expanded)):
        for index, value in source.items():
            try:
                target[index] = pack(value, depot, mark)
            except BaseException as error:  # noqa: BLE001 - pickling runs the user's code
                failed[index] = pack_error(_unsendable_result(value, error))
    for index, failure in report.failed.items():
        failed[index] = pack_error(failure.error)
    return pickle.dumps(
        (
            values,
            failed,
            expanded,
            report.unstarted,
            report.start,
            report.ends,
            report.cpu_seconds,
            report.worker,
            report.kept,
            report.damaged,
            report.delayed_seconds,
            report.output,
            row,
            report.shown,
        ),
        protocol=5,
    )


def load_report(data: bytes) -> Report:
    """Return the report that `dump_report` pickled; its larger values stay packed."""
    values, failed, expanded, *rest = pickle.loads(data)  # noqa: S301 - made by our own worker
    failures = {index: Failure(unpack_error(packed)) for index, packed in failed.items()}
    return Report(values, failures, expanded, *rest)


def discard_report(data: bytes | bytearray) -> None:
    """Let go of what a report that nobody waits for has left in files."""
    pickle.loads(data)  # noqa: S301 - made by our own worker; nothing of the user's is loaded


def _unsendable_result(value: object, error: BaseException) -> NotPicklable:
    path = find_culprit(value, "result")
    return NotPicklable(
        f"the result cannot be sent back from its process: {path} ({type(value).__name__}): "
        f"{type(error).__name__}: {text_of(error)}. Return something that pickles, or use "
        'pool="threads" for this function',
        path=path,
    )


def references(call: Call) -> Iterator[int]:
    """Yield the index of every value that a call takes."""
    _, _, kind, args, kwargs = call
    if kind == ALL_REFS:
        yield from args
    elif kind != LITERAL:
        for argument in (*args, *(kwargs or {}).values()):
            if type(argument) is Ref:
                yield argument.index
            elif type(argument) is Template:
                yield from argument.refs()
