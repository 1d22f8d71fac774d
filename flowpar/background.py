"""Runs targets in the background: for a future, for ``await``, or value by value."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any, cast

from flowpar.errors import OptionError, TaskError
from flowpar.graph import Graph
from flowpar.running import as_task, scheduler_for, scheduler_of
from flowpar.scheduler import Scheduler
from flowpar.settings import resolve
from flowpar.task import Task


def submit(*targets: Any, **options: Any) -> Future[Any]:
    """Start a run in the background and return a future of what `compute` would return.

    Parameters
    ----------
    *targets, **options
        As for `compute`.

    Returns
    -------
    concurrent.futures.Future
        Cancelling it ends the run; its ``result()`` raises what `compute` would raise.

    Examples
    --------
    >>> import flowpar
    >>> flowpar.delayed(abs)(-1).submit(scheduler="threads").result(timeout=60)
    1
    """
    if not targets:
        raise OptionError("submit takes at least one target")
    scheduler = scheduler_for(targets, resolve(options))
    future = _RunFuture(scheduler)
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=lambda: context.run(future.settle), name="flowpar-run", daemon=True
    )
    future.set_running_or_notify_cancel()
    thread.start()
    return future


class _RunFuture(Future[Any]):
    """A future whose cancelling ends the run behind it."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._end = threading.Lock()

    def cancel(self) -> bool:
        """End the run; return False if it has ended already."""
        if not self._end.acquire(blocking=False):
            return self.cancelled()
        self._scheduler.cancel()
        with self._condition:
            # Only a future that nobody has begun may be cancelled; this one's run is at an end.
            self._state = "PENDING"
        super().cancel()
        self.set_running_or_notify_cancel()
        return True

    def settle(self) -> None:
        """Run, and tell the value or the error, unless the future was cancelled before."""
        value, error = None, None
        try:
            value = self._scheduler.run().value
        except BaseException as raised:  # noqa: BLE001 - handed to who waits for the future
            error = raised
        if not self._end.acquire(blocking=False):
            return
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(value)


async def value_of(target: Task) -> Any:
    """Run what a target needs, in the background, and return its value: what ``await`` does."""
    future = submit(target)
    future.add_done_callback(_tame_stop)
    return await asyncio.wrap_future(future)


def _tame_stop(future: Future[Any]) -> None:
    """Replace a StopIteration, which no coroutine and no generator can raise."""
    if not future.cancelled() and isinstance(future.exception(), _STOPS):
        future._exception = _tamed(future.exception())


def _tamed(error: BaseException | None) -> BaseException | None:
    if not isinstance(error, _STOPS):
        return error
    tamed = TaskError(f"the task raised {type(error).__name__}: {error}", is_final=True)
    tamed.__cause__ = error
    return tamed


_END = object()
_STOPS = (StopIteration, StopAsyncIteration)


def as_completed(targets: Iterable[Any], **options: Any) -> Iterator[Any]:
    """Yield the values of the targets as they finish.

    Parameters
    ----------
    targets
        Delayed values, or containers of them; any number.
    **options
        As for `compute`.

    Yields
    ------
    object
        The value of one target after another, the quickest first; each once, let go of when it
        was handed over.

    Raises
    ------
    Exception
        As `compute`, after the values that were there before.

    Notes
    -----
    The run goes on in the background while the values are used. Leaving the loop ends it.

    Examples
    --------
    >>> import flowpar
    >>> tasks = flowpar.map(abs, [-1, -2])
    >>> sorted(flowpar.as_completed(tasks, scheduler="threads"))
    [1, 2]
    """
    graph = Graph([as_task(target) for target in targets])
    return _stream(scheduler_of(graph, resolve(options)))


def _stream(scheduler: Scheduler) -> Iterator[Any]:
    values: queue.SimpleQueue[tuple[object, BaseException | None]] = queue.SimpleQueue()
    scheduler.deliver = lambda value: values.put((value, None))
    context = contextvars.copy_context()

    def work() -> None:
        error = None
        try:
            scheduler.run()
        except BaseException as raised:  # noqa: BLE001 - raised again where the values are used
            error = raised
        values.put((_END, error))

    threading.Thread(target=lambda: context.run(work), name="flowpar-run", daemon=True).start()
    value: object = None
    try:
        while True:
            value, error = values.get()
            if error is not None:
                raise cast("BaseException", _tamed(error))
            if value is _END:
                return
            yield value
    finally:
        if value is not _END:  # whoever uses the values left the loop; nobody waits for the end
            scheduler.cancel()
