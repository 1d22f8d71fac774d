"""The charts of a report: the timeline, the resources, the table of all tasks; drawn by bokeh."""

from __future__ import annotations

from typing import Any, Final

from bokeh.models import (
    Column,
    ColumnDataSource,
    DataTable,
    NumberFormatter,
    StringFormatter,
    TableColumn,
)
from bokeh.plotting import figure

from flowpar.views.pictures.drawing import shown
from flowpar.views.reports.facts import Facts
from flowpar.views.timelines.page import plot_of

_LONGEST: Final = 120
_COLOURS: Final = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")


def charts_of(facts: Facts) -> dict[str, Any]:
    """Return the charts of a run by name: "timeline", "tasks", and "resources" if there are any."""
    charts = {"timeline": plot_of(facts.history), "tasks": _tasks(facts)}
    if facts.samples:
        charts["resources"] = _resources(facts)
    return charts


def _tasks(facts: Facts) -> Any:
    records = facts.records
    start = facts.started
    columns: dict[str, tuple[str, list[Any], int]] = {
        "key": ("task", [shown(record.key, _LONGEST) for record in records], 220),
        "status": ("status", [record.status for record in records], 70),
        "seconds": ("seconds", [_number(record.seconds) for record in records], 80),
        "cpu": ("CPU s", [_number(record.cpu_seconds) for record in records], 80),
        "start": (
            "start",
            [_number(None if r.start is None else r.start - start) for r in records],
            80,
        ),
        "pool": ("pool", [record.pool or "" for record in records], 80),
        "worker": ("worker", [record.worker or "" for record in records], 110),
        "attempts": ("attempts", [record.attempts for record in records], 60),
        "bytes": ("bytes", [record.bytes for record in records], 80),
        "reason": ("why", [shown(record.reason or "", _LONGEST) for record in records], 360),
    }
    numbers = {"seconds": "0.0000", "cpu": "0.0000", "start": "0.000", "bytes": "0,0"}
    return DataTable(
        source=ColumnDataSource({name: values for name, (_, values, _) in columns.items()}),
        columns=[
            TableColumn(
                field=name,
                title=title,
                width=width,
                formatter=NumberFormatter(format=numbers[name], text_align="right")
                if name in numbers
                else StringFormatter(),
            )
            for name, (title, _, width) in columns.items()
        ],
        sizing_mode="stretch_width",
        height=420,
        index_position=None,
        reorderable=False,  # else it asks for a library more
    )


def _number(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _resources(facts: Facts) -> Any:
    plots: list[Any] = []
    ranges: dict[str, Any] = {}
    for title, values in (
        ("CPU, percent of one", [sample.cpu_percent for sample in facts.samples]),
        ("memory, MB", [sample.memory_bytes / 1e6 for sample in facts.samples]),
    ):
        plot = figure(
            title=title,
            height=200,
            sizing_mode="stretch_width",
            tools="xpan,xwheel_zoom,box_zoom,reset,save",
            **ranges,
        )
        ranges = {"x_range": plot.x_range}
        plot.toolbar.logo = None
        pids = dict.fromkeys(sample.pid for sample in facts.samples)
        for number, pid in enumerate(pids):
            seen = [at for at, sample in enumerate(facts.samples) if sample.pid == pid]
            plot.line(
                [round(facts.samples[at].time - facts.started, 3) for at in seen],
                [round(values[at], 1) for at in seen],
                color=_COLOURS[number % len(_COLOURS)],
                legend_label=f"process {pid}",
            )
        plot.legend.click_policy = "hide"
        plot.legend.label_text_font_size = "9px"
        plots.append(plot)
    return Column(children=plots, sizing_mode="stretch_width")
