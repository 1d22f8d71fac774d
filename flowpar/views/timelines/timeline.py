"""Which worker made which call when, as a picture: a row for each worker, a bar for each call."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, Final

from flowpar.errors import MissingExtra, OptionError
from flowpar.views.files import checked
from flowpar.views.timelines.spans import History

SUFFIXES: Final = (".svg", ".png", ".pdf", ".html")


def write(history: History, path: str | os.PathLike[str], ax: Any = None) -> Path:
    """Write the timeline of a run into a file; see `flowpar.Run.timeline`."""
    file = checked(path, SUFFIXES, "a timeline")
    if ax is not None:
        raise OptionError("a timeline is drawn into a file or into axes: give `path` or `ax`")
    if file.suffix.lower() == ".html":
        _need("bokeh", "report")
        from flowpar.views.timelines.page import write_page  # noqa: PLC0415 - brings bokeh

        write_page(history, file)
    else:
        _need("matplotlib", "plot")
        from flowpar.views.timelines.axes import write_figure  # noqa: PLC0415 - brings matplotlib

        write_figure(history, file)
    return file


def draw(history: History, ax: Any = None) -> Any:
    """Draw the timeline of a run into axes of matplotlib; see `flowpar.Run.timeline`."""
    _need("matplotlib", "plot")
    from flowpar.views.timelines.axes import draw_axes, new_axes  # noqa: PLC0415 - as above

    return draw_axes(history, new_axes(history) if ax is None else ax)


def _need(library: str, extra: str) -> None:
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise MissingExtra(
            f'this timeline is drawn by {library}: pip install "flowpar[{extra}]"', extra=extra
        ) from error
