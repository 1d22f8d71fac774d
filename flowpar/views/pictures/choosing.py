"""Which part of a graph a picture shows, and what in it decides how long a run takes."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowpar.errors import OptionError
from flowpar.policy import unknown_name
from flowpar.views.pictures.nodes import Nodes

if TYPE_CHECKING:
    import networkx as nx

Facts = Mapping[str, Any]


def focused(graph: nx.DiGraph, focus: str) -> tuple[nx.DiGraph, int]:
    """Return what is in focus with all one step around it, and how much is in focus.

    Parameters
    ----------
    graph
        Its nodes have ``key``, ``function`` and ``status``.
    focus
        "failed", or the key of a task, or the name of a function.

    Raises
    ------
    OptionError
        If there is no such task or function, or nothing is known of failures.
    """
    chosen = _failed(graph) if focus == "failed" else _named(graph, focus)
    near = dict.fromkeys(chosen)
    for node in chosen:
        near.update(dict.fromkeys([*graph.pred[node], *graph.succ[node]]))
    # In the order of the graph, which is what the places of boxes come from.
    return graph.subgraph([node for node in graph if node in near]), len(chosen)


def _failed(graph: nx.DiGraph) -> list[int]:
    statuses = {node: facts.get("status") for node, facts in graph.nodes(data=True)}
    if graph and not any(statuses.values()):
        raise OptionError(
            "focus='failed' is for a run, which knows what failed: "
            "run = flowpar.run(x, on_error='continue'), then run.visualize(focus='failed')"
        )
    return [node for node, status in statuses.items() if status == "failed"]


def _named(graph: nx.DiGraph, focus: str) -> list[int]:
    keys = {facts["key"]: node for node, facts in graph.nodes(data=True)}
    if focus in keys:
        return [keys[focus]]
    chosen = [node for node, facts in graph.nodes(data=True) if facts["function"] == focus]
    if not chosen:
        functions = dict.fromkeys(facts["function"] for _, facts in graph.nodes(data=True))
        names = keys if "[" in focus else dict.fromkeys(["failed", *functions])
        some = dict(list(names.items())[:2_000])  # what is like it is looked for among these
        raise OptionError(unknown_name(focus, some, "a task or a function of this graph"))
    return chosen


def critical_path(graph: nx.DiGraph | Nodes) -> list[int]:
    """Return the chain of nodes that took longest, each a dependency of the next.

    Empty if it is not known how long anything took, or if one node is all there is to it.
    """
    seconds = {node: facts.get("seconds") for node, facts in graph.nodes(data=True)}
    order = _in_order(graph) if any(seconds.values()) else []
    if not order:
        return []
    best: dict[int, float] = {}
    before: dict[int, int | None] = {}
    for node in order:
        longest = max(graph.pred[node], key=best.__getitem__, default=None)
        before[node] = longest
        best[node] = (0.0 if longest is None else best[longest]) + (seconds[node] or 0.0)
    path: list[int] = []
    here: int | None = max(best, key=best.__getitem__)
    while here is not None:
        path.append(here)
        here = before[here]
    path = _without_idle_ends(path[::-1], seconds)
    return path if len(path) > 1 else []


def _in_order(graph: nx.DiGraph | Nodes) -> list[int]:
    """Return the nodes, each after those that it depends on; none if there is a cycle."""
    needs = {node: graph.pred[node] for node in graph}
    try:
        return list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError:
        return []


def _without_idle_ends(path: list[int], seconds: Mapping[int, float | None]) -> list[int]:
    """Return a path from the first to the last node that took any time."""
    ran = [place for place, node in enumerate(path) if seconds[node]]
    return path[ran[0] : ran[-1] + 1] if ran else []
