"""A timeline as a page by itself, to zoom into and to point at; drawn by bokeh (extra "report")."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from bokeh.core.properties import value
from bokeh.embed import file_html
from bokeh.models import (
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    Legend,
    LegendItem,
    Range1d,
    Title,
)
from bokeh.plotting import figure
from bokeh.resources import INLINE

from flowpar.views.files import write
from flowpar.views.pictures.drawing import TIMES, shown
from flowpar.views.timelines.bars import OTHERS, Bar, Layout, RowOfBars, Strip, lay_out
from flowpar.views.timelines.detail import Detail
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

_COLUMNS: Final = 4_000
"""More than a screen has, for those who zoom in."""
_MOST: Final = 12_000
_LONGEST_KEY: Final = 60
_SIDES: Final = {side: side for side in ("left", "right", "bottom", "top")}
_TIP: Final = "<b>@what</b><br>@more<br>@worker"
_HATCHES: Final = {
    "": "blank",
    "repeated": "right_diagonal_line",
    "running": "horizontal_line",
    "failed": "diagonal_cross",
}
_HATCH_COLOURS: Final = {
    "": None,
    "repeated": "#333333",
    "running": "#333333",
    "failed": FAILED_COLOUR,
}


_Placed = tuple[Bar, RowOfBars, Place]


class _Look(NamedTuple):
    """What bars have in common that are drawn together."""

    mark: str
    is_wide: bool
    adds_up: bool
    """Whether they stand for several calls, which may take their place."""


def write_page(history: History, file: Path) -> None:
    """Write the timeline of a run as HTML that needs nothing else, no network either."""
    layout = lay_out(history, columns=_COLUMNS, most=_MOST)
    write(file, file_html(plot_of(history, layout), INLINE, "flowpar timeline").encode())


def plot_of(history: History, layout: Layout | None = None) -> Any:
    """Return the timeline of a run as a plot of bokeh's."""
    layout = layout or lay_out(history, columns=_COLUMNS, most=_MOST)
    places = places_of(layout)
    height = sum(place.height for place in places) or 1.0
    plot = figure(
        sizing_mode="stretch_width",
        height=round(min(max(150 + 42 * height, 300), 2_000)),
        x_range=Range1d(0, layout.seconds * 1.005),
        y_range=Range1d(0, height),
        x_axis_label="seconds since the run began",
        tools="xpan,xwheel_zoom,box_zoom,reset,save",
        active_scroll="xwheel_zoom",
        output_backend="canvas",
    )
    plot.toolbar.logo = None
    detail = Detail(history, layout, places)
    subtitle = f"{subtitle_of(history, layout)}{detail}"
    plot.add_layout(Title(text=subtitle, text_font_style="normal"), "above")
    plot.add_layout(Title(text=history.headline), "above")
    lines = list(_draw_lines(plot, layout, places))  # first, so that they lie beneath
    bars = list(_draw_bars(plot, history, (layout, places), detail))
    _dress(plot, layout, places)
    _add_legend(plot, [*bars, *_draw_failures(plot, layout, places), *lines])
    return plot


def _draw_bars(
    plot: Any, history: History, placed: tuple[Layout, list[Place]], detail: Detail
) -> Iterator[tuple[str, list[Any]]]:
    """Draw the bars of one function after the other, each with a switch in the legend."""
    layout, places = placed
    groups: dict[int, dict[_Look, list[_Placed]]] = {}
    wide = edged_from(layout)
    for each, place in zip(layout.rows, places, strict=True):
        for bar in each.bars:
            is_wide = bar.span is not None and bar.end - bar.start > wide
            look = _Look(mark_of(bar), is_wide, bar.span is None and not each.is_area)
            groups.setdefault(bar.function, {}).setdefault(look, []).append((bar, each, place))
    colours = colours_of(history)
    many_calls = []
    for function in [*layout.shown, OTHERS]:
        name = name_of(function, history, layout)
        drawn = []
        for look, found in sorted(groups.get(function, {}).items(), key=itemgetter(0)):
            source = _columns(found, history, name)
            edge = "white" if look.is_wide else None
            looks = _looks(colours[function], look.mark, edge)
            drawn.append(plot.quad(source=source, **looks, **_SIDES))
            if look.adds_up:
                many_calls.append(drawn[-1])
        if drawn:
            plot.add_tools(HoverTool(renderers=list(drawn), tooltips=_TIP, visible=False))
            colour = colours[function]
            drawn += detail.draw(plot, function, {mark: _looks(colour, mark) for mark in _HATCHES})
            yield name, drawn
    detail.switch(plot, many_calls)


