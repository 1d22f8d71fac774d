"""Whose code something is: the user's, that of an installed package, or Python's own."""

from __future__ import annotations

import enum
import functools
import importlib.machinery
import os
import site
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any, Final

from flowpar.pickling import MAIN

__all__ = [
    "Origin",
    "is_extension",
    "is_main",
    "name_to_import",
    "origin_of_file",
    "origin_of_module",
    "package_of",
]


class Origin(enum.Enum):
    """Who wrote something."""

    USER = "user"
    PACKAGE = "package"
    STDLIB = "stdlib"


def _directories(*names: str) -> tuple[str, ...]:
    paths = (sysconfig.get_path(name) for name in names)
    return tuple({os.path.realpath(path) + os.sep for path in paths if path})


_STDLIB: Final = _directories("stdlib", "platstdlib")
_PACKAGES: Final = (
    *_directories("purelib", "platlib"),
    *(os.path.realpath(path) + os.sep for path in site.getsitepackages()),
)
_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_OURS: Final = str(Path(__file__).resolve().parents[1]) + os.sep


@functools.cache
def origin_of_file(filename: str) -> Origin:
    """Return whose file it is; what no file holds, as a cell of a notebook, is the user's."""
    if filename.startswith("<"):
        return Origin.STDLIB if filename.startswith("<frozen ") else Origin.USER
    path = os.path.realpath(filename)
    if path.startswith(_PACKAGES) or any(each in path for each in _INSTALLED):
        return Origin.PACKAGE
    # What of flowpar a function uses does not change its results.
    if path.startswith((*_STDLIB, _OURS)):
        return Origin.STDLIB
    return Origin.USER


def origin_of_module(name: str | None, module: types.ModuleType | None = None) -> Origin:
    """Return whose module it is.

    Parameters
    ----------
    name
        As in ``sys.modules``.
    module
        The module, if it is at hand.
    """
    found = module if module is not None else sys.modules.get(name or "")
    if is_main(name):
        return Origin.USER
    where = _place_of(found)
    if where is not None:
        return origin_of_file(where)
    return Origin.STDLIB if _top(name) in sys.stdlib_module_names else Origin.USER


def _place_of(module: Any) -> str | None:
    filename = getattr(module, "__file__", None)
    if isinstance(filename, str):
        return filename
    paths = [str(path) for path in getattr(module, "__path__", ())]
    return paths[0] + os.sep if paths else None


def is_extension(module: types.ModuleType) -> bool:
    """Return whether a module is compiled, so that there is nothing to read in it."""
    filename = getattr(module, "__file__", None) or ""
    return filename.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))


def is_main(name: str | None) -> bool:
    """Return whether a name is one of the program's main module, whose own name is another."""
    return name in MAIN


def name_to_import(module: str) -> str:
    """Return the name of a module; of the main one that by which it would be imported.

    It is the same in a worker, where things of the main module come by value.
    """
    if not is_main(module):
        return module
    filename = getattr(sys.modules.get("__main__"), "__file__", None)
    # A worker has no file, but the arguments of its program.
    return _name_of_script(str(filename or next(iter(sys.argv), "")))


@functools.cache
def _name_of_script(filename: str) -> str:
    if not filename:
        return "__main__"
    path = Path(os.path.abspath(filename))  # noqa: PTH100 - without the dots
    folders = (Path(os.path.abspath(folder)) for folder in sys.path)  # noqa: PTH100 - as above
    within = min(
        (each for each in folders if each in path.parents), default=path.parent, key=_depth
    )
    return ".".join(path.relative_to(within).with_suffix("").parts)


def _depth(path: Path) -> int:
    return -len(path.parts)


def _top(name: str | None) -> str:
    return (name or "").partition(".")[0]


def package_of(module: str) -> tuple[str, str]:
    """Return the name and version of the distribution that a module belongs to."""
    return _package_of(_top(module))


@functools.cache
def _package_of(top: str) -> tuple[str, str]:
    from importlib import metadata  # noqa: PLC0415 - brings the email package, 15 ms

    try:
        return top, metadata.version(top)
    except (metadata.PackageNotFoundError, ValueError):
        pass
    names = _distributions().get(top)
    if names:
        return names[0], metadata.version(names[0])
    version = getattr(sys.modules.get(top), "__version__", None)
    return top, version if isinstance(version, str) else "?"


@functools.cache
def _distributions() -> dict[str, list[str]]:
    from importlib import metadata  # noqa: PLC0415 - as above

    # Takes 0.1 s: only for packages whose distribution has another name.
    return {top: sorted(names) for top, names in metadata.packages_distributions().items()}
