"""A graph as a picture: in a file, or in a notebook.

Graphviz's program ``dot`` draws where it is installed and the graph is not too large for it;
otherwise SVG comes from `flowpar.views.layered`, which needs nothing.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flowpar.errors import FlowparError, FlowparWarning, MissingExtra, OptionError
from flowpar.views.drawing import Arrow, Box, Drawing, drawing_of
from flowpar.views.layered import escaped, is_wide, to_svg

if TYPE_CHECKING:
    import networkx as nx

SUFFIXES: Final = (".svg", ".png", ".pdf", ".dot")
DOT_TIMEOUT: Final = 30.0
"""Seconds that ``dot`` may take; it is worse than linear, and 40,000 edges took it 77 s."""
NOTEBOOK_TIMEOUT: Final = 5.0
"""The same where somebody waits for a cell."""
MOST_NODES: Final = 3_000
"""Above this ``dot`` is not called."""
MOST_EDGES: Final = 8_000


class Picture:
    """A graph that was drawn.

    Attributes
    ----------
    path
        The file; None if there was to be none.
    svg
        The picture as text; drawn when first asked for, if the file is not SVG.
    """

    def __init__(self, path: Path | None, svg: Callable[[], str]) -> None:
        self.path = path
        self._svg = svg

    @functools.cached_property
    def svg(self) -> str:
        """The picture as text."""
        return self._svg()

    def __str__(self) -> str:
        return str(self.path) if self.path else repr(self)

    def __repr__(self) -> str:
        return f"<Picture {self.path}>" if self.path else "<Picture>"

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        del include, exclude
        return {"image/svg+xml": self.svg, "text/plain": str(self)}


def draw(
    graph: nx.DiGraph,
    path: str | os.PathLike[str] | None = None,
    *,
    statuses: Mapping[int, str] | None = None,
    collapse: bool | str = "auto",
    dot: str | None = None,
) -> Picture:
    """Draw a graph, into a file if there is to be one.

    Parameters
    ----------
    graph
        As `flowpar.graph.Graph.to_networkx` makes it.
    path
        Its suffix says what is written: ``.svg``, ``.png``, ``.pdf`` or ``.dot``. None: nothing.
    statuses
        Status by node; those that the graph has are used where this has none.
    collapse
        True: one box for each function, with counts; False: one for each task; "auto": the first
        above 300 tasks or 1,000 edges.
    dot
        The program of Graphviz to use; None: the one on the PATH.

    Raises
    ------
    OptionError
        If the suffix is another, or `collapse`; or if the graph is too large for the format.
    MissingExtra
        If the format needs ``dot`` and there is none. SVG never does.
    FlowparError
        If the format needs ``dot`` and it failed.

    Examples
    --------
    >>> import networkx
    >>> graph = networkx.DiGraph()
    >>> graph.add_node(0, key="load", function="load")
    >>> picture = draw(graph)
    >>> ">load<" in picture.svg
    True
    """
    if collapse not in {True, False, "auto"}:
        raise OptionError(f"collapse takes True, False or 'auto', and not {collapse!r}")
    file = None if path is None else Path(path)
    suffix = "" if file is None else _suffix(file)
    drawing = drawing_of(graph, statuses, collapse=collapse)
    dot = dot or shutil.which("dot")
    if file is None:
        return Picture(None, functools.partial(_svg, drawing, dot, NOTEBOOK_TIMEOUT))
    if suffix == ".svg":
        text = _svg(drawing, dot, DOT_TIMEOUT)
        _write(file, text.encode())
        return Picture(file, lambda: text)
    _write(file, _not_svg(drawing, suffix, dot))
    return Picture(file, functools.partial(_svg, drawing, dot, NOTEBOOK_TIMEOUT))


def _suffix(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise OptionError(
            f"a picture cannot be written to {str(file)!r}: its name must end in one of "
            f"{', '.join(SUFFIXES)}"
        )
    return suffix


def _write(file: Path, data: bytes) -> None:
    """Write a file in one step: it is whole, or as it was."""
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file} cannot be written: there is no folder {file.parent}")
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    try:
        draft.write_bytes(data)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------ engines


def _svg(drawing: Drawing, dot: str | None, timeout: float) -> str:
    """Return SVG, by `dot` if it can."""
    if dot is None or _is_too_large(drawing):
        return to_svg(drawing)
    try:
        text = _run_dot(dot, drawing, "svg", timeout).decode()
    except FlowparError as error:
        warnings.warn(f"{error}; drawn without it", FlowparWarning, stacklevel=2)
        return to_svg(drawing)
    return _with_titles(text, drawing)


def _not_svg(drawing: Drawing, suffix: str, dot: str | None) -> bytes:
    if suffix == ".dot":
        return dot_source(drawing).encode()
    if _is_too_large(drawing):
        raise OptionError(
            f"{len(drawing.boxes):,} boxes and {len(drawing.arrows):,} arrows are too many for "
            f"{suffix}: use .svg or .dot, or leave `collapse` out"
        )
    if dot is None:
        raise MissingExtra(
            f"{suffix} is drawn by the program `dot`, which is not installed (it comes with "
            "Graphviz: apt install graphviz); .svg and .dot need nothing",
            extra="graphviz",
        )
    return _run_dot(dot, drawing, suffix[1:], DOT_TIMEOUT)


def _is_too_large(drawing: Drawing) -> bool:
    return len(drawing.boxes) > MOST_NODES or len(drawing.arrows) > MOST_EDGES


def _run_dot(dot: str, drawing: Drawing, kind: str, timeout: float) -> bytes:
    # By ourselves, because the graphviz package has no time limit and leaves files behind.
    source = dot_source(drawing).encode()
    try:
        result = subprocess.run(  # noqa: S603 - the user's own program, given no user text
            [dot, f"-T{kind}"], input=source, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise FlowparError(f"{dot} had not drawn the graph after {timeout:g} s") from None
    except OSError as error:
        raise FlowparError(f"{dot} could not be started: {error}") from None
    if result.returncode or not result.stdout:
        words = result.stderr.decode(errors="replace").strip()[:200]
        raise FlowparError(f"{dot} failed with exit code {result.returncode}: {words}")
    return result.stdout


def _with_titles(svg: str, drawing: Drawing) -> str:
    """Put the full names where dot has put its own, such as n0: browsers show them."""

    def node(match: re.Match[str]) -> str:
        return f"<title>{escaped(drawing.boxes[int(match[1])].title)}</title>"

    def edge(match: re.Match[str]) -> str:
        start, end = drawing.boxes[int(match[1])], drawing.boxes[int(match[2])]
        return f"<title>{escaped(start.title)} → {escaped(end.title)}</title>"

    svg = re.sub(r"<title>n(\d+)</title>", node, svg)
    return re.sub(r"<title>n(\d+)&#45;&gt;n(\d+)</title>", edge, svg)


# ----------------------------------------------------------------------------------------- DOT

_BORDERS: Final[dict[str, dict[str, str]]] = {
    "failed": {"color": "#c62828", "penwidth": "3"},
    "running": {"color": "#ef6c00", "penwidth": "3"},
    "cached": {"color": "#1565c0", "style": "rounded,filled,dotted"},
    "skipped": {"color": "#888888", "style": "rounded,filled,dashed"},
    "waiting": {"color": "#888888", "style": "rounded,filled,dashed"},
    "ready": {"color": "#888888", "style": "rounded,filled,dashed"},
}


def dot_source(drawing: Drawing) -> str:
    """Return a drawing in the language of Graphviz. Boxes are ``n0``, ``n1``, … by their places."""
    import graphviz  # noqa: PLC0415 - slow to import, and only pictures need it

    source = graphviz.Digraph(
        "flowpar",
        graph_attr={
            "rankdir": "LR" if is_wide(drawing) else "TB",
            "ranksep": "0.6",
            "nodesep": "0.12",
        },
        node_attr={
            "shape": "box",
            "style": "rounded,filled",
            "fontname": "DejaVu Sans Mono,Menlo,Consolas,monospace",
            "fontsize": "10",
            "height": "0.25",
            "margin": "0.08,0.04",
            "color": "#555555",
        },
        edge_attr={"color": "#777777", "arrowsize": "0.6", "fontsize": "9"},
    )
    for place, box in enumerate(drawing.boxes):
        source.node(f"n{place}", **_node_attributes(box))
    for arrow in drawing.arrows:
        source.edge(f"n{arrow.start}", f"n{arrow.end}", **_edge_attributes(arrow))
    return str(source.source)


def _node_attributes(box: Box) -> dict[str, Any]:
    import graphviz  # noqa: PLC0415 - as above

    # Joined after escaping: the line break between them is Graphviz's own.
    lines = r"\n".join(_literal(line) for line in (box.label, box.detail) if line)
    return {
        "label": graphviz.nohtml(lines),
        "tooltip": graphviz.nohtml(_literal(box.title)),
        "fillcolor": box.colour,
        **_BORDERS.get(box.status or "", {}),
    }


def _edge_attributes(arrow: Arrow) -> dict[str, str]:
    attributes = {"label": arrow.label} if arrow.label else {}
    return {**attributes, "style": "dashed"} if arrow.order_only else attributes


def _literal(text: str) -> str:
    """Return a text as Graphviz shows it unchanged: it knows XML's entities, and its own."""
    import graphviz  # noqa: PLC0415 - as above

    return str(graphviz.escape(text.replace("&", "&amp;")))
