"""The report of a run: one page that needs nothing else, no network either."""

from __future__ import annotations

import collections
import html
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowpar.errors import MissingExtra, OptionError
from flowpar.views.files import checked, write
from flowpar.views.pictures.nodes import Nodes
from flowpar.views.reports.facts import MOST_KEPT, Facts

if TYPE_CHECKING:
    import networkx as nx

MOST_REASONS: Final = 200
MOST_FAILURES: Final = 50
MOST_CRITICAL: Final = 40


def check_report(path: str | os.PathLike[str]) -> Path:
    """Return the path of a report to come, or say at once why there can be none.

    Raises
    ------
    OptionError
        If its name does not end in ``.html``, or its folder is not there or not to be written to.
    MissingExtra
        If bokeh is not installed.
    """
    file = checked(path, [".html"], "a report")
    if not os.access(file.parent, os.W_OK):
        is_there = file.parent.is_dir()
        why = "may not be written to" if is_there else "is not there: make it"
        raise OptionError(f"a report cannot be written to {str(file)!r}: its folder {why}")
    try:
        import bokeh  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise MissingExtra(
            'a report is drawn by bokeh: pip install "flowpar[report]"', extra="report"
        ) from error
    return file


def load_charts() -> None:
    """Import what draws the charts of a report."""
    import flowpar.views.reports.charts  # noqa: F401, PLC0415 - brings bokeh


def write_report(facts: Facts, path: str | os.PathLike[str]) -> Path:
    """Write the report of a run; see `flowpar.Run.report`."""
    file = check_report(path)
    write(file, page_of(facts).encode("utf-8", "replace"))
    return file


