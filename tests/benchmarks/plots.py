"""The pictures of docs/benchmarks.md, as SVG that is the same for the same figures."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, PercentFormatter

mpl.rcParams.update(
    {
        "svg.hashsalt": "flowpar",  # else the ids inside are others each time
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e4e4e4",
        "hatch.linewidth": 0.7,
        "legend.frameon": False,
    }
)

# Okabe and Ito's colours, which differ for everybody; the kinds differ in hatch or marker as well.
BLUE, VERMILION, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b3b3b3"
LOOKS = {
    True: {"facecolor": BLUE},
    False: {"facecolor": VERMILION, "hatch": "////", "edgecolor": "white"},
    None: {"facecolor": GREY},
}
CURVES = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"))


def draw(figures, folder):
    """Draw the three pictures.

    Parameters
    ----------
    figures
        What was measured, a ``page.Figures``.
    folder
        Where the files go, a ``Path``; made if there is none.
    """
    folder.mkdir(exist_ok=True)
    for name, figure in (
        ("ratios", ratios(figures.results)),
        ("scaling", scaling(figures.growth)),
        ("busy", busy(figures.shares)),
    ):
        figure.savefig(
            folder / f"{name}.svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight"
        )
        plt.close(figure)


def ratios(results):
    """Return bars that begin where both are equally fast, to the right where flowpar is faster."""
    figure, axes = plt.subplots(figsize=(8, 0.24 * len(results) + 1.2))
    for place, result in enumerate(results):
        axes.barh(place, result.ratio - 1, left=1, height=0.7, **LOOKS[result.is_met])
        axes.hlines(place, result.ratios[0], result.ratios[-1], color="black", linewidth=0.7)
        if result.row.budget is not None:
            axes.vlines(result.row.budget, place - 0.45, place + 0.45, color="black", linewidth=2)
        # In a column of their own, as a bar near 1 is too short to be seen.
        axes.text(
            1.01, place, f"{result.ratio:.3g} ×", va="center", transform=axes.get_yaxis_transform()
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g} ×"))
    axes.set_xlabel("how many times faster flowpar is")
    axes.axvline(1, color="black", linewidth=0.8)
    names = [f"{result.row.work}  vs  {result.row.peer}" for result in results]
    axes.set_yticks(range(len(results)), names)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(results) - 0.4, -0.6)  # the first on top
    axes.legend(
        handles=[
            Patch(label="budget met", **LOOKS[True]),
            Patch(label="budget missed", **LOOKS[False]),
            Patch(label="no budget", **LOOKS[None]),
            Line2D(
                [],
                [],
                color="black",
                marker="|",
                markersize=10,
                markeredgewidth=2,
                linestyle="",
                label="budget",
            ),
            Line2D([], [], color="black", linewidth=0.7, label="smallest to largest"),
        ],
        loc="lower center",
        bbox_to_anchor=(0.3, 1),
        ncols=5,
    )
    return figure


def scaling(growth):
    """Return curves of the time a task takes over the number of tasks."""
    figure, axes = plt.subplots(figsize=(7, 4))
    curves = dict.fromkeys(each.curve for each in growth)
    for curve, (color, marker) in zip(curves, CURVES, strict=True):
        points = [each for each in growth if each.curve == curve]
        axes.plot(
            [each.n_tasks for each in points],
            [each.seconds / each.n_tasks * 1e6 for each in points],
            color=color,
            marker=marker,
            label=curve.name,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda micros, _: f"{micros:g}"))
    axes.minorticks_off()
    axes.set_xlabel("tasks")
    axes.set_ylabel("µs a task")
    axes.legend()
    return figure


def busy(shares):
    """Return curves of the busy share over the number of workers."""
    figure, axes = plt.subplots(figsize=(7, 4))
    lengths = dict.fromkeys(ms for _, ms in shares)
    for length, (color, marker) in zip(lengths, CURVES, strict=True):
        points = {workers: share for (workers, ms), share in shares.items() if ms == length}
        axes.plot(
            list(points),
            list(points.values()),
            color=color,
            marker=marker,
            label=f"{length:g} ms",
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(points), [f"{workers:,}" for workers in points])
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("workers")
    axes.set_ylabel("share of time in which workers are busy")
    axes.legend(title="a task takes", loc="lower left")
    return figure
