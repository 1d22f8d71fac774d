"""What a timeline looks like, whoever draws it: places, colours and words."""

from __future__ import annotations

from typing import Final, NamedTuple

from flowpar.views.pictures.drawing import Palette, duration, shown
from flowpar.views.timelines.bars import OTHERS, Bar, Layout, RowOfBars
from flowpar.views.timelines.spans import History

OTHERS_COLOUR: Final = "#9aa0a6"
FAILED_COLOUR: Final = "#c62828"
WAITING_COLOUR: Final = "#c9d0d9"
MOVING_COLOUR: Final = "#6d7f95"
RULE_COLOUR: Final = "#e3e6ea"

WAITING: Final = "waiting for the worker"
MOVING: Final = "on the way, there or back"

MARKS: Final = {
    "failed": "failed",
    "repeated": "tried again later",
    "running": "cut off by the end",
}
"""The statuses of bars that are marked by a pattern, with what a legend calls them."""

LONGEST_NAME: Final = 32

_LIGHTS: Final = (0.60, 0.44, 0.70)
"""Of the colours of functions, in turn: not everybody tells hues apart."""


class Place(NamedTuple):
    """Where a row is: from its lower edge on, upwards. A row of one lane is 1 high."""

    bottom: float
    height: float

    def bar(self, share: float) -> float:
        """Return how high a share of the part for bars is."""
        low, high = self.bottom + 0.25, self.bottom + self.height - 0.06
        return low + share * (high - low)

    def line(self, share: float) -> float:
        """Return how high a share of the line beneath the bars is."""
        return self.bottom + 0.06 + share * 0.13


def places_of(layout: Layout) -> list[Place]:
    """Return where each row is; the first lies on top, and the last one's lower edge at 0."""
    places = []
    top = sum(each.height for each in layout.rows)
    for each in layout.rows:
        top -= each.height
        places.append(Place(top, each.height))
    return places


def edged_from(layout: Layout) -> float:
    """Return from how many seconds on bars have a white edge; of thinner ones nothing were left."""
    return layout.seconds / 200


def colours_of(history: History) -> dict[int, str]:
    """Return the colour of each function, with the hue that it has in pictures of the graph."""
    palette = Palette(_LIGHTS, 0.55)
    colours = {number: palette.colour(name) for number, name in enumerate(history.functions)}
    return {**colours, OTHERS: OTHERS_COLOUR}


def mark_of(bar: Bar) -> str:
    """Return which of `MARKS` a bar has; empty if none."""
    return bar.span.status if bar.span is not None and bar.span.status in MARKS else ""


def name_of(function: int, history: History, layout: Layout) -> str:
    """Return what a function is called in a legend."""
    if function == OTHERS:
        return f"{layout.others:,} other function{'s' if layout.others > 1 else ''}"
    return shown(history.functions[function], LONGEST_NAME)


def label_of(each: RowOfBars) -> str:
    """Return what stands beside a row."""
    pool, worker = each.row.pool, each.row.worker
    if worker == "?":
        name = f"unknown ({pool})"
    elif pool in {"processes", "threads"}:
        name = worker
    else:
        name = f"{worker} ({pool})"
    name = shown(name, LONGEST_NAME)
    many = each.most_at_once
    return f"{name}\n\N{LESS-THAN OR EQUAL TO} {many:,} at once" if many > 1 else name


def subtitle_of(history: History, layout: Layout) -> str:
    """Return what there is to say of all rows together."""
    idle = history.idle_share()
    if idle is None:
        return "nothing was called"
    count = len(layout.rows)
    text = f"{count:,} workers" if count > 1 else "1 worker"
    text += f", idle for {100 * idle:.0f} % of the time"
    if layout.column:
        text += f"; calls under {duration(layout.column)} are added up, height: share of time"
    if any(each.is_area for each in layout.rows):
        text += "; areas: how many at once"
    return text
