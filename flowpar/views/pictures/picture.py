"""A graph as a picture: in a file, or in a notebook.

Graphviz draws where it is installed, as the program ``dot`` or as a library (extra "viz"), and the
graph is not too large for it; otherwise SVG comes from `svg`, which needs nothing.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flowpar.errors import OptionError
from flowpar.policy import unknown_name
from flowpar.views.files import checked, write
from flowpar.views.pictures import engines
from flowpar.views.pictures.contents import Wanted, drawing_of
from flowpar.views.pictures.dot import dot_source
from flowpar.views.pictures.drawing import Drawing
from flowpar.views.pictures.mermaid import mermaid
from flowpar.views.pictures.svg import to_svg
from flowpar.views.pictures.texts import network_text, node_link

if TYPE_CHECKING:
    import networkx as nx

SUFFIXES: Final = (".svg", ".png", ".pdf", ".dot", ".mmd", ".txt", ".json")

_TEXTS: Final[dict[str, Callable[[nx.DiGraph, Wanted], str]]] = {
    ".dot": lambda graph, wanted: dot_source(drawing_of(graph, wanted)),
    ".mmd": mermaid,
    ".txt": network_text,
    ".json": node_link,
}
"""What needs no engine."""


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
    dot: str | None = None,
    **options: Any,
) -> Picture:
    """Draw a graph, into a file if there is to be one.

    Parameters
    ----------
    graph
        As `flowpar.graph.Graph.to_networkx` makes it.
    path
        Its suffix says what is written: ``.svg``, ``.png``, ``.pdf``; ``.dot`` (Graphviz), ``.mmd``
        (Mermaid), ``.txt`` (a tree), ``.json`` (networkx's node-link data). None: nothing.
    statuses
        Status by node; those that the graph has are used where this has none.
    dot
        The program of Graphviz to use; None: the one on the PATH.
    **options
        ``collapse``: True: one box for each function, with counts; False: one for each task;
        "auto": the first above 300 tasks or 1,000 edges. ``color``: "status", "time", "function",
        or "auto": by status if any is known. ``focus``: "failed", the key of a task or the name of
        a function: only that, and all one step around it. ``rankdir``: "LR" or "TB"; None: as there
        is room. ``cluster``: "module" or "group": what belongs together stands together.

    Raises
    ------
    OptionError
        If the suffix is another, or an option or its value; or if the graph is too large for the
        format.
    MissingExtra
        If the format needs ``dot`` and there is none. SVG never does.
    FlowparError
        If the format needs ``dot`` and it failed.

    Examples
    --------
    >>> import networkx
    >>> graph = networkx.DiGraph()
    >>> graph.add_node(0, key="load", function="load")
    >>> picture = draw(graph, rankdir="LR")
    >>> ">load<" in picture.svg
    True
    """
    wanted = wanted_of(options)
    file = None if path is None else checked(path, SUFFIXES, "a picture")
    if statuses:
        graph = _with_statuses(graph, statuses)
    drawing = functools.cache(lambda: drawing_of(graph, wanted))
    if file is None:
        # What was asked for wrongly is said here, and not when a notebook shows it.
        return Picture(None, functools.partial(_shown, drawing(), dot))
    suffix = file.suffix.lower()
    if suffix == ".svg":
        text = engines.svg_of(drawing(), dot, engines.DOT_TIMEOUT)
        write(file, text.encode())
        return Picture(file, lambda: text)
    if suffix in _TEXTS:
        write(file, _TEXTS[suffix](graph, wanted).encode())
    else:
        write(file, engines.render(drawing(), suffix[1:], dot))
    return Picture(file, lambda: _shown(drawing(), dot))


def wanted_of(options: Mapping[str, Any]) -> Wanted:
    """Return the options of a picture, checked.

    Raises
    ------
    OptionError
        If there is no such option, naming the nearest that is, or if a value is not legal.

    Examples
    --------
    >>> wanted_of({"color": "time"}).color
    'time'
    """
    names = dict.fromkeys(Wanted.__dataclass_fields__)
    for name in options:
        if name not in names:
            raise OptionError(unknown_name(name, names, "an option of a picture"))
    return Wanted(**options)


def _shown(drawing: Drawing, dot: str | None) -> str:
    """Return a drawing for a notebook, which must show something, whatever is wrong."""
    try:
        return engines.svg_of(drawing, dot, engines.NOTEBOOK_TIMEOUT)
    except Exception:  # noqa: BLE001 - such as a warning that is an error here
        return to_svg(drawing)


def _with_statuses(graph: nx.DiGraph, statuses: Mapping[int, str]) -> nx.DiGraph:
    graph = graph.copy()
    for node, status in statuses.items():
        graph.nodes[node]["status"] = status
    return graph
