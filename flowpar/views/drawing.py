"""What a picture of a graph shows: boxes and arrows, before anybody has placed them."""

from __future__ import annotations

import collections
import colorsys
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import networkx as nx

MOST_NODES: Final = 300
"""A graph of more tasks is drawn with one box for each function, unless it is asked for in full."""
MOST_EDGES: Final = 1_000
LONGEST_LABEL: Final = 200
LONGEST_TITLE: Final = 2_000
"""Graphviz 2.42 fails on strings of about 16,000 characters, and escapes make them longer."""

TIMES: Final = "\N{MULTIPLICATION SIGN}"
MICRO: Final = "\N{MICRO SIGN}"

_URGENCY: Final = ("failed", "running", "skipped", "waiting", "ready", "done", "cached")
"""Which status a box for many tasks shows: the first that any of them has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One task, or all those of one function. Its texts can be shown anywhere as they are."""

    label: str
    detail: str
    """Pool, status and seconds, as far as they are known; may be empty."""
    title: str
    """The label, not cut."""
    colour: str
    """Of the function, as ``#rrggbb``."""
    status: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """One edge, or all those between two functions; from a dependency to a dependent."""

    start: int
    """Place in `Drawing.boxes`."""
    end: int
    label: str
    """How many edges it stands for; empty if that is one."""
    order_only: bool
    """Whether no value passes: the dependent runs after, and that is all."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """Boxes in the order of the graph, and arrows between them by their places."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def drawing_of(
    graph: nx.DiGraph, statuses: Mapping[int, str] | None, *, collapse: bool | str
) -> Drawing:
    """Return what to draw of a graph.

    Parameters
    ----------
    graph
        As `flowpar.graph.Graph.to_networkx` makes it.
    statuses
        By node; they win over those that the graph has.
    collapse
        True: one box for each function; False: one for each task; "auto": False for graphs of up
        to 300 tasks and 1,000 edges.
    """
    nodes = {
        node: {**facts, "status": (statuses or {}).get(node, facts.get("status"))}
        for node, facts in graph.nodes(data=True)
    }
    if collapse == "auto":
        collapse = len(nodes) > MOST_NODES or graph.number_of_edges() > MOST_EDGES
    return _by_function(graph, nodes) if collapse else _by_task(graph, nodes)


def _by_task(graph: nx.DiGraph, nodes: dict[int, dict[str, Any]]) -> Drawing:
    palette = _Palette()
    places = {node: place for place, node in enumerate(nodes)}
    boxes = [
        Box(
            label=shown(facts["key"], LONGEST_LABEL),
            detail=_joined(facts["status"], facts.get("pool"), _seconds(facts.get("seconds"))),
            title=shown(facts["key"], LONGEST_TITLE),
            colour=palette.colour(facts["function"]),
            status=facts["status"],
        )
        for facts in nodes.values()
    ]
    arrows = [
        Arrow(start=places[u], end=places[v], label="", order_only=bool(facts.get("order_only")))
        for u, v, facts in graph.edges(data=True)
    ]
    return Drawing(tuple(boxes), tuple(arrows))


def _by_function(graph: nx.DiGraph, nodes: dict[int, dict[str, Any]]) -> Drawing:
    palette = _Palette()
    groups: dict[str, list[dict[str, Any]]] = {}
    for facts in nodes.values():
        groups.setdefault(facts["function"], []).append(facts)
    places = {name: place for place, name in enumerate(groups)}
    boxes = [_group(name, tasks, palette) for name, tasks in groups.items()]
    counts: collections.Counter[tuple[int, int]] = collections.Counter()
    with_value = set()
    for u, v, facts in graph.edges(data=True):
        pair = (places[nodes[u]["function"]], places[nodes[v]["function"]])
        counts[pair] += 1
        if not facts.get("order_only"):
            with_value.add(pair)
    arrows = [
        Arrow(
            start=pair[0],
            end=pair[1],
            label=f"{TIMES}{count:,}" if count > 1 else "",
            order_only=pair not in with_value,
        )
        for pair, count in counts.items()
    ]
    return Drawing(tuple(boxes), tuple(arrows))


def _group(name: str, tasks: list[dict[str, Any]], palette: _Palette) -> Box:
    times = f" {TIMES}{len(tasks):,}" if len(tasks) > 1 else ""
    statuses = collections.Counter(facts["status"] for facts in tasks if facts["status"])
    pools = dict.fromkeys(facts["pool"] for facts in tasks if facts.get("pool"))
    seconds = [facts["seconds"] for facts in tasks if facts.get("seconds") is not None]
    summary = ", ".join(f"{count:,} {status}" for status, count in statuses.most_common())
    return Box(
        label=shown(name, LONGEST_LABEL - len(times)) + times,
        detail=_joined(summary, "+".join(pools), _seconds(sum(seconds)) if seconds else None),
        title=shown(name, LONGEST_TITLE) + times,
        colour=palette.colour(name),
        status=next((status for status in _URGENCY if status in statuses), None),
    )


class _Palette:
    """Gives every function a colour of its own: pale ones, as text stands on them."""

    def __init__(self) -> None:
        self._colours: dict[str, str] = {}

    def colour(self, function: str) -> str:
        known = self._colours.get(function)
        if known is None:
            # Steps of the golden ratio keep any number of hues apart.
            hue = (0.58 + 0.618034 * len(self._colours)) % 1
            red, green, blue = colorsys.hls_to_rgb(hue, 0.86, 0.65)
            known = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
            self._colours[function] = known
        return known


def _joined(*parts: str | None) -> str:
    return " · ".join(shown(part, LONGEST_LABEL) for part in parts if part)


def _seconds(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds < 1e-3:  # noqa: PLR2004 - a unit
        return f"{seconds * 1e6:.0f} {MICRO}s"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:,.0f} s"  # noqa: PLR2004 - enough digits


def shown(text: str, longest: int) -> str:
    r"""Return a text with visible escapes for what XML cannot hold, cut to a length.

    Examples
    --------
    >>> print(shown("tab\tbell\x07", 200))
    tab\tbell\x07
    >>> shown("abcdef", 4)
    'abc…'
    """
    cut = text[: longest + 1]
    safe = cut if cut.isprintable() else "".join(map(_visible, cut))
    return safe if len(safe) <= longest else safe[: longest - 1] + "…"


def _visible(char: str) -> str:
    # Control characters and lone surrogates, and the two that Unicode has declared to be none.
    hidden = unicodedata.category(char) in {"Cc", "Cs"} or char in "\ufffe\uffff"
    return char.encode("unicode_escape").decode("ascii") if hidden else char


def columns(text: str) -> int:
    """Return how many columns a text takes in a font of fixed width."""
    if text.isascii():
        return len(text)
    return sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in text)