def page_of(facts: Facts) -> str:
    """Return the report of a run as HTML."""
    from bokeh.embed import components  # noqa: PLC0415 - slow to import
    from bokeh.resources import Resources  # noqa: PLC0415 - as above

    from flowpar.views.reports.charts import charts_of  # noqa: PLC0415 - brings bokeh

    charts = charts_of(facts)
    script, places = components(charts)
    sections = [
        Section("Graph", graph_of(facts)),
        Section("Timeline", places["timeline"]),
        Section("Functions", functions_of(facts)),
        Section("Failures", failures_of(facts)),
        Section("What ran, and why", _reasons(facts)),
        Section("Critical path", _critical(facts)),
        Section("CPU and memory", places.get("resources", "")),
        Section("All tasks", places["tasks"]),
        Section("Environment", _table(["", ""], sorted(facts.environment.items()))),
    ]
    body = "".join(str(section) for section in sections if section.body)
    return _PAGE.format(
        title=html.escape(f"{facts.program}: {facts.status}"),
        style=_STYLE,
        # All of it would be twice as much: formulas, and WebGL.
        scripts=Resources("inline", components=_COMPONENTS).render(),
        head=head_of(facts),
        body=body,
        script=script,
    )


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page."""

    title: str
    body: str

    def __str__(self) -> str:
        return f"<section><h2>{self.title}</h2>{self.body}</section>"


# -------------------------------------------------------------------------------------- parts


def head_of(facts: Facts, status: str | None = None) -> str:
    """Return what a run is, and how it goes, in a few figures."""
    status = status or facts.status
    counts = facts.counts
    idle = facts.history.idle_share()
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts.started))
    tiles = [
        ("status", status),
        ("seconds", f"{facts.seconds:,.2f}"),
        ("tasks", f"{counts.total:,}"),
        ("done", f"{counts.done:,}"),
        ("cached", f"{counts.cached:,}"),
        ("failed", f"{counts.failed:,}"),
        ("skipped", f"{counts.skipped:,}"),
        ("workers", f"{len(facts.history.rows):,}"),
        ("idle", "-" if idle is None else f"{idle:.0%}"),
        ("values held", _bytes(facts.held_bytes)),
    ]
    shown = "".join(
        f'<div class="tile {status if name == "status" else ""}"><b>{value}</b>{name}</div>'
        for name, value in tiles
    )
    more = (
        f"<p>{facts.left_out:,} tasks are counted, and not told of one by one: beyond those that "
        f"failed and the first {MOST_KEPT:,} that were called.</p>"
        if facts.left_out
        else ""
    )
    return (
        f"<h1>{html.escape(facts.program)}</h1><p>{started}</p><div class=tiles>{shown}</div>{more}"
    )


def graph_of(facts: Facts) -> str:
    """Return the picture of a run."""
    from flowpar.views.pictures.contents import drawing_of  # noqa: PLC0415 - brings networkx
    from flowpar.views.pictures.picture import draw, wanted_of  # noqa: PLC0415 - as above
    from flowpar.views.pictures.svg import to_svg  # noqa: PLC0415 - as above

    if not facts.records:
        return ""
    if facts.status == "interrupted":
        svg = to_svg(drawing_of(nodes_of(facts), wanted_of({})))  # nobody waits for Graphviz
    else:
        svg = draw(nodes_of(facts)).svg
    return f"<div class=wide>{svg[svg.index('<svg') :]}</div>"


def nodes_of(facts: Facts) -> nx.DiGraph:
    """Return the graph of a run as pictures want it."""
    import networkx as nx  # noqa: PLC0415 - slow to import

    graph = nx.DiGraph()
    add_nodes(graph, facts)
    return graph


def add_nodes(graph: nx.DiGraph | Nodes, facts: Facts) -> None:
    """Add the tasks of a run to a graph."""
    for place, record in enumerate(facts.records):
        graph.add_node(
            place,
            key=record.key,
            function=record.function,
            status=record.status,
            seconds=record.seconds,
            pool=record.pool,
            reason=record.reason,
        )
    graph.add_edges_from((u, v, {"order_only": order}) for u, v, order in facts.edges)


def functions_of(facts: Facts) -> str:
    """Return a table of the functions: how often, how long, where and why."""
    head = ["function", "tasks", "cached", "failed", "retries", "total s", "mean s", "longest s"]
    rows = []
    for total in sorted(facts.totals, key=lambda each: -each.seconds):
        lane, why = facts.placement.get(total.function, ("", ""))
        rows.append(
            (
                total.function,
                f"{total.tasks:,}",
                f"{total.cached:,}",
                f"{total.failed:,}",
                f"{total.retries:,}",
                f"{total.seconds:,.3f}",
                "-" if total.mean is None else f"{total.mean:.3g}",
                f"{total.longest:.3g}" if total.attempts else "-",
                "-" if total.cpu_share is None else f"{min(1.0, total.cpu_share):.0%}",
                ", ".join(total.pools) or lane or "-",
                why,
            )
        )
    return _table([*head, "CPU", "where", "why there"], rows)


def failures_of(facts: Facts) -> str:
    """Return the tracebacks of what failed."""
    if not facts.failures:
        return ""
    shown = []
    for place, text in list(facts.failures.items())[:MOST_FAILURES]:
        record = facts.records[place]
        wrote = f"<p>It wrote:</p><pre>{html.escape(record.output)}</pre>" if record.output else ""
        shown.append(
            f"<details open><summary><b>{html.escape(record.key)}</b> "
            f"{html.escape(record.reason or '')}</summary><pre>{html.escape(text)}</pre>{wrote}"
            "</details>"
        )
    left = len(facts.failures) - len(shown)
    return "".join(shown) + (f"<p>and {left:,} more</p>" if left > 0 else "")


def _reasons(facts: Facts) -> str:
    found: dict[tuple[str, str, str], list[str]] = collections.defaultdict(list)
    for record in facts.records:
        if record.reason and record.status != "cached":
            found[record.function, record.status, record.reason].append(record.key)
    if not found:
        return ""
    rows = [
        (keys[0] if len(keys) == 1 else f"{function} ×{len(keys):,}", status, why)
        for (function, status, why), keys in found.items()
    ]
    left = len(rows) - MOST_REASONS
    more = f"<p>and {left:,} more, in the table of all tasks</p>" if left > 0 else ""
    return _table(["task", "status", "why"], rows[:MOST_REASONS]) + more


def _critical(facts: Facts) -> str:
    path = facts.critical_path()
    seconds = [facts.records[place].seconds or 0.0 for place in path]
    if not sum(seconds):
        return ""
    longest = sorted(zip(path, seconds, strict=True), key=lambda pair: -pair[1])[:MOST_CRITICAL]
    kept = {place for place, _ in longest}
    rows = [
        (
            facts.records[place].key,
            f"{took:.3g}",
            f"{took / facts.seconds:.0%}" if facts.seconds else "",
        )
        for place, took in zip(path, seconds, strict=True)
        if place in kept
    ]
    text = (
        f"<p>{len(path):,} tasks, one after another, take {sum(seconds):.3g} s: no number of "
        "workers makes the run faster than that.</p>"
    )
    return text + _table(["task", "seconds", "of the run"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    titles = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(_cells(row))}</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table>"


def _cells(row: Sequence[object]) -> Iterator[str]:
    for cell in row:
        text = html.escape(str(cell))
        is_number = text[:1].isdecimal() or text == "-"
        yield f"<td class=n>{text}</td>" if is_number else f"<td>{text}</td>"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004 - a unit
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


_COMPONENTS: Final = ["bokeh", "bokeh-widgets", "bokeh-tables"]

_STYLE: Final = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1400px; padding: 1em 2em;
  color: #222; background: #fff }
h1 { font-size: 1.4em; margin: .2em 0 } h2 { font-size: 1.1em; border-bottom: 1px solid #ddd }
section { margin: 1.8em 0 } p { margin: .4em 0 }
.tiles { display: flex; flex-wrap: wrap; gap: .6em; margin: 1em 0 }
.tile { border: 1px solid #ddd; border-radius: 6px; padding: .4em .9em; color: #555;
  min-width: 4.5em }
.tile b { display: block; font-size: 1.25em; color: #222 }
.tile.failed b, .tile.interrupted b { color: #b3261e } .tile.done b { color: #1b6e3a }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { text-align: left; padding: .2em .8em .2em 0; border-bottom: 1px solid #eee;
  vertical-align: top }
th { color: #555; font-weight: 600 } td.n { text-align: right; font-variant-numeric: tabular-nums }
pre { background: #f6f6f6; padding: .6em; overflow: auto; max-height: 30em; font-size: 12px }
summary { cursor: pointer; padding: .3em 0 }
.wide { overflow: auto; max-height: 600px; border: 1px solid #eee } .wide svg { max-width: none }
"""

_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'; img-src data:; font-src data:">
<meta name="viewport" content="width=device-width"><style>{style}</style>
{scripts}
</head><body>{head}{body}{script}</body></html>
"""