def _looks(colour: str, mark: str, edge: str | None = None) -> dict[str, Any]:
    return {
        "fill_color": colour,
        "line_color": edge,
        "hatch_pattern": _HATCHES[mark],
        "hatch_color": _HATCH_COLOURS[mark],
    }


def _columns(found: list[_Placed], history: History, name: str) -> ColumnDataSource:
    return ColumnDataSource(
        {
            "left": [_short(bar.start) for bar, *_ in found],
            "right": [_short(bar.end) for bar, *_ in found],
            "bottom": [_short(place.bar(bar.bottom)) for bar, _, place in found],
            "top": [_short(place.bar(bar.top)) for bar, _, place in found],
            "what": [_what(bar, history, name) for bar, *_ in found],
            "more": [_more(bar) for bar, *_ in found],
            "worker": [label_of(each).partition("\n")[0] for _, each, _ in found],
        }
    )


def _short(number: float) -> float:
    return round(number, 6)  # digits are what makes the page large


def _what(bar: Bar, history: History, name: str) -> str:
    if bar.span is not None:
        return shown(history.key(bar.span.task), _LONGEST_KEY)
    return f"{name} {TIMES}{bar.calls:,}" if bar.calls else name


def _more(bar: Bar) -> str:
    if bar.span is None:
        average = bar.seconds / (bar.end - bar.start) if bar.end > bar.start else 0.0
        failed = f", {bar.failed:,} failed" if bar.failed else ""
        return f"{bar.seconds:.4g} s together, {average:.3g} at once{failed}"
    cpu = bar.span.cpu_seconds
    status = MARKS.get(bar.span.status, bar.span.status)
    return f"{status}, {bar.seconds:.4g} s" + ("" if cpu is None else f", CPU {cpu:.4g} s")


def _draw_lines(plot: Any, layout: Layout, places: list[Place]) -> Iterator[tuple[str, list[Any]]]:
    waiting: list[tuple[Strip, Place]] = []
    moving: list[tuple[Strip, Place]] = []
    for each, place in zip(layout.rows, places, strict=True):
        waiting += [(strip, place) for strip in each.waiting]
        moving += [(strip, place) for strip in each.moving]
    for name, colour, found in (
        (WAITING, WAITING_COLOUR, waiting),
        (MOVING, MOVING_COLOUR, moving),
    ):
        source = {
            "left": [_short(strip.start) for strip, _ in found],
            "right": [_short(strip.end) for strip, _ in found],
            "bottom": [_short(place.line(0)) for _, place in found],
            "top": [_short(place.line(strip.share)) for strip, place in found],
        }
        # Also if there are none: bokeh warns of a plot with nothing in it.
        looks = {"fill_color": colour, "line_color": None}
        drawn = plot.quad(source=ColumnDataSource(source), **_SIDES, **looks)
        if found:
            yield name, [drawn]


def _draw_failures(
    plot: Any, layout: Layout, places: list[Place]
) -> Iterator[tuple[str, list[Any]]]:
    found = [
        (_short((bar.start + bar.end) / 2), _short(place.bar(bar.top)))
        for each, place in zip(layout.rows, places, strict=True)
        for bar in each.bars
        if bar.failed
    ]
    if found:
        times, heights = zip(*found, strict=True)
        looks = {"marker": "inverted_triangle", "size": 9, "line_color": "white"}
        drawn = plot.scatter(list(times), list(heights), fill_color=FAILED_COLOUR, **looks)
        yield MARKS["failed"], [drawn]


def _dress(plot: Any, layout: Layout, places: list[Place]) -> None:
    labels = {
        _short(place.bar(0.5)): label_of(each)
        for each, place in zip(layout.rows, places, strict=True)
    }
    plot.yaxis.ticker = FixedTicker(ticks=list(labels))
    plot.yaxis.major_label_overrides = labels
    plot.yaxis.major_tick_line_color = None
    plot.yaxis.axis_line_color = None
    plot.ygrid.ticker = FixedTicker(ticks=[_short(place.bottom) for place in places])
    plot.grid.grid_line_color = RULE_COLOUR
    plot.outline_line_color = None


def _add_legend(plot: Any, items: list[tuple[str, list[Any]]]) -> None:
    if items:
        entries = [LegendItem(label=value(name), renderers=drawn) for name, drawn in items]
        legend = Legend(items=entries, click_policy="hide", border_line_color=None)
        plot.add_layout(legend, "right")
