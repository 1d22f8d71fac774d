"""A graph to draw, for those who cannot wait until networkx is imported."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator
from typing import Any

Edge = tuple[int, int, dict[str, Any]]


class Nodes:
    """As much of a ``networkx.DiGraph`` as pictures need.

    Examples
    --------
    >>> graph = Nodes()
    >>> graph.add_node(0, key="load")
    >>> graph.add_node(1, key="total")
    >>> graph.add_edges_from([(0, 1, {})])
    >>> graph.nodes[1], list(graph.pred[1]), len(graph)
    ({'key': 'total'}, [0], 2)
    """

    def __init__(self) -> None:
        self.nodes = _Facts()
        self.pred: dict[int, list[int]] = {}
        self._edges: list[Edge] = []

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[int]:
        return iter(self.nodes)

    def add_node(self, node: int, **facts: Any) -> None:
        """Add a node, with what is known of it."""
        self.nodes[node] = facts
        self.pred[node] = []

    def add_edges_from(self, edges: Iterable[Edge]) -> None:
        """Add edges between nodes that there are, each with what is known of it."""
        for edge in edges:
            self._edges.append(edge)
            self.pred[edge[1]].append(edge[0])

    def edges(self, *, data: bool) -> list[Edge]:
        """Return all edges."""
        del data
        return self._edges

    def number_of_edges(self) -> int:
        """Return how many there are."""
        return len(self._edges)


class _Facts(dict[int, dict[str, Any]]):
    """What is known of the nodes."""

    def __call__(self, *, data: bool) -> ItemsView[int, dict[str, Any]]:
        del data
        return self.items()
