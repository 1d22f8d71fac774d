"""The engine that is always there: boxes in layers, arrows between them, as SVG.

What Graphviz does better, in the four steps that are common to such drawings: each box gets a
layer, long arrows get a waypoint in every layer that they cross, each layer is put into an order
with few crossings, and then into places. Linear in boxes and arrows, and nothing recurses.

Source: the steps are those of Sugiyama, Tagawa and Toda, "Methods for visual understanding of
hierarchical system structures", IEEE Trans. SMC 11 (1981); the placing by isotonic regression
(`_spread`) is our own.
"""

from __future__ import annotations

import collections
import graphlib
import itertools
from dataclasses import dataclass, field
from typing import Final

from flowpar.views.pictures.drawing import Drawing

SWEEPS: Final = 8
"""How often the layers are put into order, and into places; more changes little."""
MOST_WAYPOINTS: Final = 30_000
"""Arrows run straight across the layers of graphs that would need more."""

_MARGIN: Final = 14
_BETWEEN: Final = 10
"""Pixels between two boxes of a layer."""
LOOP: Final = 36
"""Pixels that an arrow to its own box takes beside it, with its label."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of a drawing goes."""

    cells: Cells
    frame: Frame
    is_horizontal: bool


def lay_out(drawing: Drawing, sizes: list[tuple[float, float]]) -> Layout:
    """Return where to put boxes of these sizes, widths first, and the arrows between them.

    Notes
    -----
    5,000 boxes take about a second.
    """
    cells = Cells(drawing)
    _put_in_order(cells)
    horizontal = is_wide(drawing)
    if not horizontal:
        sizes = [(height, width) for width, height in sizes]
    loop = LOOP if horizontal else 2 * LOOP  # beside it, where its label is longer than high
    return Layout(cells, _place(drawing, cells, sizes, loop), horizontal)


def is_wide(drawing: Drawing) -> bool:
    """Return whether the arrows had better run from left to right: text needs the room."""
    if drawing.rankdir is not None:
        return drawing.rankdir == "LR"
    ranks = _ranks(drawing)
    layers = collections.Counter(ranks)
    return max(layers.values(), default=0) >= len(layers)


# ------------------------------------------------------------------------------------ layers


class Cells:
    """Boxes and waypoints by number, boxes first, with what is next to what.

    Attributes
    ----------
    layers
        From first to last: the cells of each, in order.
    before, after
        By cell: its neighbours in the layer before, and in the layer after.
    routes
        By arrow: the cells that it runs through, both ends included, always forwards. None if it
        starts where it ends.
    """

    def __init__(self, drawing: Drawing) -> None:
        pairs = [(arrow.start, arrow.end) for arrow in drawing.arrows]
        ranks = _ranks(drawing)
        self.layers: list[list[int]] = [[] for _ in range(max(ranks, default=-1) + 1)]
        self.before: list[list[int]] = []
        self.after: list[list[int]] = []
        for rank in ranks:
            self._add(rank)
        ends = [(u, v) if ranks[u] <= ranks[v] else (v, u) for u, v in pairs]
        chains = self._chains(ranks, ends)
        self.routes = [self._route(ranks, chains, u, v) for u, v in ends]

    def _add(self, rank: int) -> int:
        self.layers[rank].append(len(self.before))
        self.before.append([])
        self.after.append([])
        return len(self.before) - 1

    def _chains(self, ranks: list[int], ends: list[tuple[int, int]]) -> dict[int, list[int]]:
        """Give every box whose arrows go far one chain of waypoints for all of them."""
        reach: dict[int, int] = {}
        for u, v in ends:
            if ranks[v] - ranks[u] > 1:
                reach[u] = max(reach.get(u, 0), ranks[v])
        if sum(rank - ranks[u] for u, rank in reach.items()) > MOST_WAYPOINTS:
            return {}
        chains = {}
        for u, rank in reach.items():
            chains[u] = [u, *(self._add(between) for between in range(ranks[u] + 1, rank))]
            for start, end in itertools.pairwise(chains[u]):
                self._join(start, end)
        return chains

    def _route(
        self, ranks: list[int], chains: dict[int, list[int]], u: int, v: int
    ) -> list[int] | None:
        if u == v:
            return None
        last = chains.get(u, [u])[: max(ranks[v] - ranks[u], 1)]
        self._join(last[-1], v)
        return [*last, v]

    def _join(self, start: int, end: int) -> None:
        self.after[start].append(end)
        self.before[end].append(start)


def _ranks(drawing: Drawing) -> list[int]:
    """Return the layer of each box, so that no arrow stays in one; cycles are broken somewhere."""
    edges = [(a.start, a.end) for a in drawing.arrows if a.start != a.end]
    size = len(drawing.boxes)
    try:
        layers = _layers(size, edges)
    except graphlib.CycleError:
        edges = _without_cycles(size, edges)
        layers = _layers(size, edges)
    ranks = [0] * size
    for rank, layer in enumerate(layers):
        for node in layer:
            ranks[node] = rank
    # What depends on nothing stands beside those that need it, not far away at the edge.
    with_needs = {end for _, end in edges}
    nearest: dict[int, int] = {}
    for start, end in edges:
        if start not in with_needs:
            nearest[start] = min(nearest.get(start, ranks[end]), ranks[end])
    for node, rank in nearest.items():
        ranks[node] = rank - 1
    return ranks


