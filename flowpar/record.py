"""What a run leaves behind: its values, and a record of every task."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from flowpar.errors import FlowparError, RunFailed
from flowpar.events import Counts, TaskRecord
from flowpar.graph import Graph
from flowpar.ledger import CLOCK_OFFSET, Ledger, cpu_seconds
from flowpar.links import links
from flowpar.placement import Choice
from flowpar.planner import Plan
from flowpar.pools.failures import text_of
from flowpar.pools.transport import SEALED
from flowpar.pools.worker import fill
from flowpar.sampling import Sample, Samples
from flowpar.status import Status

if TYPE_CHECKING:
    from flowpar.views.pictures.picture import Picture
    from flowpar.views.reports.facts import Facts
    from flowpar.views.timelines.spans import History


MOST_SHOWN = 20_000
"""Tasks of a run that a notebook draws without being asked to."""


class Records(Sequence[TaskRecord]):
    """The records of all tasks of a run, each made when it is asked for."""

    def __init__(self, graph: Graph, plan: Plan, ledger: Ledger) -> None:
        self._graph = graph
        self._plan = plan
        self._ledger = ledger
        self.samples: Samples | None = None
        self.output: dict[int, str] = {}
        """What tasks wrote, by index, where that is captured."""
        self.reason_of: Callable[[int], str | None] = lambda _: None
        """Says why a task ran that nothing else says it of: the cache does, if there is one."""

    def __len__(self) -> int:
        return len(self._plan.status)

    @overload
    def __getitem__(self, index: int) -> TaskRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[TaskRecord]: ...
    def __getitem__(self, index: int | slice) -> TaskRecord | list[TaskRecord]:
        if isinstance(index, slice):
            return [self.record(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} tasks, and no number {index}")
        return self.record(index % len(self))

    def __iter__(self) -> Iterator[TaskRecord]:
        return (self.record(index) for index in range(len(self)))

    def __repr__(self) -> str:
        return f"<{len(self)} task records>"

    def record(self, index: int) -> TaskRecord:
        """Return the record of the task with this index."""
        ledger, plan, task = self._ledger, self._plan, self._graph.tasks[index]
        ledger.settle(len(self._graph))
        pool, worker = ledger.places[ledger.place[index]]
        ran = bool(ledger.place[index])
        start, end = ledger.start[index], ledger.end[index]
        seconds = end - start if ran else None
        error = plan.errors.get(index)
        reason = plan.reasons.get(index) or self.reason_of(index)
        if error is not None:
            reason = f"{type(error).__name__}: {text_of(error)}"[:200]
        return TaskRecord(
            key=self._graph.key(index),
            function=task._function.name,
            status=Status(plan.status[index]).name.lower(),
            reason=reason,
            pool=pool or None,
            worker=worker or None,
            start=start + CLOCK_OFFSET if ran else None,
            end=end + CLOCK_OFFSET if ran else None,
            seconds=seconds,
            cpu_seconds=cpu_seconds(ledger.cpu[index], end - start) if ran else None,
            bytes=ledger.size.get(index),
            attempts=plan.attempts[index],
            site=str(task._site) if task._site else None,
            output=self.output.get(index),
            peak_memory=self._peak_memory(worker, start, end) if ran else None,
        )

    def _peak_memory(self, worker: str, start: float, end: float) -> int | None:
        if self.samples is None:
            return None
        kind, _, number = worker.partition(" ")
        pid = int(number) if kind == "process" and number.isdecimal() else os.getpid()
        return self.samples.peak_bytes(pid, start + CLOCK_OFFSET, end + CLOCK_OFFSET)


class Run:
    """One run of a graph: what came of it, and what happened.

    Attributes
    ----------
    tasks
        A `TaskRecord` of every task, each after those that it depends on.
    errors
        The exceptions of the tasks that failed for good, in the order of `tasks`.
    seconds
        How long the run took.
    status
        "done", "failed" or "interrupted"; "running" before its end.
    placement
        By function, where flowpar chose that: which pool its calls went to in the end, and why.

    Examples
    --------
    >>> import flowpar
    >>> done = flowpar.run(flowpar.delayed(pow)(2, 5), scheduler="sync")
    >>> done.value, done.status, done.tasks[0].attempts
    (32, 'done', 1)
    """

    def __init__(self, graph: Graph, plan: Plan, ledger: Ledger) -> None:
        self.graph = graph
        self.tasks = Records(graph, plan, ledger)
        self.seconds = 0.0
        self.status = "running"
        self.error: BaseException | None = None
        self.shapes: tuple[object, ...] | None = None
        """What was asked for, with refs to the targets in it; None: the targets themselves."""
        self.placement: dict[str, Choice] = {}
        self._plan = plan
        self._ledger = ledger

    def __repr__(self) -> str:
        counts = self._plan.counts()
        return f"<Run {self.status}: {counts.done} of {counts.total} tasks in {self.seconds:.3g} s>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Return what a notebook shows: the picture, and the table."""
        del include, exclude
        said = {"text/plain": repr(self)}
        # A cell must show something, whatever is wrong with the rest.
        with contextlib.suppress(Exception):
            if len(self.tasks) <= MOST_SHOWN:
                said = {"text/plain": self.summary(), "image/svg+xml": self.visualize().svg}
        return said

    @property
    def counts(self) -> Counts:
        """How many tasks ended how."""
        return self._plan.counts()

    @property
    def errors(self) -> list[BaseException]:
        """The exceptions of the tasks that failed, in the order of the graph."""
        return [self._plan.errors[index] for index in sorted(self._plan.errors)]

    @property
    def peak_bytes(self) -> int:
        """How many bytes the larger of the values took at most that the run held, about."""
        return self._plan.peak_bytes

    @property
    def samples(self) -> list[Sample]:
        """What its processes used, as seen under the option ``sample``; in the order of time."""
        return [] if self.tasks.samples is None else list(self.tasks.samples.all)

    @property
    def value(self) -> Any:
        """The value of the target; of several, the tuple of all."""
        values = self.values
        return values[0] if len(values) == 1 else values

    @property
    def values(self) -> tuple[Any, ...]:
        """The values of the targets, in the order given.

        Raises
        ------
        FlowparError
            If a target has none, because the run failed or was interrupted; `finished` holds
            what there is.
        """
        if self.status != "done" and self.error is not None:
            raise FlowparError(
                f"the run is {self.status}: .finished holds the values that there are, .errors why"
            ) from self.error
        if self.shapes is None:
            return tuple(self._load(index) for index in self.graph.targets)
        loaded = {index: self._load(index) for index in self.graph.targets}
        filled, _ = fill(self.shapes, None, loaded)
        return tuple(filled)

    @property
    def finished(self) -> dict[str, Any]:
        """By key: the value of each target that finished, and others that are still held."""
        return {self.graph.key(i): self._load(i) for i in sorted(self._plan.values)}

    def _load(self, index: int) -> Any:
        value = self._plan.values[index]
        return value.load() if type(value) in SEALED else value

    def to_networkx(self) -> Any:
        """Return the graph as a ``networkx.DiGraph`` whose nodes know how their tasks went.

        Returns
        -------
        networkx.DiGraph
            As `Graph.to_networkx`, with ``status``, ``seconds``, ``pool`` and ``reason`` of each
            record.

        Examples
        --------
        >>> import flowpar
        >>> done = flowpar.run(-flowpar.delayed(abs)(-1), scheduler="sync")
        >>> [done.to_networkx().nodes[i]["status"] for i in (0, 1)]
        ['done', 'done']
        """
        facts = ("status", "seconds", "pool", "reason")
        return self.graph.to_networkx(
            {
                index: {name: getattr(record, name) for name in facts}
                for index, record in enumerate(self.tasks)
            },
            links(self.graph, self._plan),
        )

    def visualize(self, path: str | os.PathLike[str] | None = None, **options: Any) -> Picture:
        """Draw the graph with how its tasks went: status, seconds, what failed and why.

        The critical path, which is the chain of tasks that took longest, is bold.

        Parameters
        ----------
        path
            As `flowpar.visualize` takes it; None: for a notebook only.
        **options
            As for `flowpar.visualize`; ``focus="failed"`` shows what failed and all one step
            around it, ``color="time"`` what took long.

        Returns
        -------
        Picture
            With its ``path``; a notebook shows it.

        Raises
        ------
        OptionError, MissingExtra
            As `flowpar.visualize`.

        Examples
        --------
        >>> import flowpar
        >>> done = flowpar.run(-flowpar.delayed(abs)(-1), scheduler="sync")
        >>> "2 done" in done.visualize().svg
        True
        """
        from flowpar.views.pictures.picture import draw  # noqa: PLC0415 - most runs draw nothing

        return draw(self.to_networkx(), path, **options)

    def critical_path(self) -> list[TaskRecord]:
        """Return the chain of tasks that took longest: with any number of workers it takes so long.

        Returns
        -------
        list of TaskRecord
            Each depends on the one before it.

        Examples
        --------
        >>> import flowpar
        >>> done = flowpar.run(-flowpar.delayed(abs)(-1), scheduler="sync")
        >>> [record.key for record in done.critical_path()]
        ['abs', 'neg']
        """
        import networkx as nx  # noqa: PLC0415 - slow to import, and only analysis needs it

        records = list(self.tasks)
        graph = nx.DiGraph()
        end = len(records)
        for index, record in enumerate(records):
            graph.add_edge(index, end, weight=record.seconds or 0.0)
        for need, index, _ in links(self.graph, self._plan):
            graph.add_edge(need, index, weight=records[need].seconds or 0.0)
        path = nx.dag_longest_path(graph) if records else [end]
        return [records[index] for index in path[:-1]]

    def timeline(self, path: str | os.PathLike[str] | None = None, *, ax: Any = None) -> Any:
        """Draw which worker made which call when.

        A row for each worker, a bar for each call, coloured by function. Beneath them, thinner and
        lighter: when a batch waited for the worker, and when it, or the report of it, was on its
        way. Of many calls the short ones are added up, and the height of a bar is then the share
        of time that they took.

        Parameters
        ----------
        path
            ``.svg``, ``.png`` and ``.pdf`` are drawn by matplotlib (extra "plot"); ``.html`` is a
            page by itself to zoom into, drawn by bokeh (extra "report"). None: nothing is written.
        ax
            Axes of matplotlib to draw into; None: new ones.

        Returns
        -------
        matplotlib.axes.Axes or pathlib.Path
            The axes, or where the picture was written.

        Raises
        ------
        OptionError
            If the kind of file is not known, or both a path and axes are given.
        MissingExtra
            If the library is not installed.

        Examples
        --------
        >>> import flowpar, tempfile
        >>> done = flowpar.run(flowpar.delayed(pow)(2, 5), scheduler="sync")
        >>> done.timeline(tempfile.mkdtemp() + "/timeline.svg").name
        'timeline.svg'
        """
        from flowpar.views.timelines import timeline  # noqa: PLC0415 - most runs draw nothing

        if path is None:
            return timeline.draw(self._history(), ax)
        return timeline.write(self._history(), path, ax)

    def trace(self, path: str | os.PathLike[str]) -> Path:
        """Write what ran when and where, in the format that Chrome traces have.

        Perfetto (https://ui.perfetto.dev) and speedscope (https://www.speedscope.app) open it.

        Parameters
        ----------
        path
            Its name ends in ``.json`` or ``.json.gz``.

        Returns
        -------
        pathlib.Path
            Where it was written.

        Raises
        ------
        OptionError
            If the name ends otherwise.

        Examples
        --------
        >>> import flowpar, json, tempfile
        >>> done = flowpar.run(flowpar.delayed(pow)(2, 5), scheduler="sync")
        >>> text = done.trace(tempfile.mkdtemp() + "/trace.json").read_text()
        >>> [event["name"] for event in json.loads(text)["traceEvents"] if event["ph"] == "X"]
        ['on the way', 'pow', 'on the way']
        """
        from flowpar.views.timelines.trace import write_trace  # noqa: PLC0415 - most runs write none

        return write_trace(path, self._history(), self.tasks, self.samples)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write all that there is to tell of the run as one page, which needs no network.

        The graph, the timeline, the functions with where they ran and why, failures with their
        tracebacks, what ran again and why, the critical path, all tasks.

        Parameters
        ----------
        path
            Its name ends in ``.html``.

        Returns
        -------
        pathlib.Path
            Where it was written.

        Raises
        ------
        OptionError
            If the name ends otherwise.
        MissingExtra
            If bokeh is not installed (extra "report").

        Examples
        --------
        >>> import flowpar, tempfile
        >>> done = flowpar.run(flowpar.delayed(pow)(2, 5), scheduler="sync")
        >>> done.report(tempfile.mkdtemp() + "/run.html").name
        'run.html'
        """
        from flowpar.views.reports.report import write_report  # noqa: PLC0415 - most runs write none

        return write_report(self.facts(), path)

    def facts(self, most: int | None = None) -> Facts:
        """Return what is to be told of the run, as plain data.

        Parameters
        ----------
        most
            Tasks; of more than these, only what failed and the first that were called are told of.
        """
        from flowpar.views.reports import facts  # noqa: PLC0415 - as above
        from flowpar.views.reports.totals import totals_of  # noqa: PLC0415 - as above

        total = len(self.tasks)
        indices: Sequence[int] = range(total)
        if most is not None and total > most:
            indices = self._worth_telling(most)
        places = {index: place for place, index in enumerate(indices)}
        errors = {index: self._plan.errors[index] for index in places.keys() & self._plan.errors}
        texts = facts.failures_of(dict(sorted(errors.items())))
        return facts.Facts(
            program=facts.program(),
            seconds=self.seconds,
            status=self.status,
            counts=self.counts,
            records=[self.tasks[index] for index in indices],
            edges=[
                (places[need], places[index], order_only)
                for need, index, order_only in links(self.graph, self._plan, places)
            ],
            history=facts.part_of(self._history(places), places, total),
            samples=self.samples,
            failures={places[index]: text for index, text in texts.items()},
            totals=totals_of(self.graph, self._plan, self._ledger),
            placement={name: (choice.lane, choice.why) for name, choice in self.placement.items()},
            held_bytes=self.peak_bytes,
            environment=facts.environment(),
            left_out=total - len(indices),
        )

    def _worth_telling(self, most: int) -> list[int]:
        """Return what is told of a run of more tasks than can be told of."""
        plan = self._plan
        # Half of the room at most: what goes wrong a thousand times goes wrong in one way.
        chosen = set(itertools.islice(plan.errors, most // 2))
        called = (index for index in range(len(plan.status)) if plan.attempts[index])
        chosen.update(itertools.islice((i for i in called if i not in chosen), most - len(chosen)))
        return sorted(chosen)

    @property
    def began(self) -> float:
        """When the run began, in seconds since the epoch."""
        return self._ledger.begin + CLOCK_OFFSET

    def _history(self, only: Collection[int] | None = None) -> History:
        from flowpar.views.timelines.spans import history_of  # noqa: PLC0415 - as above

        return history_of(
            self.graph,
            self._plan,
            self._ledger,
            seconds=self.seconds,
            headline=self._headline(),
            only=only,
        )

    def _headline(self) -> str:
        counts = self.counts
        return (
            f"{self.status}: {counts.done} of {counts.total} tasks in {self.seconds:.2f} s"
            + (f", {counts.cached} cached" if counts.cached else "")
            + (f", {counts.failed} failed" if counts.failed else "")
            + (f", {counts.skipped} skipped" if counts.skipped else "")
        )

    def summary(self) -> str:
        """Return a table for people: what ran where, how often and how long.

        Returns
        -------
        str
            A line for the run, and one for each function and pool: calls, failures, attempts
            beyond the first, total and mean seconds.

        Examples
        --------
        >>> import flowpar
        >>> done = flowpar.run(flowpar.delayed(pow)(2, 5), scheduler="sync")
        >>> print(done.summary())
        done: 1 of 1 tasks in 0.00 s
        function  pool    calls  failed  retries  total s    mean s  workers
        pow       inline      1       0        0    0.000  0.00...         1
        """
        lines = [self._headline()]
        rows: dict[tuple[str, str], list[TaskRecord]] = collections.defaultdict(list)
        for record in self.tasks:
            if record.attempts:
                rows[record.function, record.pool or "-"].append(record)
        if rows:
            lines.append(
                f"{'function':<24} {'pool':<12} {'calls':>7} {'failed':>7} {'retries':>7} "
                f"{'total s':>9} {'mean s':>10} {'workers':>7}"
            )
        for (function, pool), records in rows.items():
            total = sum(record.seconds or 0.0 for record in records)
            failed = sum(record.status == "failed" for record in records)
            retries = sum(record.attempts - 1 for record in records)
            workers = len({record.worker for record in records})
            lines.append(
                f"{function[:24]:<24} {pool:<12} {len(records):>7} {failed:>7} {retries:>7} "
                f"{total:>9.3f} {total / len(records):>10.6f} {workers:>7}"
            )
        return "\n".join(lines)


def failure_of(errors: list[BaseException], total: int) -> RunFailed:
    """Return the group of the exceptions of a run that went on after failures."""
    ordinary = [error for error in errors if isinstance(error, Exception)]
    return RunFailed(f"{len(errors)} of {total} tasks failed", ordinary)
