"""A drawing in the language of Graphviz."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flowpar.views.pictures.drawing import LEGEND_GAP, Arrow, Box, Drawing
from flowpar.views.pictures.layered import is_wide

if TYPE_CHECKING:
    import graphviz

FONT: Final = "DejaVu Sans Mono,Menlo,Consolas,monospace"

_BORDERS: Final[dict[str, dict[str, str]]] = {
    "failed": {"color": "#8b0000", "penwidth": "3"},
    "running": {"color": "#d94801", "penwidth": "2.5"},
    "cached": {"color": "#1565c0", "style": "rounded,filled,dotted"},
    "skipped": {"color": "#888888", "style": "rounded,filled,dashed"},
    "waiting": {"color": "#888888", "style": "rounded,filled,dashed"},
    "ready": {"color": "#888888", "style": "rounded,filled,dashed"},
    "unknown": {"color": "#888888", "style": "rounded,filled,dashed"},
}
_CRITICAL: Final = {"color": "#111111", "penwidth": "2.5"}


def dot_source(drawing: Drawing, font: str = FONT) -> str:
    """Return a drawing in the language of Graphviz. Boxes are ``n0``, ``n1``, … by their places.

    Parameters
    ----------
    drawing
        What is to be drawn.
    font
        Name of a font, or several; an engine without fonts takes their widths from the name.
    """
    import graphviz  # noqa: PLC0415 - slow to import, and only pictures need it

    source = graphviz.Digraph(
        "flowpar",
        graph_attr={
            "rankdir": "LR" if is_wide(drawing) else "TB",
            "ranksep": "0.6",
            "nodesep": "0.12",
            "fontname": font,
            "fontsize": "10",
            **_legend(drawing),
        },
        node_attr={
            "shape": "box",
            "style": "rounded,filled",
            "fontname": font,
            "fontsize": "10",
            "height": "0.25",
            "margin": "0.08,0.04",
            "color": "#555555",
        },
        edge_attr={"color": "#777777", "arrowsize": "0.6", "fontsize": "9", "fontname": font},
    )
    _add_boxes(source, drawing)
    for arrow in drawing.arrows:
        source.edge(f"n{arrow.start}", f"n{arrow.end}", **_edge_attributes(arrow))
    return str(source.source)


def _legend(drawing: Drawing) -> dict[str, str]:
    import graphviz  # noqa: PLC0415 - as above

    if not drawing.legend:
        return {}
    # Each line ends in what puts it to the left; the empty one is a distance.
    lines = (_literal(text) + r"\l" for text in [*legend_texts(drawing), ""])
    return {"label": graphviz.nohtml("".join(lines)), "labelloc": "t", "labeljust": "l"}


def legend_texts(drawing: Drawing) -> list[str]:
    """Return the lines of a legend, without colours."""
    return [LEGEND_GAP.join(note.text for note in line) for line in drawing.legend_lines()]


def _add_boxes(source: graphviz.Digraph, drawing: Drawing) -> None:
    import graphviz  # noqa: PLC0415 - as above

    clusters: dict[str, graphviz.Digraph] = {}
    for place, box in enumerate(drawing.boxes):
        home = source
        if box.cluster is not None:
            attributes = {
                "label": graphviz.nohtml(_literal(box.cluster)),
                "labeljust": "l",
                "labelloc": "t",
                "style": "rounded,filled",
                "color": "#bbbbbb",
                "fillcolor": "#f7f7f7",
            }
            name = f"cluster_{len(clusters)}"
            home = clusters.setdefault(box.cluster, graphviz.Digraph(name, graph_attr=attributes))
        home.node(f"n{place}", **_node_attributes(box))
    for cluster in clusters.values():
        source.subgraph(cluster)


def _node_attributes(box: Box) -> dict[str, Any]:
    import graphviz  # noqa: PLC0415 - as above

    # Joined after escaping: the line break between them is Graphviz's own.
    lines = r"\n".join(_literal(line) for line in (box.label, box.detail) if line)
    return {
        "label": graphviz.nohtml(lines),
        "tooltip": graphviz.nohtml(_literal(box.title)),
        "fillcolor": box.colour,
        **_border(box),
        **_stripes(box),
    }


def _border(box: Box) -> dict[str, str]:
    # What failed is known to be on the path by the arrows.
    if box.is_critical and box.status != "failed":
        return _CRITICAL
    return _BORDERS.get(box.status or "", {})


def _stripes(box: Box) -> dict[str, str]:
    if not box.stripes:
        return {}
    # The last takes what is left: shares that add up to more than one are refused.
    *shares, last = box.stripes
    colours = [*(f"{colour};{share:.3f}" for colour, share in shares), last[0]]
    return {"style": "striped", "fillcolor": ":".join(colours)}


def _edge_attributes(arrow: Arrow) -> dict[str, str]:
    attributes = {"label": f" {arrow.label} "} if arrow.label else {}
    attributes |= {"style": "dashed"} if arrow.order_only else {}
    return attributes | ({"color": "#222222", "penwidth": "2.5"} if arrow.is_critical else {})


def _literal(text: str) -> str:
    """Return a text as Graphviz shows it unchanged: it knows XML's entities, and its own."""
    import graphviz  # noqa: PLC0415 - as above

    return str(graphviz.escape(text.replace("&", "&amp;")))
