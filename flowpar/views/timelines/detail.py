"""The calls that a timeline adds up, one by one, for those who zoom in; drawn by bokeh.

The page carries both, and shows bars of many calls until so little of the run is in sight that the
calls can be told apart::

    the whole run   ▇▅▇▆   bars of many calls
    a part of it    ▇ ▇▇   each call
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from bokeh.models import AllIndices, ColumnDataSource, CustomJS, HoverTool, IndexFilter

from flowpar.views.pictures.drawing import duration, shown
from flowpar.views.timelines.bars import Bar, Layout
from flowpar.views.timelines.spans import History
from flowpar.views.timelines.style import MARKS, Place, mark_of

MOST_CALLS: Final = 60_000
"""That a page carries one by one, in about 50 bytes each; of more, those that took longest."""

_IN_SIGHT: Final = 500
"""So many calls of a row can be told apart."""
_LONGEST_KEY: Final = 60

_SWITCH: Final = """
const near = cb_obj.end - cb_obj.start < seconds
for (const {view} of each_call) view.filter = near ? all : none
for (const {view} of many_calls) view.filter = near ? none : all
"""


class Call(NamedTuple):
    """One call that is added up with others, and where its row is."""

    bar: Bar
    place: Place


class Detail:
    """The calls of a timeline that are drawn when one zooms in.

    Parameters
    ----------
    history, layout, places
        Of the timeline.
    """

    def __init__(self, history: History, layout: Layout, places: Sequence[Place]) -> None:
        rows = zip(layout.rows, places, strict=True)
        calls = [Call(bar, place) for each, place in rows for bar in each.added_up]
        self.is_whole = len(calls) <= MOST_CALLS
        if not self.is_whole:
            calls = heapq.nlargest(MOST_CALLS, calls, key=_seconds)
        self._history = history
        most = max((len(each.added_up) for each in layout.rows), default=0)
        self._seconds = layout.seconds * min(_IN_SIGHT / most, 0.5) if most else 0.0
        self._calls: dict[int, dict[str, list[Call]]] = {}
        for call in calls:
            of_function = self._calls.setdefault(call.bar.function, {})
            of_function.setdefault(mark_of(call.bar), []).append(call)
        self._drawn: list[Any] = []

    def __str__(self) -> str:
        if not self._calls:
            return ""
        which = "each" if self.is_whole else f"the {MOST_CALLS:,} that took longest"
        return f"; zoom in to {duration(self._seconds)} to see {which}"

    def draw(self, plot: Any, function: int, looks: dict[str, dict[str, Any]]) -> Iterator[Any]:
        """Draw the calls of a function; they are not seen yet.

        Parameters
        ----------
        plot
            Where to.
        function
            As `Bar` has it.
        looks
            By mark: how a bar looks.
        """
        for mark, calls in sorted(self._calls.get(function, {}).items(), reverse=True):
            drawn = plot.quad(
                source=self._source(calls),
                left="left",
                right="right",
                bottom="bottom",
                top="top",
                **looks[mark],
            )
            drawn.view.filter = IndexFilter(indices=[])
            status = MARKS.get(mark, "")
            tip = f"<b>@what</b><br>{status} @seconds{{0.000000}} s"
            plot.add_tools(HoverTool(renderers=[drawn], tooltips=tip, visible=False))
            self._drawn.append(drawn)
            yield drawn

    def switch(self, plot: Any, many_calls: list[Any]) -> None:
        """Let the calls take the place of the bars that add them up, when one zooms in."""
        if not self._drawn:
            return
        arguments = {
            "each_call": self._drawn,
            "many_calls": many_calls if self.is_whole else [],
            "seconds": self._seconds,
            "all": AllIndices(),
            "none": IndexFilter(indices=[]),
        }
        callback = CustomJS(args=arguments, code=_SWITCH)
        plot.x_range.js_on_change("start", callback)
        plot.x_range.js_on_change("end", callback)

    def _source(self, calls: list[Call]) -> ColumnDataSource:
        key = self._history.key
        tasks = (call.bar.span.task for call in calls if call.bar.span is not None)
        return ColumnDataSource(
            {
                # Not as text, which would be twice as large, and slower to open.
                "left": array("d", [call.bar.start for call in calls]),
                "right": array("d", [call.bar.end for call in calls]),
                "bottom": array("f", [place.bar(bar.bottom) for bar, place in calls]),
                "top": array("f", [place.bar(bar.top) for bar, place in calls]),
                "seconds": array("f", [call.bar.seconds for call in calls]),
                "what": [shown(key(task), _LONGEST_KEY) for task in tasks],
            }
        )


def _seconds(call: Call) -> float:
    return call.bar.seconds
