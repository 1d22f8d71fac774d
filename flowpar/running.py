"""Runs targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from flowpar.arguments import gather, search
from flowpar.graph import Graph, values_needed
from flowpar.pools import worker
from flowpar.record import Run
from flowpar.scheduler import Scheduler
from flowpar.settings import Options, resolve
from flowpar.task import CONSTANT, Task
from flowpar.views.output import Output
from flowpar.views.progress import Progress


def compute(*targets: Any, **options: Any) -> Any:
    """Run what the targets need and return their values.

    Parameters
    ----------
    *targets
        Delayed values, or containers of them at any depth, or plain values.
    **options
        As named in `flowpar.settings.Options`: ``scheduler``, ``workers``, ``progress``,
        ``on_error``, ``limits``, ``observers``, ``seed``, ``start_method``,
        ``memory_limit``, ``dashboard``, ``report``, ``capture``, ``sample``, ``speculate``,
        ``max_tasks_per_worker``, ``max_worker_memory``, ``nice``, ``pin``.

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
    return scheduler_for(targets, resolve(options)).run()


def scheduler_for(targets: Sequence[Any], options: Options) -> Scheduler:
    """Return what will run the targets; those within containers are targets of their own."""
    graph, shapes = graph_of(targets)
    scheduler = scheduler_of(graph, options)
    scheduler.record.shapes = graph.with_refs(shapes)
    return scheduler


def graph_of(targets: Sequence[Any]) -> tuple[Graph, tuple[object, ...]]:
    """Return the graph of some targets, and the targets with all within them taken apart."""
    shapes = tuple(
        search(target, f"target {number}") if len(targets) > 1 else search(target, "the target")
        for number, target in enumerate(targets)
    )
    return Graph(values_needed(shapes)), shapes


instead_of_running: list[Callable[[Graph, Options], NoReturn]] = []
"""What is done in place of a run, if anything: a script is asked what it would run."""


watching: list[object] = []
"""Observers of all runs that no task starts, beside those that a run is given."""


def scheduler_of(graph: Graph, options: Options) -> Scheduler:
    """Return what will run a graph, with a bar if it is wanted."""
    if instead_of_running:
        instead_of_running[-1](graph, options)
    nested = worker.is_inside_task() or worker.IN_PROCESS
    progress = None if nested else Progress.wanted(options.progress)
    observers: list[object] = [progress] if progress else []
    if not nested:
        observers.extend(watching)
    if options.capture == "all" and not nested:
        observers.append(Output())
    if options.dashboard and not nested:
        from flowpar.views.reports.live import Dashboard  # noqa: PLC0415 - brings an HTTP server

        observers.append(Dashboard.announced())
    return Scheduler(graph, options, observers=observers)


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
