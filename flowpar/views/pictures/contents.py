"""What stands in a picture of a graph: which boxes, with which texts and colours."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from flowpar.errors import OptionError
from flowpar.policy import check_choice
from flowpar.views.pictures.choosing import critical_path, focused
from flowpar.views.pictures.drawing import (
    LONGEST_LABEL,
    LONGEST_TITLE,
    TIMES,
    Arrow,
    Box,
    Drawing,
    Note,
    duration,
    joined,
    shown,
)
from flowpar.views.pictures.styles import (
    COLOURS,
    ByFunction,
    ByStatus,
    ByTime,
    Ink,
    counted,
    said,
    summed,
)

if TYPE_CHECKING:
    import networkx as nx

    from flowpar.views.pictures.nodes import Nodes

MOST_NODES: Final = 300
"""A graph of more tasks is drawn with one box for each function, unless it is asked for in full."""
MOST_EDGES: Final = 1_000
LONGEST_REASON: Final = 48
"""What is shown in a box of why its task failed; the title has all."""

CLUSTERS: Final = ("module", "group")
_NOT_SHOWN: Final = frozenset({"_operator", "builtins", "flowpar"})
RANKDIRS: Final = ("LR", "TB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a graph is to be drawn; as in `flowpar.views.pictures.picture.draw`."""

    collapse: bool | str = "auto"
    color: str = "auto"
    focus: str | None = None
    rankdir: str | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.collapse, bool) and self.collapse != "auto":
            raise OptionError(f"collapse takes True, False or 'auto', and not {self.collapse!r}")
        check_choice("color", self.color, COLOURS)
        if self.rankdir is not None:
            check_choice("rankdir", self.rankdir, RANKDIRS)
        if self.cluster is not None:
            check_choice("cluster", self.cluster, CLUSTERS)
        if self.focus is not None and not isinstance(self.focus, str):
            raise OptionError(
                f"focus takes 'failed', the key of a task or the name of a function, and not "
                f"{self.focus!r}"
            )


EVERYTHING: Final = Wanted()


def drawing_of(
    graph: nx.DiGraph | Nodes, wanted: Wanted = EVERYTHING, *, most_edges: int = MOST_EDGES
) -> Drawing:
    """Return what to draw of a graph.

    Parameters
    ----------
    graph
        As `flowpar.graph.Graph.to_networkx` makes it.
    wanted
        How it is to be drawn.
    most_edges
        Of a graph with more, one box for each function is drawn, if that was left open.
    """
    path = critical_path(graph)
    legend = _legend_of(graph, path)
    if wanted.focus is not None:
        whole, (graph, count) = graph, focused(graph, wanted.focus)
        legend = legend if any(node in graph for node in path) else []
        legend = [_focus_note(wanted.focus, count, graph, whole), *legend]
    collapse = wanted.collapse
    if collapse == "auto":
        collapse = len(graph) > MOST_NODES or graph.number_of_edges() > most_edges
    contents = _parted(graph, wanted, by_function=bool(collapse))
    ink = _ink(graph, contents, wanted.color)
    boxes = _boxes(contents, ink, set(path))
    arrows = _arrows(graph, contents, set(itertools.pairwise(path)))
    return Drawing(boxes, arrows, (*ink.legend(), *legend), wanted.rankdir)


def _legend_of(graph: nx.DiGraph, path: list[int]) -> list[Note]:
    seconds = sum(graph.nodes[node].get("seconds") or 0.0 for node in path)
    return [Note(f"bold: critical path, {duration(seconds)}")] if path else []


def _focus_note(focus: str, count: int, graph: nx.DiGraph, whole: nx.DiGraph) -> Note:
    if not count:
        counts = counted(facts.get("status") for _, facts in whole.nodes(data=True))
        return Note(f"nothing failed: {', '.join(summed(counts)) or 'no tasks'}")
    of = f"{len(graph):,} of {len(whole):,} tasks"
    many = f" {TIMES}{count:,}" if count > 1 else ""
    return Note(f"{shown(focus, 40)}{many} and what is next to it: {of}")


# ------------------------------------------------------------------------------------- boxes


@dataclass(frozen=True, slots=True)
class _Content:
    """The tasks of one box."""

    name: str
    cluster: str | None
    nodes: list[int]
    tasks: list[Mapping[str, Any]]
    """The facts of each node."""
    is_one: bool
    """Whether it stands for one task, and not for a function."""

    @property
    def statuses(self) -> list[str | None]:
        return [facts.get("status") for facts in self.tasks]

    @property
    def times(self) -> list[float]:
        return [facts["seconds"] for facts in self.tasks if facts.get("seconds") is not None]

    @property
    def seconds(self) -> float | None:
        times = self.times
        return sum(times) if times else None


