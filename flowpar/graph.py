"""Tasks by index, with edges both ways, in an order that comes from the targets.

Targets are walked depth first, dependencies before dependents, so an index is also a rank: a task
comes after all that it needs, and near the first of them. A graph only ever grows, by tasks that
come into being while it runs; what is in it never changes.
"""

from __future__ import annotations

import collections
import functools
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from flowpar.errors import CycleError, InternalError
from flowpar.pickling import MAIN
from flowpar.task import ALL_REFS, LITERAL, MIXED, TASK_TYPES, Call, Function, Ref, Task, Template

_NO_TASKS: Final[tuple[int, ...]] = ()


class Graph:
    """What the targets need, and nothing else.

    Parameters
    ----------
    targets
        Tasks that are wanted, any number, in any order; the same one may come twice.

    Attributes
    ----------
    tasks
        By index: every task, each after all that it depends on.
    dependencies
        By index: the indices of the tasks that it waits for, each once.
    dependents
        By index: the indices of the tasks that wait for it, each once.
    order_only
        Edges, as (dependency, dependent), of ``after=``: along these no value goes.
    targets
        The indices of the targets, in the order given.

    Raises
    ------
    CycleError
        If tasks wait for one another, naming them.

    Notes
    -----
    Linear in tasks and edges: about 1 µs a task. Nothing recurses. Source: own.

    Examples
    --------
    >>> from flowpar import delayed
    >>> one = delayed(abs)(-1)
    >>> graph = Graph([one + one])
    >>> [graph.key(index) for index in range(len(graph))]
    ['abs', 'add']
    >>> graph.dependencies
    [(), (0,)]
    """

    def __init__(self, targets: Iterable[Task]) -> None:
        self.tasks: list[Task] = []
        self.dependencies: list[tuple[int, ...]] = []
        self.dependents: list[Sequence[int]] = []
        self.order_only: set[tuple[int, int]] = set()
        self._index: dict[Task, int] = {}
        self._names: collections.Counter[str] = collections.Counter()
        self._ordinals: list[int] = []
        self._plural: frozenset[str] = frozenset()
        self.targets = self.grow(targets)
        self._initial = len(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        return f"<Graph of {len(self)} tasks, {len(self.targets)} of them targets>"

    def index(self, task: Task) -> int:
        """Return where a task of this graph is."""
        return self._index[task]

    def __contains__(self, task: Task) -> bool:
        return task in self._index

    def function(self, index: int) -> Function:
        """Return the function that a task calls."""
        return self.tasks[index]._function

    def grow(self, targets: Iterable[Task]) -> list[int]:
        """Add what these targets need, and return their indices."""
        wanted = list(targets)
        # The collector would walk all the tasks again and again while their number grows.
        collects = gc.isenabled()
        gc.disable()
        try:
            self._walk(wanted)
        finally:
            if collects:
                gc.enable()
        index = self._index
        return [index[task] for task in wanted]

    def _walk(self, wanted: list[Task]) -> None:  # noqa: C901
        """Add tasks depth first.

        Long, because it runs up to twice a task: a function for its inner half would cost a fifth.
        """
        index, tasks = self._index, self.tasks
        dependencies, dependents = self.dependencies, self.dependents
        opened: set[Task] = set()
        stack = wanted[::-1]
        while stack:  # noqa: PLR1702
            task = stack[-1]
            if task in index:
                stack.pop()
                continue
            needs = needed_by(task) if task._function.after else task._needs
            found = _NO_TASKS
            if needs:
                if task not in opened:
                    todo = [need for need in needs if need not in index]
                    if todo:
                        opened.add(task)
                        todo.reverse()
                        stack += todo
                        continue
                try:
                    found = tuple([index[need] for need in needs])
                except KeyError:
                    raise self._cycle(task, opened) from None
                here = len(tasks)
                if len(found) > 1:
                    found = tuple(dict.fromkeys(found))  # each once, in order
                for other in found:
                    known = dependents[other]
                    if known:
                        known.append(here)  # type: ignore[attr-defined]
                    else:
                        dependents[other] = [here]
            stack.pop()
            if task._function.after:
                self._note_order_only(task, found)
            index[task] = len(tasks)
            tasks.append(task)
            dependencies.append(found)
            dependents.append(_NO_TASKS)

    def _note_order_only(self, task: Task, found: tuple[int, ...]) -> None:
        taken = {self._index[need] for need in task._needs or ()}
        here = len(self.tasks)
        self.order_only |= {(other, here) for other in found if other not in taken}

    def shrink(self, size: int) -> None:
        """Forget the tasks that were added beyond a size, and their edges."""
        while len(self.tasks) > size:
            here = len(self.tasks) - 1
            del self._index[self.tasks.pop()]
            self.dependents.pop()
            for need in self.dependencies.pop():
                if need < size:
                    self.dependents[need].pop()  # type: ignore[attr-defined] # added last, a list
                self.order_only.discard((need, here))
        if len(self._ordinals) > size:
            del self._ordinals[size:]

    def _cycle(self, start: Task, opened: set[Task]) -> CycleError:
        path, seen = [start], {start}
        while True:
            following = next((t for t in needed_by(path[-1]) if t in opened or t is start), None)
            if following is None:
                raise InternalError("a task waits for one that is neither known nor open")
            path.append(following)
            if following in seen:
                break
            seen.add(following)
        first = next(i for i, task in enumerate(path) if task is path[-1])
        names = tuple(task._function.name for task in path[first:])
        shown = names if len(names) <= 12 else (*names[:6], "…", *names[-5:])  # noqa: PLR2004
        return CycleError("these tasks wait for one another: " + " -> ".join(shown), cycle=names)

    # ------------------------------------------------------------------------------- names

    def key(self, index: int) -> str:
        """Return the readable name of a task: ``load[3]``, or ``merge`` if there is just one."""
        if index >= len(self._ordinals):
            self._count_names()
        name = self.tasks[index]._function.name
        ordinal = self._ordinals[index]
        return f"{name}[{ordinal}]" if ordinal or name in self._plural else name

    def _count_names(self) -> None:
        first = not self._ordinals
        for task in self.tasks[len(self._ordinals) :]:
            name = task._function.name
            self._ordinals.append(self._names[name])
            self._names[name] += 1
        if first:
            # Of those that come later none renames an earlier one.
            self._plural = frozenset(name for name, n in self._names.items() if n > 1)

    # ------------------------------------------------------------------------------- calls

    def call(self, index: int) -> Call:
        """Return a task as a worker takes it, with refs in place of the tasks it depends on."""
        task = self.tasks[index]
        function, args, needs = task._function, task._args, task._needs
        if needs is args and needs:
            if not function.after:
                refs = self.dependencies[index]
                if len(refs) != len(args):  # one of them came twice
                    refs = tuple([self._index[need] for need in needs])
                return (index, function.number, ALL_REFS, refs, None)
        elif needs is not None and not needs:
            return (index, function.number, LITERAL, args, task._kwargs)
        kwargs = task._kwargs
        where = self._index
        taken = tuple([_with_refs(argument, where) for argument in args])
        named = kwargs and {name: _with_refs(value, where) for name, value in kwargs.items()}
        return (index, function.number, MIXED, taken, named)

    def with_refs(self, arguments: Iterable[object]) -> tuple[object, ...]:
        """Return arguments with refs in place of the tasks, all of this graph."""
        return tuple([_with_refs(argument, self._index) for argument in arguments])

    # ---------------------------------------------------------------------------- analysis

    def to_networkx(
        self,
        attributes: Mapping[int, Mapping[str, Any]] | None = None,
        edges: Iterable[tuple[int, int, bool]] | None = None,
    ) -> Any:
        """Return the graph as a ``networkx.DiGraph``, for analysis and drawing.

        Parameters
        ----------
        attributes
            More node attributes by index, such as a status.
        edges
            From a dependency to a dependent, and whether it takes no value; None: those of the
            graph.

        Returns
        -------
        networkx.DiGraph
            Nodes are indices, with ``key``, ``function``, ``module``, ``group``, ``pool``, ``site``
            and ``is_target``; edges run from a dependency to its dependent; those of ``after=``
            have ``order_only=True``.
        """
        import networkx as nx  # noqa: PLC0415 - a third of a second, for those who look

        made = nx.DiGraph()
        targets = set(self.targets)
        for index, task in enumerate(self.tasks):
            function = task._function
            made.add_node(
                index,
                key=self.key(index),
                function=function.name,
                module=_module_of(function.call),
                group=function.policy.group,
                pool=function.policy.pool,
                site=str(task._site) if task._site else None,
                is_target=index in targets,
                status=None,
                seconds=None,
            )
            made.nodes[index].update((attributes or {}).get(index, {}))
        for need, index, order_only in self._edges() if edges is None else edges:
            made.add_edge(need, index, order_only=order_only)
        return made

    def _edges(self) -> Iterator[tuple[int, int, bool]]:
        for index, needs in enumerate(self.dependencies):
            for need in needs:
                yield need, index, (need, index) in self.order_only


def _module_of(call: object) -> str | None:
    while isinstance(call, functools.partial):
        call = call.func
    module = getattr(call, "__module__", None)
    if not isinstance(module, str):
        return None
    return "__main__" if module in MAIN else module


def needed_by(task: Task) -> tuple[Task, ...]:
    """Return the tasks that a task waits for, those under ``after=`` last; some perhaps twice."""
    return (*(task._needs or ()), *task._function.after)


def values_needed(arguments: Iterable[object]) -> list[Task]:
    """Return the tasks among some arguments, in order."""
    needs: list[Task] = []
    for argument in arguments:
        if type(argument) in TASK_TYPES:
            needs.append(argument)  # type: ignore[arg-type]
        elif type(argument) is Template:
            needs.extend(argument.tasks())
    return needs


def _with_refs(argument: object, index: Mapping[Task, int]) -> object:
    if type(argument) in TASK_TYPES:
        return Ref(index[argument])  # type: ignore[index]
    if type(argument) is Template:
        return argument.replaced(lambda part: _with_refs(part, index))
    return argument
