"""What commands print: text for people, JSON for programs, warnings and refusals as one line."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from flowpar.errors import FlowparError, FlowparWarning, InternalError, OptionError
from flowpar.views.files import checked

DONE: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130

_OUT: Final = 1
_ERRORS: Final = 2


class Refused(FlowparError):
    """A command cannot do what is asked, and why is all that there is to say."""

    exit_code: int = FAILED


class WrongUsage(Refused):
    """The command line asks for what is not there."""

    exit_code: int = WRONG_USAGE


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Make a refusal of what goes wrong while we do what our own options ask for.

    Raises
    ------
    WrongUsage
        If a value of theirs is not legal.
    Refused
        If something is missing or failed.
    """
    try:
        yield
    except (Refused, InternalError, BrokenPipeError):
        raise
    except OptionError as error:
        raise WrongUsage(str(error)) from error
    except (FlowparError, OSError) as error:
        raise Refused(str(error)) from error


def place_to_write(path: str, suffixes: Sequence[str], what: str) -> str:
    """Return the full path of a file that is to be written, since scripts go elsewhere.

    Raises
    ------
    WrongUsage
        If its name is of another kind, or it cannot be written.
    """
    with refusing():
        checked(path, suffixes, what)
    full = os.path.abspath(path)  # noqa: PTH100 - without the dots
    folder = os.path.dirname(full)  # noqa: PTH120 - a text
    why = ""
    if not Path(folder).is_dir():
        why = f"there is no folder {folder}"
    elif Path(full).is_dir():
        why = "it is a folder"
    elif not os.access(folder, os.W_OK):
        why = f"the folder {folder} is not ours to write to"
    if why:
        raise WrongUsage(f"{path} cannot be written: {why}")
    return full


# ----------------------------------------------------------------------------------- printing


def show(given: argparse.Namespace, plain: object, text: str) -> None:
    """Print data or text, whichever is asked for.

    Raises
    ------
    Refused
        If it cannot be written.
    """
    out = getattr(given, "out", None) or sys.stdout
    try:
        print(json.dumps(plain, indent=1) if given.json else text, file=out, flush=True)
    except OSError as error:
        _drop_what_is_left(out)
        if isinstance(error, BrokenPipeError):
            raise
        raise Refused(f"the output cannot be written: {error.strerror}") from error


def _drop_what_is_left(out: TextIO) -> None:
    """Let a stream be flushed at the end, though nobody can take what is still in its buffer."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


@contextlib.contextmanager
def data_apart(given: argparse.Namespace) -> Iterator[None]:
    """Under ``--json``, send what scripts print to the errors: the output is for the data alone.

    It is the descriptor that is sent there, since worker processes and other programs have that.
    """
    stream = sys.stdout
    kept = _kept_descriptor() if given.json and stream is not None else None
    if kept is None:
        yield
        return
    stream.flush()
    _point_at_errors()
    sys.stdout = sys.stderr
    given.out = stream
    if _is_of(stream, _OUT):
        given.out = os.fdopen(os.dup(kept), "w", encoding=stream.encoding, errors=stream.errors)
    try:
        yield
    finally:
        stream.flush()  # of what wrote to sys.__stdout__
        os.dup2(kept, _OUT)
        os.close(kept)
        if given.out is not stream:
            given.out.close()
        sys.stdout, given.out = stream, None


def _kept_descriptor() -> int | None:
    """Return another descriptor of the output; None: it is closed."""
    standard: list[int] = []
    try:
        # Of a standard stream that is closed it would be taken for that stream.
        while (found := os.dup(_OUT)) <= _ERRORS:
            standard.append(found)
    except OSError:
        return None
    finally:
        for descriptor in standard:
            os.close(descriptor)
    return found


def _point_at_errors() -> None:
    try:
        os.dup2(_ERRORS, _OUT)
    except OSError:  # they are closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), _OUT)


def _is_of(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (OSError, ValueError, AttributeError):
        return False


def tell(error: BaseException) -> None:
    """Print an error as Python does; with its notes, and those of a group, on every version."""
    sys.excepthook(type(error), error, error.__traceback__)
    if sys.version_info < (3, 11):
        tell_rest(error)


def tell_rest(error: BaseException) -> None:
    """Print what Python before 3.11 leaves out: notes, and the errors of a group."""
    for note in getattr(error, "__notes__", ()):
        print(note, file=sys.stderr)
    for each in getattr(error, "exceptions", ()):
        traceback.print_exception(type(each), each, each.__traceback__)
        tell_rest(each)


def readable(size: float) -> str:
    """Return a number of bytes as people write it.

    Examples
    --------
    >>> readable(12), readable(1_234_567)
    ('12 B', '1.23 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


@contextlib.contextmanager
def short_warnings() -> Iterator[None]:
    """Show our warnings as one line, without the line of ours that gave them."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *more: Any) -> None:
            if issubclass(category, FlowparWarning):
                print(f"flowpar: {message}", file=sys.stderr)
            else:
                shown(message, category, *more)

        warnings.showwarning = show  # type: ignore[assignment]
        yield
