"""``flowpar cache``: what a cache holds, and its house-keeping."""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from pathlib import Path

from flowpar.caching.cache import Cache
from flowpar.cli.output import DONE, FAILED, Refused, WrongUsage, readable, show


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the commands that look after a cache."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    texts: dict[str, tuple[Callable[[argparse.Namespace], int], str]] = {
        "info": (_info, "how much there is, and what ran lately"),
        "ls": (_ls, "what is kept of which function"),
        "verify": (_verify, "read everything, and forget what is damaged"),
        "prune": (_prune, "forget what was not used for longest"),
        "clear": (_clear, "forget everything, or all of one function"),
    }
    for name, (do, text) in texts.items():
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(do=do)
        command.add_argument("directory", nargs="?", default=".flowpar")
        command.add_argument("--json", action="store_true", help="print data instead of text")
        if name == "prune":
            command.add_argument("--max-size", type=_size, help="such as 500M or 20G")
            command.add_argument("--max-age", type=_age, help="such as 12h or 30d")
        if name == "clear":
            command.add_argument(
                "--function",
                help="the name of one; it is no error if nothing is kept of it, but is said",
            )


def opened(directory: str) -> Cache:
    """Return the cache of a directory.

    Raises
    ------
    WrongUsage
        If there is none.
    Refused
        If it cannot be used.
    """
    if not Path(directory, "FORMAT").exists():
        raise WrongUsage(f"there is no cache in {directory}")
    cache = Cache(directory)
    with warnings.catch_warnings(record=True) as caught:
        why_not = cache.store().why_not
    if why_not:
        raise Refused(f"the cache in {directory} cannot be used: {why_not}")
    for warning in caught:
        warnings.warn(warning.message, stacklevel=2)
    return cache


def _info(given: argparse.Namespace) -> int:
    info = opened(given.directory).info()
    lines = [
        (
            f"{info['path']}: {info['results']:,} results in {info['objects']:,} objects, "
            f"{readable(info['bytes'])}"
        ),
        *(f"  {event}" for event in info["events"]),
    ]
    show(given, info, "\n".join(lines))
    return DONE


def _ls(given: argparse.Namespace) -> int:
    rows = opened(given.directory).ls()
    lines = [f"{'function':<30} {'results':>8} {'size':>9} {'mean s':>9}  last made"]
    lines += [
        f"{row['function'][:30]:<30} {row['results']:>8,} {readable(row['bytes']):>9} "
        f"{row['seconds']:>9.3g}  {row['last']}"
        for row in rows
    ]
    show(given, rows, "\n".join(lines))
    return DONE


def _verify(given: argparse.Namespace) -> int:
    damaged = opened(given.directory).verify()
    lines = [f"damaged, and forgotten: {name}: {why}" for name, why in damaged.items()]
    show(given, damaged, "\n".join(lines) or "all is whole")
    return FAILED if damaged else DONE


def _prune(given: argparse.Namespace) -> int:
    cache = opened(given.directory)
    if given.max_size is None and given.max_age is None:
        raise WrongUsage("prune needs --max-size, --max-age or both")
    freed = cache.prune(max_bytes=given.max_size, max_age=given.max_age)
    show(given, {"bytes": freed}, f"freed {readable(freed)}")
    return DONE


def _clear(given: argparse.Namespace) -> int:
    cache, function = opened(given.directory), given.function
    if function is None:
        cleared = cache.info()["results"]
        cache.clear()
        show(given, {"results": cleared}, "cleared")
        return DONE
    cleared = cache.store().delete_traces(name=function)
    names = ", ".join(row["function"] for row in cache.ls()[:10]) if not cleared else ""
    there = f": there are {names}" if names else ""
    text = f"cleared {cleared:,} results of {function}"
    show(given, {"results": cleared}, text if cleared else f"nothing is kept of {function}{there}")
    return DONE


def _unit(text: str, units: dict[str, float], example: str) -> float:
    number, unit = text[:-1], text[-1:].lower()
    if unit.isdigit():
        number, unit = text, ""
    try:
        found = float(number) * units[unit]
    except (ValueError, KeyError):
        found = -1
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not like {example}")
    return found


def _size(text: str) -> float:
    return _unit(text, {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}, "500M or 20G")


def _age(text: str) -> float:
    return _unit(text, {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}, "12h or 30d")
