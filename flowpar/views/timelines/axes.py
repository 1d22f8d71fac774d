"""A timeline in axes of matplotlib (extra "plot")."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as Outline

from flowpar.views.files import draft_of
from flowpar.views.timelines.bars import OTHERS, Bar, Layout, lay_out
from flowpar.views.timelines.spans import History
from flowpar.views.timelines.style import (
    FAILED_COLOUR,
    MARKS,
    MOVING,
    MOVING_COLOUR,
    RULE_COLOUR,
    WAITING,
    WAITING_COLOUR,
    Place,
    colours_of,
    edged_from,
    label_of,
    mark_of,
    name_of,
    places_of,
    subtitle_of,
)

_MOST_LABELS: Final = 60
_AT_ONCE: Final = 2_000
"""Rectangles in one path; what draws pixels has a limit."""

_HATCHES: Final = {"failed": "xxx", "repeated": "///", "running": "--"}
_EDGES: Final = {"failed": FAILED_COLOUR, "repeated": "#333333", "running": "#333333"}
_FAILURE: Final[dict[str, Any]] = {
    "linestyle": "none",
    "marker": "v",
    "markersize": 6,
    "markerfacecolor": FAILED_COLOUR,
    "markeredgecolor": "white",
    "markeredgewidth": 0.6,
}


def write_figure(history: History, file: Path) -> None:
    """Write the timeline of a run as SVG, PNG or PDF."""
    suffix = file.suffix.lower()
    # Text that stays text can be searched, and makes smaller files.
    style = {"svg.fonttype": "none", "svg.hashsalt": "flowpar"}
    with mpl.rc_context(style), draft_of(file) as draft, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        layout = lay_out(history)
        figure = Figure(figsize=_size(layout), layout="constrained")
        _draw(history, layout, figure.add_subplot())
        undated = {"Date": None} if suffix == ".svg" else None
        figure.savefig(draft, format=suffix[1:], dpi=120, metadata=undated)


def draw_axes(history: History, ax: Any) -> Any:
    """Draw the timeline of a run into these axes, and return them."""
    _draw(history, lay_out(history), ax)
    return ax


def new_axes(history: History) -> Any:
    """Return axes of a new figure, as large as this run needs, in the user's own backend."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - only who wants a window has one chosen

    _, ax = plt.subplots(figsize=_size(lay_out(history)), layout="constrained")
    return ax


def _size(layout: Layout) -> tuple[float, float]:
    rows = sum(each.height for each in layout.rows)
    legend = len(layout.shown) + len(MARKS) + 3
    return 10.0, min(max(1.1 + 0.42 * rows, 1.0 + 0.2 * legend), 24.0)


def _draw(history: History, layout: Layout, ax: Any) -> None:
    places = places_of(layout)
    _draw_lines(layout, places, ax)
    _draw_bars(history, layout, places, ax)
    _draw_failures(layout, places, ax)
    _dress(history, layout, places, ax)
    _add_legend(history, layout, ax)


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float


def _draw_lines(layout: Layout, places: list[Place], ax: Any) -> None:
    waiting: list[_Box] = []
    moving: list[_Box] = []
    for each, place in zip(layout.rows, places, strict=True):
        for strips, boxes in ((each.waiting, waiting), (each.moving, moving)):
            for start, end, share in strips:
                boxes.append(_Box(start, place.line(0), end, place.line(share)))
    _add_boxes(ax, waiting, facecolor=WAITING_COLOUR, linewidth=0)
    _add_boxes(ax, moving, facecolor=MOVING_COLOUR, linewidth=0)


def _draw_bars(history: History, layout: Layout, places: list[Place], ax: Any) -> None:
    colours = colours_of(history)
    groups: dict[tuple[int, str, bool], list[_Box]] = {}
    wide = edged_from(layout)
    for each, place in zip(layout.rows, places, strict=True):
        for bar in each.bars:
            is_wide = bar.span is not None and bar.end - bar.start > wide
            group = groups.setdefault((bar.function, mark_of(bar), is_wide), [])
            group.append(_Box(bar.start, place.bar(bar.bottom), bar.end, place.bar(bar.top)))
    for (function, mark, is_wide), boxes in groups.items():
        looks: dict[str, Any] = {"facecolor": colours[function], "linewidth": 0}
        if mark:
            looks |= {"hatch": _HATCHES[mark], "edgecolor": _EDGES[mark], "linewidth": 0.8}
        elif is_wide:
            looks |= {"edgecolor": "white", "linewidth": 0.5}
        _add_boxes(ax, boxes, **looks)


