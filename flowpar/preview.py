"""What a run would do, and why, without running anything."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from flowpar.caching.cache import Cache
from flowpar.caching.reasons import NEVER_RAN, changed_dependency
from flowpar.caching.store import Store, Trace, store_at
from flowpar.errors import OptionError
from flowpar.graph import Graph
from flowpar.judge import Judge
from flowpar.planner import Plan
from flowpar.running import as_task, graph_of
from flowpar.scheduler import seed_of
from flowpar.settings import Options, resolve
from flowpar.status import CACHED, DONE
from flowpar.task import Function, is_constant

RUN: Final = "run"
CACHED_NOW: Final = "cached"
UNKNOWN: Final = "unknown"

_MOST_LINES: Final = 30
_MOST_CAUSES: Final = 3
_MOST_STEPS: Final = 20
"""How far a reason is followed from dependency to dependency."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """What would become of one task.

    Attributes
    ----------
    key
        Its readable name in this graph.
    function
        The name of its function.
    status
        "run", "cached", or "unknown": whether it runs depends on the values of others.
    reason
        Why; None of one that is cached.
    until
        Of one that is unknown: keys of tasks that have to run before it is known.
    seconds
        How long it would take, by its history; None if there is none.
    """

    key: str
    function: str
    status: str
    reason: str | None
    until: tuple[str, ...]
    seconds: float | None


class Preview:
    """What a run would do.

    Attributes
    ----------
    tasks
        A `PlannedTask` of every task, each after those that it depends on.
    """

    def __init__(self, tasks: list[PlannedTask]) -> None:
        self.tasks = tasks

    def __repr__(self) -> str:
        counts = self.counts
        return f"<Preview: {', '.join(f'{counts[name]} {name}' for name in counts)}>"

    @property
    def counts(self) -> dict[str, int]:
        """How many tasks would run, are cached, and are unknown."""
        found = collections.Counter(task.status for task in self.tasks)
        return {name: found[name] for name in (RUN, CACHED_NOW, UNKNOWN)}

    @property
    def seconds(self) -> float | None:
        """Expected seconds of work of what would run; None if nothing is known of any of it."""
        known = [task.seconds for task in self.tasks if task.status == RUN]
        found = [seconds for seconds in known if seconds is not None]
        return sum(found) if found or not known else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return {
            "counts": self.counts,
            "seconds": self.seconds,
            "tasks": [asdict(task) for task in self.tasks],
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        counts = self.counts
        expected = "" if not self.seconds else f", about {self.seconds:.3g} s of work"
        yield (
            f"{counts[RUN]} would run{expected}; {counts[CACHED_NOW]} up to date; "
            f"{counts[UNKNOWN]} unknown until others ran"
        )
        groups: dict[tuple[str, str, str], list[str]] = {}
        for task in self.tasks:
            if task.status != CACHED_NOW:
                groups.setdefault((task.status, task.function, _said(task)), []).append(task.key)
        for (status, _, reason), keys in list(groups.items())[:_MOST_LINES]:
            more = f", … ({len(keys)} in all)" if len(keys) > _MOST_CAUSES else ""
            yield f"  {status:<8}{', '.join(keys[:_MOST_CAUSES])}{more}: {reason}"
        if len(groups) > _MOST_LINES:
            yield f"  … and {len(groups) - _MOST_LINES} more reasons"


class Explanation:
    """Why a task ran or would run, down to the root causes.

    Attributes
    ----------
    key
        The task's readable name.
    status
        As of a `PlannedTask`.
    reason
        Why it would run, or ran when it ran last.
    causes
        The explanations of those of its dependencies that are why.
    unseen
        What its code uses and nobody can look into, or was told not to: by name, with its type.
    placed
        Where calls of its function were made last under "auto", and why; empty: nobody knows.
    """

    def __init__(
        self,
        key: str,
        status: str,
        reason: str,
        *,
        causes: tuple[Explanation, ...] = (),
        unseen: tuple[str, ...] = (),
        placed: str = "",
    ) -> None:
        self.key = key
        self.status = status
        self.reason = reason
        self.causes = causes
        self.unseen = unseen
        self.placed = placed

    def __repr__(self) -> str:
        return f"<Explanation of {self.key}: {self.reason}>"

    def __str__(self) -> str:
        lines: list[str] = []
        stack = [(0, self)]
        while stack:
            depth, each = stack.pop()
            lines.append(f"{'  ' * depth}{each.key}: {each.reason}")
            if each.unseen:
                lines.append(f"{'  ' * depth}  not looked into: {', '.join(each.unseen)}")
            if each.placed:
                lines.append(f"{'  ' * depth}  calls were made in {each.placed}")
            stack += [(depth + 1, cause) for cause in reversed(each.causes)]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        made: dict[int, dict[str, Any]] = {}
        stack = [self]
        while stack:
            each = stack[-1]
            left = [cause for cause in each.causes if id(cause) not in made]
            if left:
                stack += left
                continue
            causes = [made[id(cause)] for cause in each.causes]
            made[id(each)] = {
                "key": each.key,
                "status": each.status,
                "reason": each.reason,
                "causes": causes,
                "unseen": list(each.unseen),
                "placed": each.placed,
            }
            stack.pop()
        return made[id(self)]


def plan(*targets: Any, **options: Any) -> Preview:
    """Say what a run would do, and why; nothing runs and nothing is written.

    Parameters
    ----------
    *targets, **options
        As for `compute`; without a ``cache``, ``.flowpar`` here is looked at.

    Returns
    -------
    Preview
        Its ``str()`` is for people.

    Raises
    ------
    OptionError
        If an option does not exist, or has a value that it cannot have.

    Examples
    --------
    >>> import flowpar, tempfile
    >>> cache = tempfile.mkdtemp()
    >>> area = flowpar.delayed(pow)(3, 2)
    >>> print(flowpar.plan(area, cache=cache))
    1 would run; 0 up to date; 0 unknown until others ran
      run     pow: never ran
    >>> area.compute(cache=cache, scheduler="sync")
    9
    >>> flowpar.plan(area, cache=cache).counts
    {'run': 0, 'cached': 1, 'unknown': 0}
    """
    return preview(graph_of(targets)[0], resolve(options))


def explain(target: Any, **options: Any) -> Explanation:
    """Say why a task would run, or, if it is up to date, why it ran when it ran last.

    Parameters
    ----------
    target
        A delayed value.
    **options
        As for `plan`.

    Returns
    -------
    Explanation
        Its ``str()`` is for people: a line for the task, and below it its causes.

    Raises
    ------
    OptionError
        If an option does not exist, or has a value that it cannot have.

    Examples
    --------
    >>> import flowpar, tempfile
    >>> flowpar.explain(flowpar.delayed(pow)(3, 2), cache=tempfile.mkdtemp()).reason
    'would run: never ran'
    """
    look = Look(Graph([as_task(target)]), resolve(options))
    return look.explain(look.graph.targets[0])


def preview(graph: Graph, options: Options) -> Preview:
    """Return what a run of a graph would do."""
    return Preview(Look(graph, options).tasks())


def accept_in(graph: Graph, options: Options, function: str | None = None) -> list[str]:
    """Keep the values of tasks whose code changed, and nothing else, under their new keys.

    Parameters
    ----------
    graph, options
        What would run.
    function
        The name of the function whose tasks are meant; None: all.

    Returns
    -------
    list of str
        The keys of the tasks whose values were kept; after them, others are up to date or known.
    """
    look = Look(graph, options)
    accepted: list[str] = []
    while True:
        more = [
            index
            for index, task in enumerate(graph.tasks)
            if look.status(index) == RUN
            and (function is None or task._function.name == function)
            and look.judge.accept(index)
        ]
        accepted += [graph.key(index) for index in more]
        if not more:
            look.judge.store.commit()
            return accepted
        look.judge.store.commit()
        look = Look(graph, options)  # what depends on them is known now


class Look:
    """A graph, judged as far as that goes without running any of it.

    Parameters
    ----------
    graph
        It grows by what is known to have been returned in place of values.
    options
        Of the run.
    """

    def __init__(self, graph: Graph, options: Options) -> None:
        cache = options.cache or Cache()
        if not isinstance(cache, Cache):
            raise OptionError(f"cache takes a Cache, and not {cache!r}")
        self.graph = graph
        seed = options.seed
        self.judge = Judge(
            _Seen(cache.path),
            graph,
            seed_of=None if seed is None else lambda index: seed_of(seed, graph.key(index)),
            is_quiet=True,
        )
        self.plan = Plan(graph, lane_of=_lane_of, limits=options.limits, fetch=self.judge.fetch)
        self.judge.attend(self.plan)
        self._indices: dict[str, int] | None = None
        self._settle()
        self._history: dict[str, float] = dict(
            self.judge.store.query("select name, avg(seconds) from trace group by name")
        )

    def _settle(self) -> None:
        self.judge.judge()
        while self.judge.expansions:
            index, task = self.judge.expansions.pop()
            self.plan.expand(index, self.graph.grow([task])[0])
            self.judge.judge()

    def status(self, index: int) -> str:
        """Return what would become of a task."""
        if self.plan.status[index] in {CACHED, DONE}:
            return CACHED_NOW
        return RUN if index in self.judge.missed else UNKNOWN

    def statuses(self) -> dict[int, str]:
        """Return what would become of each task, in the words of a run."""
        words = {CACHED_NOW: "cached", RUN: "ready", UNKNOWN: "waiting"}
        return {index: words[self.status(index)] for index in range(len(self.graph))}

    def facts(self) -> dict[int, dict[str, str | None]]:
        """Return what would become of each task, and why, for a picture."""
        found = {}
        for index in range(len(self.graph)):
            status = self.status(index)
            reason = self.judge.reason(index) if status == RUN else None
            found[index] = {"status": status, "reason": reason}
        return found

    def tasks(self) -> list[PlannedTask]:
        """Return what would become of each task."""
        found = []
        roots: dict[int, tuple[int, ...]] = {}
        for index, task in enumerate(self.graph.tasks):
            if is_constant(task):
                continue
            status = self.status(index)
            roots[index] = self._roots(index, status, roots)
            name = task._function.name
            found.append(
                PlannedTask(
                    key=self.graph.key(index),
                    function=name,
                    status=status,
                    reason=self.judge.reason(index) if status == RUN else None,
                    until=tuple(map(self.graph.key, roots[index])) if status == UNKNOWN else (),
                    seconds=None if status == CACHED_NOW else self._history.get(name),
                )
            )
        return found

    def _roots(self, index: int, status: str, known: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
        """Return those that run for reasons of their own, and that a task waits for."""
        if status != UNKNOWN:
            return (index,) if status == RUN else ()
        found: dict[int, None] = {}
        for need in self._needs(index):
            found.update(dict.fromkeys(known.get(need, ())))
            if len(found) > _MOST_CAUSES:
                break
        return tuple(found)[: _MOST_CAUSES + 1]

    def _needs(self, index: int) -> Iterable[int]:
        source = self.plan.became.get(index)
        return self.graph.dependencies[index] if source is None else (source,)

    def explain(self, target: int) -> Explanation:
        """Return why a task ran or would run."""
        made: dict[int, Explanation] = {}
        stack = [target]
        while stack:
            index = stack[-1]
            causes = [] if self.status(index) == CACHED_NOW else self._causes(index)
            left = [cause for cause in causes if cause not in made]
            if left:
                stack += left
                continue
            made[index] = self._explanation(index, tuple(made[cause] for cause in causes))
            stack.pop()
        return made[target]

    def _causes(self, index: int) -> list[int]:
        return [need for need in self._needs(index) if self.status(need) != CACHED_NOW]

    def _explanation(self, index: int, causes: tuple[Explanation, ...]) -> Explanation:
        status = self.status(index)
        if status == RUN:
            reason = f"would run: {self._to_the_root(self.judge.reason(index) or 'it has to')}"
        elif status == UNKNOWN:
            reason = "unknown until what it depends on has run"
        else:
            reason = self._last_reason(index)
        unseen = self.judge.likeness.unseen(index)
        known = self.judge.recall(self.graph.function(index))
        return Explanation(
            self.graph.key(index),
            status,
            reason,
            causes=causes,
            unseen=unseen,
            placed="" if known is None else known.placed,
        )

    def _last_reason(self, index: int) -> str:
        trace = self.judge.trace_of(index)
        if trace is None:
            return "up to date: it is not kept, and nothing that would run needs it"
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(trace.created))
        made = f"up to date; its value was made on {when}, in {trace.seconds:.3g} s"
        why = self.judge.likeness.reason_of(trace)
        return made if why == NEVER_RAN else f"{made}, because {self._to_the_root(why, trace)}"

    def _to_the_root(self, reason: str, trace: Trace | None = None) -> str:
        """Return a reason, followed by why the dependency that it names gave another value.

        Parameters
        ----------
        reason
            Why a task ran, or has to.
        trace
            What was left by that; None: it has yet to run.
        """
        told, after = "", ""
        for _ in range(_MOST_STEPS):
            found = changed_dependency(reason)
            index = None if found is None else self._index_of(found[0])
            cause = None if index is None else self.judge.trace_of(index)
            # A value that was made later is not what the task was given.
            if found is None or cause is None or (trace and cause.created >= trace.created):
                break
            deeper = self.judge.likeness.reason_of(cause)
            if deeper == NEVER_RAN:
                break
            told += f"{reason[: found[1]]}, because "
            after = reason[found[1] :] + after
            reason, trace = deeper, cause
        return told + reason + after

    def _index_of(self, key: str) -> int | None:
        if self._indices is None:
            self._indices = {self.graph.key(index): index for index in range(len(self.graph))}
        return self._indices.get(key)


class _Seen(Cache):
    """A cache that is looked at: where there is none, none is made."""

    def store(self) -> Store:
        return store_at(self.path, makes=False)


def _lane_of(function: Function) -> str:  # noqa: ARG001 - nothing runs, so nobody takes from it
    return "none"


def _said(task: PlannedTask) -> str:
    if task.status == RUN:
        return task.reason or "it has to"
    # Of many tasks that wait for as many others, one line is enough.
    names = dict.fromkeys(key.partition("[")[0] for key in task.until)
    return f"until {', '.join(names)} ran"
