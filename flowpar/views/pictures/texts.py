"""Graphs as text, for which no engine is needed: a tree for terminals, and data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flowpar.views.pictures.choosing import focused
from flowpar.views.pictures.contents import Wanted, drawing_of
from flowpar.views.pictures.dot import legend_texts

if TYPE_CHECKING:
    import networkx as nx


def network_text(graph: nx.DiGraph, wanted: Wanted) -> str:
    """Return a graph as lines of text: what depends on a task stands under it.

    Examples
    --------
    >>> import networkx
    >>> graph = networkx.DiGraph()
    >>> graph.add_node(0, key="load", function="load", status="done", seconds=1.5)
    >>> graph.add_node(1, key="fit", function="fit", status="failed", seconds=0.2)
    >>> graph.add_edge(0, 1)
    >>> print(network_text(graph, Wanted()))
    ✗ 1 failed   ✓ 1 done   bold: critical path, 1.7 s
    ╙── load  ✓ done · 1.5 s
        └─╼ fit  ✗ failed · 200 ms
    <BLANKLINE>
    """
    import networkx as nx  # noqa: PLC0415 - slow to import, and only pictures need it

    drawing = drawing_of(graph, wanted)
    boxes: nx.DiGraph = nx.DiGraph()
    for place, box in enumerate(drawing.boxes):
        boxes.add_node(place, label="  ".join(filter(None, (box.label, box.detail, box.cluster))))
    boxes.add_edges_from((arrow.start, arrow.end) for arrow in drawing.arrows)
    lines = nx.generate_network_text(boxes) if boxes else ()
    return "\n".join([*legend_texts(drawing), *lines]) + "\n"


def node_link(graph: nx.DiGraph, wanted: Wanted) -> str:
    """Return a graph as JSON: every task with all that is known of it, and every edge.

    ``networkx.node_link_graph(data, edges="edges")`` makes a graph of it again. Only the focus of
    what is wanted counts: this is data, and no picture.
    """
    import networkx as nx  # noqa: PLC0415 - as above

    if wanted.focus is not None:
        graph, _ = focused(graph, wanted.focus)
    return json.dumps(nx.node_link_data(graph, edges="edges"), indent=1, default=str) + "\n"
