"""Graphs in the language of Mermaid, which many sites show within Markdown."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from flowpar.views.pictures.contents import Wanted, drawing_of
from flowpar.views.pictures.dot import legend_texts
from flowpar.views.pictures.drawing import Arrow, Box, Drawing
from flowpar.views.pictures.layered import is_wide

if TYPE_CHECKING:
    import networkx as nx

MOST_EDGES: Final = 400
MOST_CHARACTERS: Final = 45_000
"""Sites refuse more than 500 edges, and 50,000 characters."""

_SPECIAL: Final = re.compile(r"[^\w ,()\[\]=\u0080-\U0010ffff]", re.ASCII)
"""All that could mean something to Mermaid, to Markdown or to HTML."""

_BORDERS: Final = {
    "failed": "stroke:#8b0000,stroke-width:3px",
    "running": "stroke:#d94801,stroke-width:3px",
    "cached": "stroke:#1565c0,stroke-dasharray:2 2",
    "skipped": "stroke:#888,stroke-dasharray:5 3",
    "waiting": "stroke:#888,stroke-dasharray:5 3",
    "ready": "stroke:#888,stroke-dasharray:5 3",
    "unknown": "stroke:#888,stroke-dasharray:5 3",
}


def mermaid(graph: nx.DiGraph, wanted: Wanted) -> str:
    """Return a graph as a flowchart.

    One of more than 400 edges or 45,000 characters has one box for each function, unless
    ``collapse`` is False: sites show no larger ones.

    Examples
    --------
    >>> import networkx
    >>> graph = networkx.DiGraph()
    >>> graph.add_node(0, key="load", function="load")
    >>> graph.add_node(1, key="<fit>", function="fit")
    >>> graph.add_edge(0, 1)
    >>> print(mermaid(graph, Wanted()))
    flowchart TB
      n0["load"]:::c0
      n1["#60;fit#62;"]:::c1
      n0 --> n1
      classDef c0 fill:#...,stroke:#555,color:#000
      classDef c1 fill:#...,stroke:#555,color:#000
    <BLANKLINE>
    """
    text = _flowchart(drawing_of(graph, wanted, most_edges=MOST_EDGES))
    if wanted.collapse == "auto" and len(text) > MOST_CHARACTERS:
        text = _flowchart(drawing_of(graph, dataclasses.replace(wanted, collapse=True)))
    return text


def _flowchart(drawing: Drawing) -> str:
    styles: dict[str, int] = {}
    classes = [styles.setdefault(_style(box), len(styles)) for box in drawing.boxes]
    nodes = [
        (box.cluster, f'n{place}["{_texts(box)}"]:::c{number}')
        for place, (box, number) in enumerate(zip(drawing.boxes, classes, strict=True))
    ]
    lines = [
        f"flowchart {'LR' if is_wide(drawing) else 'TB'}",
        *(f"  %% {re.sub('[{}]', ' ', text)}" for text in legend_texts(drawing)),
        *(f"  {node}" for cluster, node in nodes if cluster is None),
        *_clusters(nodes),
        *(f"  {_link(arrow)}" for arrow in drawing.arrows),
        *(f"  classDef c{number} {style}" for style, number in styles.items()),
    ]
    return "\n".join(lines) + "\n"


def _clusters(nodes: Iterable[tuple[str | None, str]]) -> Iterator[str]:
    clusters: dict[str, list[str]] = {}
    for cluster, node in nodes:
        if cluster is not None:
            clusters.setdefault(cluster, []).append(node)
    for number, (cluster, members) in enumerate(clusters.items()):
        yield f'  subgraph g{number}["{_literal(cluster)}"]'
        yield from (f"    {member}" for member in members)
        yield "  end"


def _texts(box: Box) -> str:
    return "<br>".join(_literal(text) for text in (box.label, box.detail) if text) or " "


def _literal(text: str) -> str:
    return _SPECIAL.sub(lambda match: f"#{ord(match[0])};", text)


def _style(box: Box) -> str:
    plain = "stroke:#111,stroke-width:3px" if box.is_critical else "stroke:#555"
    is_loud = box.status == "failed" or not box.is_critical
    border = _BORDERS.get(box.status or "", plain) if is_loud else plain
    return f"fill:{box.colour},{border},color:#000"


def _link(arrow: Arrow) -> str:
    line = "==>" if arrow.is_critical else "-.->" if arrow.order_only else "-->"
    label = f'|"{_literal(arrow.label)}"|' if arrow.label else ""
    return f"n{arrow.start} {line}{label} n{arrow.end}"
