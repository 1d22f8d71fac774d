"""Runs the calls of a batch: the only code of flowpar that a worker needs."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import random
import sys
import threading
import time
from collections.abc import Mapping, MutableSequence
from typing import Any

from flowpar.caching.keeping import Keeping
from flowpar.errors import NotPicklable, TaskError, TaskTimeout
from flowpar.pools.failures import text_of
from flowpar.pools.items import Frozen, Items, arguments_of, make_calls
from flowpar.pools.runqueue import delayed_seconds
from flowpar.pools.slate import POSITION, SENDING, SPAN, WANTED
from flowpar.pools.steps import Turn, turn
from flowpar.pools.transport import PLAIN, Batch, Failure, Report, references
from flowpar.pools.values import Isolation, NotComputed, Reading, Values
from flowpar.task import ALL_REFS, LITERAL, TASK_TYPES, Ref, Template, name_of

CPU_TIME_FROM = 1e-4
"""Seconds; the CPU clock of a thread costs 0.3 µs to read, so shorter calls are not asked."""

DELAY_FROM = 1e-3
"""Seconds; as that, but 1 µs."""

_inside = threading.local()


def is_inside_task() -> bool:
    """Return whether this thread is running a task."""
    return getattr(_inside, "depth", 0) > 0


def settle() -> None:
    """Have the permits that calls here have kept stay taken: the calls have ended."""
    signals = sys.modules.get("flowpar.common.signals")
    if signals is not None:
        signals.settle()


def execute(  # noqa: C901, PLR0912, PLR0915 - see its notes
    batch: Batch,
    mark: MutableSequence[int] | None = None,
    isolation: Isolation | None = None,
) -> Report:
    """Make the calls of a batch and report how each ended.

    Parameters
    ----------
    batch
        The calls, their functions and the values they start from.
    mark
        Item 0 is set to the position of each call before it is made, so that who survives this
        process knows which call ended it. If items 1 and 2 are there, and equal, the rest is given
        back.
    isolation
        Keeps what one call does to its arguments from the others; None: they share them, unless
        the cache is to keep what they return.

    Notes
    -----
    The loop is long because it runs once per task, and everything it does not do in a function
    of its own is a tenth of a microsecond saved: 0.6 µs a call with two refs, measured on
    CPython 3.11.
    """
    items: object = batch.calls
    if isinstance(items, Items):
        return _execute_items(batch, items, mark)
    functions, wanted, seeds, readers = batch.functions, batch.wanted, batch.seeds, batch.readers
    patience = batch.patience
    keeping = None if batch.keeper is None else Keeping(batch.keeper, functions)
    values = Values(batch.inputs)
    report = Report({}, {}, {}, [], 0.0, [], {}, worker_name())
    results, ends, cpu_seconds = report.values, report.ends, report.cpu_seconds
    reading = Reading(values)
    is_watched = mark is not None and len(mark) > 2  # noqa: PLR2004 - it is a slate's
    listening = None
    if batch.capture is not None:
        from flowpar.pools.capturing import Listening  # noqa: PLC0415 - brings logging; few do

        listening = Listening(batch.capture, report)
    if isolation is None and keeping is not None:
        isolation = Isolation(batch, None, 0)
    # In a process that never built a delayed value none can be returned; a call may be the first.
    task_types, loaded = TASK_TYPES, values.loaded
    clock, cpu_clock = time.perf_counter, time.thread_time
    # What a task runs itself in a process is none of the parent's.
    is_seen = is_watched and not getattr(_inside, "depth", 0)
    this_turn = Turn(batch, report, mark if is_seen else None)
    token = turn.set(this_turn)
    _inside.depth = getattr(_inside, "depth", 0) + 1
    last_cpu, last_delayed = cpu_clock(), delayed_seconds()
    report.start = last = clock()
    try:  # noqa: PLR1702
        for position, (index, number, kind, args, kwargs) in enumerate(batch.calls):
            if mark is not None:
                mark[0] = position
                if is_watched and position and mark[2] == mark[1]:
                    # Others have nothing to do.
                    report.unstarted.extend(call[0] for call in batch.calls[position:])
                    break
            if loaded:
                loaded.clear()
            if listening is not None:
                listening.begin()
            try:
                if kind == LITERAL:
                    taken: Any = args
                elif kind == ALL_REFS:
                    taken = [values[ref] for ref in args]
                else:
                    source = reading if number in readers else values
                    taken, kwargs = fill(args, kwargs, source)  # noqa: PLW2901
                if seeds is not None:
                    _seed(seeds[index])
                if keeping is not None:
                    keeping.begin()
                value = functions[number](*taken, **kwargs) if kwargs else functions[number](*taken)
                if keeping is not None and not (len(task_types) > 1 and _holds_task(value)):
                    # At once: the next call of the batch may write to it.
                    keeping.keep((index, number), value, last, (*taken, *(kwargs or {}).values()))
                sealed = None
                if (
                    isolation is not None
                    and type(value) not in PLAIN
                    and not (len(task_types) > 1 and _holds_task(value))
                ):
                    kept = None if keeping is None else keeping.kept.get(index)
                    sealed = isolation.seal(position, value, values, kept)
            except BaseException as error:
                if type(error) is NotComputed:
                    report.unstarted.append(index)
                    continue
                if isinstance(error, KeyboardInterrupt) and _is_for_us():
                    raise
                report.failed[index] = Failure(tame(error))
                if listening is not None:
                    listening.end(index)
                taken = value = None
                ends.append(now := clock())
                last = now
                if batch.stop_on_error:
                    report.unstarted.extend(call[0] for call in batch.calls[position + 1 :])
                    break
                continue
            ends.append(now := clock())
            if listening is not None:
                listening.end(index)
            if now - last > CPU_TIME_FROM:
                cpu = cpu_clock()
                cpu_seconds[index] = cpu - last_cpu
                last_cpu = cpu
                if now - last > DELAY_FROM:
                    delayed = delayed_seconds()
                    report.delayed_seconds[index] = delayed - last_delayed
                    last_delayed = delayed
            last = now
            if type(value) not in PLAIN and len(task_types) > 1 and _holds_task(value):
                report.expanded[index] = value
                continue
            if sealed is not None:
                values.sealed[index] = value = sealed
            else:
                values[index] = value
            if index in wanted:
                results[index] = value
            if patience is not None and now - report.start > patience:
                report.unstarted.extend(call[0] for call in batch.calls[position + 1 :])
                break
    finally:
        _inside.depth -= 1
        turn.reset(token)
        this_turn.end()
        report.damaged += values.damaged
        if listening is not None:
            listening.close()
        if keeping is not None:
            keeping.close()
            report.kept = keeping.kept
    if report.unstarted or report.failed:
        _keep_for_later(batch, values, report)
    return report


def _execute_items(batch: Batch, items: Items, mark: MutableSequence[int] | None) -> Report:
    """Do as `execute` for calls of one function that take nothing of one another."""
    report = Report({}, {}, {}, [], 0.0, [], {}, worker_name())
    is_watched = mark is not None and len(mark) > SPAN
    made: list[Any] = []

    def may_go_on(at: int, span: int) -> bool:
        if mark is None:
            return True
        mark[POSITION] = at
        if is_watched:
            mark[SPAN] = span
            return not at or mark[WANTED] != mark[SENDING]
        return True

    is_seen = is_watched and not getattr(_inside, "depth", 0)
    this_turn = Turn(batch, report, mark if is_seen else None, position=lambda: len(made))
    token = turn.set(this_turn)
    _inside.depth = getattr(_inside, "depth", 0) + 1
    function = batch.functions[items.number]
    report.start = time.perf_counter()
    try:
        while (error := make_calls(function, items, made, may_go_on)) is not None:
            if isinstance(error, KeyboardInterrupt) and _is_for_us():
                raise error
            report.failed[len(made)] = Failure(tame(error))
            if type(items.values[len(made)]) is Frozen:
                report.shown[len(made)] = _shown(function, items, len(made))
            made.append(None)
    finally:
        _inside.depth -= 1
        turn.reset(token)
        this_turn.end()
        if is_watched:
            mark[SPAN] = 1  # type: ignore[index]  # it is one
    report.ends.append(time.perf_counter())
    if len(made) == len(items) and not report.failed:
        report.row = made
    else:
        report.values = {i: value for i, value in enumerate(made) if i not in report.failed}
        report.unstarted.extend(range(len(made), len(items)))
    return report


def _shown(function: Any, items: Items, at: int) -> str:
    """Return a call as it would be written, with what it was given."""
    from flowpar.notes import describe_call  # noqa: PLC0415 - calls seldom fail

    name = name_of(function)
    try:
        args, kwargs = arguments_of(items.form, items.values[at].load())
    except NotPicklable:  # which is why it failed
        return f"{name}(...)"
    return describe_call(name, args, kwargs)


def _holds_task(value: object) -> bool:
    from flowpar.arguments import holds_task  # noqa: PLC0415 - most workers do without

    return holds_task(value)


def _keep_for_later(batch: Batch, values: Values, report: Report) -> None:
    """Report what calls need that are to be made again, elsewhere perhaps."""
    again = report.failed.keys() | set(report.unstarted)
    needed = {index for call in batch.calls if call[0] in again for index in references(call)}
    for index in needed - batch.inputs.keys():
        for known in (values, values.sealed):
            if index in known:
                report.values[index] = known[index]


def mark_thread_as_inside() -> None:
    """Take all that this thread does from now on as part of a task."""
    _inside.depth = 1


def _is_for_us() -> bool:
    """Return whether an interrupt came from the keyboard, and not from the task."""
    return not IN_PROCESS and threading.current_thread() is threading.main_thread()


def fill(
    args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, values: Mapping[int, object]
) -> tuple[list[Any], dict[str, Any] | None]:
    """Return positional and keyword arguments with values in place of refs."""
    filled = [_value(argument, values) for argument in args]
    if kwargs is None:
        return filled, None
    return filled, {name: _value(argument, values) for name, argument in kwargs.items()}


def _value(argument: object, values: Mapping[int, object]) -> object:
    kind = type(argument)
    if kind is Ref:
        return values[argument.index]  # type: ignore[attr-defined]
    if kind is Template:
        return argument.fill(values)  # type: ignore[attr-defined]
    return argument


def tame(error: BaseException, text: str | None = None) -> BaseException:
    """Return the error without our frame; a TaskError in its place if it would end who gets it."""
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
    if isinstance(error, Exception):
        return error
    name = type(error).__name__
    tamed = TaskError(
        text or f"the task raised {name}: {text_of(error)}",
        type_name=name,
        text=text_of(error),
        is_final=True,
    )
    tamed.__cause__ = error
    return tamed.with_traceback(error.__traceback__)


def worker_name() -> str:
    """Return what names this worker: the thread in the parent, the process elsewhere."""
    if IN_PROCESS:
        return f"process {os.getpid()}"
    return threading.current_thread().name


IN_PROCESS = False
"""Whether this process is one of flowpar's workers; set by it."""


def _seed(seed: int) -> None:
    random.seed(seed)
    numpy_random = _numpy_random()
    if numpy_random is not None:
        numpy_random.seed(seed % 2**32)


@functools.cache
def _numpy_random() -> Any:
    """Return numpy's generators if there are any: the task itself may be the first to use them."""
    if importlib.util.find_spec("numpy") is None:
        return None
    return importlib.import_module("numpy.random")


def timed_out(timeout: float, what: str) -> TaskTimeout:
    """Return the error of a task that ran too long."""
    return TaskTimeout(f"ran longer than its timeout of {timeout:g} s: {what}", timeout=timeout)