def _add_boxes(ax: Any, boxes: Sequence[_Box], **looks: Any) -> None:
    """Add rectangles as few paths: one each would take ten times the time and the room."""
    codes = [Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY]
    for first in range(0, len(boxes), _AT_ONCE):
        some = boxes[first : first + _AT_ONCE]
        corners = [corner for box in some for corner in _corners(box)]
        ax.add_patch(PathPatch(Outline(corners, codes * len(some)), **looks))


def _corners(box: _Box) -> Iterable[tuple[float, float]]:
    left, bottom, right, top = box
    return (left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)


def _draw_failures(layout: Layout, places: list[Place], ax: Any) -> None:
    """Mark what failed, also where its bar is too thin for a pattern."""
    found = [
        ((bar.start + bar.end) / 2, place.bar(bar.top))
        for each, place in zip(layout.rows, places, strict=True)
        for bar in each.bars
        if bar.failed
    ]
    if found:
        times, heights = zip(*found, strict=True)
        ax.plot(times, heights, **_FAILURE, zorder=4, clip_on=False)


def _dress(history: History, layout: Layout, places: list[Place], ax: Any) -> None:
    step = -(-len(places) // _MOST_LABELS) or 1
    labelled = list(zip(layout.rows, places, strict=True))[::step]
    ax.set_yticks(
        [place.bar(0.5) for _, place in labelled],
        [label_of(each) for each, _ in labelled],
        fontsize="small",
        parse_math=False,
    )
    ax.tick_params(axis="y", length=0)
    for place in places[:-1]:
        ax.axhline(place.bottom, color=RULE_COLOUR, linewidth=0.6, zorder=0)
    ax.set_xlim(0.0, layout.seconds * 1.005)  # so that the edge of the last bar is seen
    ax.set_ylim(0.0, sum(place.height for place in places) or 1.0)
    ax.ticklabel_format(axis="x", useOffset=False, style="plain")
    ax.set_xlabel("seconds since the run began")
    ax.grid(axis="x", color=RULE_COLOUR, linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "left", "right"):
        ax.spines[side].set_visible(False)
    title = f"{history.headline}\n{subtitle_of(history, layout)}"
    ax.set_title(title, loc="left", fontsize="medium", parse_math=False)


def _add_legend(history: History, layout: Layout, ax: Any) -> None:
    entries = list(_legend_entries(history, layout))
    if not entries:
        return
    legend = ax.legend(
        [handle for handle, _ in entries],
        [str(number) for number in range(len(entries))],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize="small",
    )
    # Put in afterwards: matplotlib would leave out what begins with an underscore.
    for text, (_, label) in zip(legend.get_texts(), entries, strict=True):
        text.set(text=label, parse_math=False)


def _legend_entries(history: History, layout: Layout) -> Iterable[tuple[Any, str]]:
    colours = colours_of(history)
    bars: list[Bar] = [bar for each in layout.rows for bar in each.bars]
    drawn, marks = {bar.function for bar in bars}, {mark_of(bar) for bar in bars}
    for number in [*layout.shown, OTHERS]:
        if number in drawn:
            yield Patch(facecolor=colours[number]), name_of(number, history, layout)
    if any(bar.failed for bar in bars):
        yield Line2D([], [], **_FAILURE), MARKS["failed"]
    for mark in ("repeated", "running"):
        if mark in marks:
            look: dict[str, Any] = {
                "facecolor": "white",
                "edgecolor": _EDGES[mark],
                "hatch": _HATCHES[mark],
            }
            yield Patch(**look), MARKS[mark]
    if any(each.waiting for each in layout.rows):
        yield Patch(facecolor=WAITING_COLOUR), WAITING
    if any(each.moving for each in layout.rows):
        yield Patch(facecolor=MOVING_COLOUR), MOVING
