"""Where views are written: names that say what is wanted, and files that are whole."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from flowpar.errors import OptionError


def checked(path: str | os.PathLike[str], suffixes: Sequence[str], what: str) -> Path:
    """Return a path whose name ends in one of some suffixes, in capitals or not.

    Raises
    ------
    OptionError
        If it ends otherwise.

    Examples
    --------
    >>> checked("timeline.SVG", [".svg"], "a timeline").name
    'timeline.SVG'
    """
    file = Path(path)
    name = file.name.lower()
    if not any(name.endswith(suffix) and name != suffix for suffix in suffixes):
        raise OptionError(
            f"{what} cannot be written to {str(file)!r}: its name must end in one of "
            f"{', '.join(suffixes)}"
        )
    return file


@contextmanager
def draft_of(file: Path) -> Iterator[Path]:
    """Give a path to write to; what is there in the end takes the place of the file in one step."""
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file} cannot be written: there is no folder {file.parent}")
    if file.is_dir():
        raise IsADirectoryError(f"{file} cannot be written: it is a folder")
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield draft
        draft.replace(file)
    except OSError as error:
        if error.filename != str(draft):
            raise
        # Nobody knows of the draft.
        raise type(error)(error.errno, error.strerror, str(file)) from error
    finally:
        with suppress(OSError):
            draft.unlink()


def write(file: Path, data: bytes) -> None:
    """Write a file in one step: it is whole, or as it was."""
    with draft_of(file) as draft:
        draft.write_bytes(data)
