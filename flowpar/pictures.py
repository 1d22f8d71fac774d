"""Pictures of what was not run yet: of what is wanted, and of what would run of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flowpar.arguments import search
from flowpar.graph import Graph, values_needed
from flowpar.running import graph_of
from flowpar.settings import resolve

if TYPE_CHECKING:
    from pathlib import Path

    from flowpar.views.pictures.picture import Picture

MOST_SHOWN: Final = 20_000
"""Tasks of a graph that a notebook draws without being asked to: one second."""


def visualize(
    *targets: Any,
    filename: str | Path | None = "graph.svg",
    cache: Any = None,
    **options: Any,
) -> Picture:
    """Draw what the targets need; with a cache, also what would run of it.

    Parameters
    ----------
    *targets
        Delayed values, or containers of them.
    filename
        Where to: ``.svg``, ``.png`` or ``.pdf``; or as text ``.dot`` (Graphviz), ``.mmd``
        (Mermaid), ``.txt`` (a tree) or ``.json`` (networkx's node-link data). None: for a notebook
        only. An ``.svg`` needs no program; it is better where Graphviz is installed, or the extra
        "viz".
    cache
        As for `compute`: what is up to date there and what would run get colours of their own.
        None: that of ``with flowpar.options(...)``, if there is one; False: none.
    **options
        How it is drawn:

        * ``collapse``: True: one box for each function; False: one for each task; "auto": by the
          size
        * ``color``: "function", "status", "time", or "auto": by status if any is known
        * ``focus``: the key of a task, or the name of a function: that, and all one step around it;
          of a run also "failed"
        * ``rankdir``: "LR" (to the right) or "TB" (downwards); None: as there is room
        * ``cluster``: "module", or "group" for the policy of that name: what belongs together
          stands together

    Returns
    -------
    Picture
        With its ``path``; a notebook shows it.

    Raises
    ------
    OptionError
        If the kind of file is not known, or an option, or its value.
    MissingExtra
        If Graphviz is not there and the file is a ``.png`` or ``.pdf``.

    Examples
    --------
    >>> import flowpar
    >>> picture = flowpar.visualize(flowpar.delayed(abs)(-1), filename=None)
    >>> "abs" in picture.svg
    True
    """
    from flowpar.views.pictures.picture import draw, wanted_of  # noqa: PLC0415 - most runs draw nothing

    wanted_of(options)  # before a cache is looked at, which takes longer
    graph = graph_of(targets)[0]
    run_options = resolve({} if cache is None else {"cache": cache})
    facts = {}
    if run_options.cache is not None:
        from flowpar.preview import Look  # noqa: PLC0415 - only with a cache

        facts = Look(graph, run_options).facts()
    return draw(graph.to_networkx(facts), filename, **options)


def picture_for_notebook(target: Any) -> str | None:
    """Return what a target needs, drawn as SVG; None: it is too large to be drawn unasked."""
    from flowpar.views.pictures.picture import draw  # noqa: PLC0415 - most runs draw nothing

    graph = Graph(values_needed([search(target, "the target")]))
    return draw(graph.to_networkx()).svg if len(graph) <= MOST_SHOWN else None
