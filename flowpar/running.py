"""Runs targets: at once, in the background, or as they finish."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from flowpar.arguments import search
from flowpar.errors import OptionError
from flowpar.graph import Graph, values_needed
from flowpar.settings import Options, resolve
from flowpar.pools import worker
from flowpar.record import Run
from flowpar.scheduler import Scheduler, gather
from flowpar.task import CONSTANT, Task
from flowpar.views.picture import Picture, draw
from flowpar.views.progress import Progress


def compute(*targets: Any, **options: Any) -> Any:
    """Run what the targets need and return their values.

    Parameters
    ----------
    *targets
        Delayed values, or containers of them at any depth, or plain values.
    **options
        As named in `flowpar.options.Options`: ``scheduler``, ``workers``, ``progress``,
        ``on_error``, ``limits``, ``observers``, ``seed``, ``start_method``.

    Returns
    -------
    object
        The value of one target; a tuple, one per target in the order given, of several.

    Raises
    ------
    Exception
        What a task raised, with a note that names the task; its ``run`` is the record.
    RunFailed
        Under ``on_error="continue"``, all that tasks raised, once the rest is done.
    OptionError
        If an option does not exist, or has a value that it cannot have.

    Examples
    --------
    >>> import flowpar
    >>> flowpar.compute({"a": flowpar.delayed(abs)(-1), "b": 2}, scheduler="sync")
    {'a': 1, 'b': 2}
    """
    return run(*targets, **options).value


def run(*targets: Any, **options: Any) -> Run:
    """Run what the targets need and return the record of it, values included.

    Parameters
    ----------
    *targets, **options
        As for `compute`.

    Returns
    -------
    Run
        With ``value``, ``values``, ``tasks``, ``errors`` and ``summary()``.

    Raises
    ------
    Exception
        As `compute`.

    Examples
    --------
    >>> import flowpar
    >>> done = flowpar.run(flowpar.delayed(abs)(-1), scheduler="sync")
    >>> done.value, done.tasks[0].key, done.tasks[0].status
    (1, 'abs', 'done')
    """
    return _scheduler(targets, resolve(options)).run()


def _scheduler(targets: Sequence[Any], options: Options) -> Scheduler:
    """Return what will run the targets; those within containers are targets of their own."""
    shapes = tuple(
        search(target, f"target {number}") if len(targets) > 1 else search(target, "the target")
        for number, target in enumerate(targets)
    )
    graph = Graph(values_needed(shapes))
    scheduler = _scheduler_of(graph, options)
    scheduler.record.shapes = graph.with_refs(shapes)
    return scheduler


def _scheduler_of(graph: Graph, options: Options) -> Scheduler:
    nested = worker.is_inside_task() or worker.IN_PROCESS
    progress = None if nested else Progress.wanted(options.progress)
    return Scheduler(graph, options, observers=[progress] if progress else [])


def as_task(target: Any) -> Task:
    """Return the target as one task, whatever it is.

    A container without a delayed value is a value like any other.
    """
    if isinstance(target, Task):
        return target
    task = gather(target)
    if task._args[0] is target:
        task._function = CONSTANT
        task._needs = ()
    return task


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
    scheduler = _scheduler(targets, resolve(options))
    future: _RunFuture = _RunFuture(scheduler)
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=lambda: context.run(_settle, scheduler, future), name="flowpar-run", daemon=True
    )
    future.set_running_or_notify_cancel()
    thread.start()
    return future


class _RunFuture(Future[Any]):
    """A future whose cancelling ends the run behind it."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._wants_cancel = False

    def cancel(self) -> bool:
        """End the run; return False if it has ended already."""
        with self._condition:
            if self.done():
                return False
            self._wants_cancel = True
            # The state is that of a future that nobody has begun, which alone may be cancelled.
            self._state = "PENDING"
        self._scheduler.cancel()
        return super().cancel()


def _settle(scheduler: Scheduler, future: Future[Any]) -> None:
    try:
        value = scheduler.run().value
    except BaseException as error:  # noqa: BLE001 - handed to who waits for the future
        _tell(future, error=error)
    else:
        _tell(future, value=value)


def _tell(future: Future[Any], *, value: object = None, error: BaseException | None = None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)


async def value_of(target: Task) -> Any:
    """Run what a target needs, in the background, and return its value: what ``await`` does."""
    return await asyncio.wrap_future(submit(target))


_END = object()


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
    return _stream(_scheduler_of(graph, resolve(options)))


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
                raise error
            if value is _END:
                return
            yield value
    finally:
        if value is not _END:  # whoever uses the values left the loop
            scheduler.cancel()
            while values.get()[0] is not _END:
                continue


def visualize(
    *targets: Any,
    filename: str | Path | None = "graph.svg",
    collapse: bool | str = "auto",
) -> Picture:
    """Draw what the targets need.

    Parameters
    ----------
    *targets
        Delayed values, or containers of them.
    filename
        Where to: ``.svg``, ``.png``, ``.pdf`` or ``.dot``; None for a notebook only. An ``.svg``
        needs no program; it is better where Graphviz is installed.
    collapse
        True: one node for each function; False: one for each task; "auto": by the size.

    Returns
    -------
    Picture
        With its ``path``; a notebook shows it.

    Raises
    ------
    OptionError
        If the kind of file is not known.
    MissingExtra
        If Graphviz is not there and the file is no ``.svg`` or ``.dot``.

    Examples
    --------
    >>> import flowpar
    >>> picture = flowpar.visualize(flowpar.delayed(abs)(-1), filename=None)
    >>> "abs" in picture.svg
    True
    """
    graph = Graph(values_needed([search(target, "the target") for target in targets]))
    return draw(graph.to_networkx(), filename, collapse=collapse)


__all__ = ["as_completed", "as_task", "compute", "run", "submit", "visualize"]
