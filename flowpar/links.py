"""What waits for what in a run, also where tasks returned tasks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from flowpar.graph import Graph
from flowpar.planner import Plan


class Link(NamedTuple):
    """One task waits for another."""

    need: int
    dependent: int
    order_only: bool
    """Whether it takes no value of it."""


def links(graph: Graph, plan: Plan, only: Collection[int] | None = None) -> Iterator[Link]:
    """Yield what waits for what.

    A task that returned a delayed value has the tasks after it that this brought; who takes its
    value waits for the task that gave it in the end.

    Parameters
    ----------
    graph, plan
        Of the run.
    only
        The indices of the tasks to tell of; None: of all.
    """
    for link in _all_links(graph, plan, range(len(graph)) if only is None else only):
        if only is None or (link.need in only and link.dependent in only):
            yield link


def _all_links(graph: Graph, plan: Plan, told: Iterable[int]) -> Iterator[Link]:
    for index in told:
        for need in graph.dependencies[index]:
            yield from _resolved(plan, Link(need, index, (need, index) in graph.order_only))
    for index, expansion in plan.expansions.items():
        for new in range(expansion.first, expansion.end):
            if not any(need >= expansion.first for need in graph.dependencies[new]):
                yield Link(index, new, order_only=True)


def _resolved(plan: Plan, link: Link) -> Iterator[Link]:
    """Yield the link to the task that gave a value, for one to the task that has it."""
    if link.need not in plan.expansions:
        yield link
        return
    need, is_new = link.need, False
    while need in plan.expansions:
        expansion = plan.expansions[need]
        is_new |= expansion.first < expansion.end
        need = expansion.source
    yield link._replace(need=need)
    if not is_new:  # nothing else would show what it waited for
        yield link._replace(order_only=True)