def _layers(size: int, edges: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return the nodes by how many come one after another before them."""
    sorter = graphlib.TopologicalSorter(dict.fromkeys(range(size), ()))
    for start, end in edges:
        sorter.add(end, start)
    sorter.prepare()
    layers = []
    while sorter.is_active():
        layers.append(sorter.get_ready())
        sorter.done(*layers[-1])
    return layers


def _without_cycles(size: int, edges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Turn those edges of cycles that go against the order of the nodes."""
    import networkx as nx  # noqa: PLC0415 - slow to import, and only drawings with cycles need it

    graph = nx.DiGraph(edges)
    graph.add_nodes_from(range(size))
    knots = {}
    for number, members in enumerate(nx.strongly_connected_components(graph)):
        knots.update(dict.fromkeys(members, number))
    return [(u, v) if knots[u] != knots[v] or u < v else (v, u) for u, v in edges]


def _put_in_order(cells: Cells) -> None:
    """Sort each layer by the mean place of its neighbours, forwards and backwards in turn."""
    places = [0.0] * len(cells.before)
    for layer in cells.layers:
        _note(layer, places)
    for sweep in range(SWEEPS):
        near = cells.after if sweep % 2 else cells.before
        for layer in reversed(cells.layers) if sweep % 2 else cells.layers:
            wanted = {
                cell: _mean([places[other] for other in near[cell]], places[cell]) for cell in layer
            }
            layer.sort(key=wanted.__getitem__)
            _note(layer, places)


def _note(layer: list[int], places: list[float]) -> None:
    # As a share of the layer, so that layers of different lengths compare.
    for number, cell in enumerate(layer):
        places[cell] = (number + 0.5) / len(layer)


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


# ------------------------------------------------------------------------------------ places


@dataclass(slots=True)
class Frame:
    """Where everything is, in pixels along the arrows and across them."""

    across: list[float]
    """By cell: its centre."""
    sizes: list[tuple[float, float]]
    """By cell: along and across."""
    rooms: list[float]
    """By cell: what it needs across, with an arrow to itself if it has one."""
    rank: list[int]
    """By cell: its layer."""
    starts: list[float] = field(default_factory=list)
    """By layer: where it begins."""
    ends: list[float] = field(default_factory=list)
    """By layer: where it ends."""

    @property
    def length(self) -> float:
        """Pixels along the arrows."""
        return (self.ends[-1] if self.ends else 0.0) + _MARGIN

    @property
    def breadth(self) -> float:
        """Pixels across the arrows."""
        reach = (x + room / 2 for x, room in zip(self.across, self.rooms, strict=True))
        return max(reach, default=0.0) + _MARGIN


def _place(drawing: Drawing, cells: Cells, sizes: list[tuple[float, float]], loop: float) -> Frame:
    count = len(cells.before)
    sizes = sizes + [(0.0, 0.0)] * (count - len(sizes))
    frame = Frame([0.0] * count, sizes, [size[1] for size in sizes], [0] * count)
    for arrow, route in zip(drawing.arrows, cells.routes, strict=True):
        if route is None:
            frame.rooms[arrow.start] += 2 * loop
    for rank, layer in enumerate(cells.layers):
        for cell in layer:
            frame.rank[cell] = rank
    _place_across(cells, frame)
    _place_along(cells, frame)
    return frame


def _place_across(cells: Cells, frame: Frame) -> None:
    both = [a + b for a, b in zip(cells.before, cells.after, strict=True)]
    for sweep in range(SWEEPS):
        for layer in cells.layers[::-1] if sweep % 2 else cells.layers:
            _align(layer, cells.after if sweep % 2 else cells.before, frame)
    for layer in cells.layers:
        _align(layer, both, frame)
    edges = [x - room / 2 for x, room in zip(frame.across, frame.rooms, strict=True)]
    shift = _MARGIN - min(edges, default=0.0)
    frame.across = [place + shift for place in frame.across]


def _align(layer: list[int], near: list[list[int]], frame: Frame) -> None:
    """Move the cells of a layer as close to their neighbours as the others let them."""
    across = frame.across
    wanted = [_mean([across[other] for other in near[cell]], across[cell]) for cell in layer]
    breadths = [frame.rooms[cell] for cell in layer]
    for cell, place in zip(layer, _spread(wanted, breadths), strict=True):
        across[cell] = place


def _spread(wanted: list[float], breadths: list[float]) -> list[float]:
    """Return the places nearest to the wanted ones, in order and not overlapping.

    Notes
    -----
    Nearest in the sum of squares: with the room that each needs taken off, what is left must not
    fall, and that is isotonic regression, done by pooling neighbours that fall.

    Examples
    --------
    >>> _spread([0.0, 0.0, 100.0], [10.0, 10.0, 10.0])
    [-10.0, 10.0, 100.0]
    """
    offsets, room = [], 0.0
    for breadth in breadths:
        offsets.append(room + breadth / 2)
        room += breadth + _BETWEEN
    pools: list[tuple[float, int]] = []  # sums, and of how many
    for place, offset in zip(wanted, offsets, strict=True):
        total, many = place - offset, 1
        while pools and pools[-1][0] * many >= total * pools[-1][1]:
            more = pools.pop()
            total, many = total + more[0], many + more[1]
        pools.append((total, many))
    means = [total / many for total, many in pools for _ in range(many)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _place_along(cells: Cells, frame: Frame) -> None:
    here = float(_MARGIN)
    for layer in cells.layers:
        frame.starts.append(here)
        here += max((frame.sizes[cell][0] for cell in layer), default=0.0)
        frame.ends.append(here)
        steepest = max(
            (
                abs(frame.across[cell] - frame.across[other])
                for cell in layer
                for other in cells.after[cell]
            ),
            default=0.0,
        )
        # Steep arrows need room, or they all look the same.
        here += min(40 + steepest / 12, 260)