def _parted(graph: nx.DiGraph, wanted: Wanted, *, by_function: bool) -> list[_Content]:
    contents: dict[object, _Content] = {}
    for node, facts in graph.nodes(data=True):
        cluster = _cluster(facts, wanted.cluster)
        name = facts["function"] if by_function else facts["key"]
        # Functions of one name in two modules stay apart where modules are shown.
        place = (cluster, name) if by_function else node
        content = contents.setdefault(place, _Content(name, cluster, [], [], not by_function))
        content.nodes.append(node)
        content.tasks.append(facts)
    return list(contents.values())


def _cluster(facts: Mapping[str, Any], kind: str | None) -> str | None:
    found = facts.get(kind) if kind else None
    # Operators, and what flowpar itself calls, stand between the modules of the user's.
    is_nobodys = kind == "module" and found and found.split(".")[0] in _NOT_SHOWN
    return None if found is None or is_nobodys else str(found)


def _ink(graph: nx.DiGraph, contents: Sequence[_Content], color: str) -> Ink:
    if color == "auto":
        any_known = any(facts.get("status") for _, facts in graph.nodes(data=True))
        color = "status" if any_known else "function"
    if color == "time":
        return ByTime(content.seconds for content in contents)
    return ByStatus() if color == "status" else ByFunction()


def _boxes(contents: Sequence[_Content], ink: Ink, critical: set[int]) -> tuple[Box, ...]:
    return tuple(
        Box(
            label=_label(content),
            detail=_detail(content),
            title=_title(content),
            colour=ink.fill(content.tasks[0]["function"], content.statuses, content.seconds),
            status=_status(content),
            stripes=ink.stripes(content.statuses),
            cluster=None if content.cluster is None else shown(content.cluster, LONGEST_LABEL),
            is_critical=not critical.isdisjoint(content.nodes),
        )
        for content in contents
    )


def _label(content: _Content, longest: int = LONGEST_LABEL) -> str:
    times = f" {TIMES}{len(content.nodes):,}" if len(content.nodes) > 1 else ""
    return shown(content.name, longest - len(times)) + times


def _title(content: _Content) -> str:
    label = _label(content, LONGEST_TITLE)
    reason = content.tasks[0].get("reason") if content.is_one else None
    return f"{label} · {shown(str(reason), LONGEST_TITLE)}" if reason else label


def _status(content: _Content) -> str | None:
    """Return the status that a box has a border for: that of all, or one that people look for."""
    counts = counted(content.statuses)
    for urgent in ("failed", "running"):
        if urgent in counts:
            return urgent
    return next(iter(counts)) if len(counts) == 1 else None


def _detail(content: _Content) -> str:
    is_one = len(content.tasks) == 1
    return _task_detail(content.tasks[0]) if is_one else _function_detail(content)


def _task_detail(facts: Mapping[str, Any]) -> str:
    status, seconds = facts.get("status"), facts.get("seconds")
    why = str(facts.get("reason") or "") if status == "failed" else ""
    return joined(
        said(status, shown(why, LONGEST_REASON)),
        facts.get("pool"),
        None if seconds is None else duration(seconds),
    )


def _function_detail(content: _Content) -> str:
    pools = dict.fromkeys(facts["pool"] for facts in content.tasks if facts.get("pool"))
    times = content.times
    took = duration(sum(times)) if times else None
    if took and len(times) > 1:
        took = f"{took} in all, mean {duration(sum(times) / len(times))}"
    return joined(", ".join(summed(counted(content.statuses))), "+".join(pools), took)


# ------------------------------------------------------------------------------------ arrows


def _arrows(
    graph: nx.DiGraph, contents: Sequence[_Content], critical: set[tuple[int, int]]
) -> tuple[Arrow, ...]:
    places = {node: place for place, content in enumerate(contents) for node in content.nodes}
    counts: collections.Counter[tuple[int, int]] = collections.Counter()
    with_value, bold = set(), set()
    for u, v, facts in graph.edges(data=True):
        pair = (places[u], places[v])
        counts[pair] += 1
        if not facts.get("order_only"):
            with_value.add(pair)
        if (u, v) in critical:
            bold.add(pair)
    return tuple(
        Arrow(
            start=pair[0],
            end=pair[1],
            label=f"{TIMES}{count:,}" if count > 1 else "",
            order_only=pair not in with_value,
            is_critical=pair in bold,
        )
        for pair, count in counts.items()
    )
