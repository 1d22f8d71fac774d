"""The command line: what a pipeline would do, why, and the house-keeping of a cache."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

from flowpar import running
from flowpar.caching.cache import Cache
from flowpar.caching.store import close_all
from flowpar.errors import FlowparError, FlowparWarning
from flowpar.graph import Graph
from flowpar.preview import Look, accept_in, preview
from flowpar.running import graph_of
from flowpar.settings import Options, options, resolve

DONE: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Parameters
    ----------
    arguments
        As after ``flowpar`` on the command line; None: those of this process.

    Returns
    -------
    int
        0: done; 1: a task failed, or something damaged was found; 2: wrong usage;
        130: interrupted.
    """
    own, of_script = _parted(sys.argv[1:] if arguments is None else list(arguments))
    given = _parser().parse_args(own)
    given.of_script = of_script
    given.is_alone = arguments is None
    with _short_warnings():
        return _exit_code(lambda: given.do(given))


def _exit_code(do: Callable[[], int]) -> int:
    try:
        return do()
    except _Answered as answered:
        return answered.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # of a pager that was left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except FlowparError as error:
        print(f"flowpar: {error}", file=sys.stderr)
        return WRONG_USAGE if isinstance(error, WrongUsage) else FAILED
    except _ScriptFailed as failed:
        sys.excepthook(type(failed.error), failed.error, failed.error.__traceback__)
        return FAILED


def _parted(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return what is for us, and what comes after ``--`` and is for the script."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


class WrongUsage(FlowparError):
    """The command line asks for what is not there."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowpar", description="Ask what a pipeline would do and why; look after its cache."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_script(commands, "run", _run, "run a script, or compute one of its delayed values")
    _add_script(commands, "plan", _asking(_plan), "what would run, and what is up to date")
    why = _add_script(
        commands, "why", _asking(_why), "why a task would run, or ran when it ran last"
    )
    why.add_argument("key", nargs="?", help="of a task, such as resize[3], or of a function")
    accept = _add_script(
        commands,
        "accept",
        _asking(_accept),
        "keep values whose code changed without consequence",
    )
    accept.add_argument("--function", help="only of the functions of this name")
    cache = commands.add_parser("cache", help="look into a cache, and clean it up")
    _add_cache(cache)
    return parser


def _add_script(
    commands: Any, name: str, do: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(do=do)
    parser.add_argument(
        "script",
        help="a Python file; with :NAME, the delayed value of that name in it, otherwise the first "
        "that it computes. What follows -- are its own arguments",
    )
    parser.add_argument("--cache", help="directory; the script's own, or .flowpar, if not given")
    if name != "run":
        parser.add_argument("--json", action="store_true", help="print data instead of text")
    return parser


def _add_cache(parser: argparse.ArgumentParser) -> None:
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


# ------------------------------------------------------------------------------------ scripts


_Answer = Callable[[argparse.Namespace, Graph, Options], int]


class _Answered(BaseException):
    """What was asked of a script is answered, with this exit code, and it is to go no further."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class _ScriptFailed(Exception):
    """A script raised an error; its traceback begins in the script."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def _ask(given: argparse.Namespace, answer: _Answer) -> int:
    """Answer for the graph that a script would compute first, or that of one of its names."""
    path, name = _split(given.script)
    own = _own_cache(given)
    streams = sys.stdout, sys.stderr

    def answer_at_once(graph: Graph, options_of_run: Options) -> NoReturn:
        # It may have put others in their place, and catch whatever is raised here.
        sys.stdout, sys.stderr = streams
        cache = resolve(own).cache if own else options_of_run.cache
        if name is None:
            code = _exit_code(lambda: answer(given, graph, replace(options_of_run, cache=cache)))
        else:
            code = _exit_code(lambda: _refuse_name(path, name))
        _leave(code, is_alone=given.is_alone)

    running.instead_of_running.append(answer_at_once)
    try:
        names = _execute(path, name, given.of_script)
    finally:
        running.instead_of_running.pop()
    if name is None:
        raise WrongUsage(f"{path} computes nothing: name a delayed value, as in {path}:NAME")
    if name not in names:
        raise WrongUsage(f"{path} has no {name!r}")
    return answer(given, graph_of([names[name]])[0], resolve(own))


def _own_cache(given: argparse.Namespace) -> dict[str, str]:
    # Before the script goes to another directory.
    return {"cache": os.path.abspath(given.cache)} if given.cache else {}  # noqa: PTH100 - dots


def _refuse_name(path: str, name: str) -> NoReturn:
    raise WrongUsage(
        f"{path} computes before it has come to its end, so its name {name!r} cannot be asked for: "
        'put what it computes under if __name__ == "__main__":'
    )


def _leave(code: int, *, is_alone: bool) -> NoReturn:
    """End the command within the script that it asks, which must do nothing more."""
    if not is_alone:
        raise _Answered(code)  # the program that called us goes on
    with contextlib.suppress(Exception):
        close_all()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    # An exception could be caught, and what is to be done at the end is the script's.
    os._exit(code)


def _asking(answer: _Answer) -> Callable[[argparse.Namespace], int]:
    return lambda given: _ask(given, answer)


def _split(script: str) -> tuple[str, str | None]:
    path, colon, name = script.rpartition(":")
    if not colon or not path or Path(script).exists():
        path, name = script, ""
    if not Path(path).is_file():
        raise WrongUsage(f"there is no file {path}")
    return path, name or None


def _execute(path: str, wanted: str | None, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a script as Python would, and return its names.

    If one of them is wanted, the script is imported as a module would be.
    """
    name = "__main__" if wanted is None else Path(path).stem
    module = types.ModuleType(name)
    module.__file__ = path
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules[name] = module
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        code = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102 - that is what was asked for
    except FlowparError:
        raise
    except Exception as error:  # noqa: BLE001 - it is reported as Python would
        raise _ScriptFailed(error.with_traceback(_after_us(error.__traceback__))) from None
    return module.__dict__


def _after_us(trace: types.TracebackType | None) -> types.TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _run(given: argparse.Namespace) -> int:
    path, name = _split(given.script)
    with options(**_own_cache(given)):
        names = _execute(path, name, given.of_script)
        if name is None:
            return DONE
        if name not in names:
            raise WrongUsage(f"{path} has no {name!r}")
        done = running.run(names[name])
    print(done.summary())
    return DONE


def _plan(given: argparse.Namespace, graph: Graph, options_of_run: Options) -> int:
    found = preview(graph, options_of_run)
    _show(given, found.to_dict(), str(found))
    return DONE


def _why(given: argparse.Namespace, graph: Graph, options_of_run: Options) -> int:
    look = Look(graph, options_of_run)
    explanations = [look.explain(index) for index in _chosen(look, given.key)]
    plain = [each.to_dict() for each in explanations]
    _show(given, plain, "\n".join(map(str, explanations)))
    return DONE


def _chosen(look: Look, key: str | None) -> list[int]:
    """Return the tasks that are asked about: the targets, or those of a key or a function."""
    graph = look.graph
    if key is None:
        return list(dict.fromkeys(graph.targets))
    keys = [graph.key(index) for index in range(len(graph))]
    found = [index for index, each in enumerate(keys) if each == key]
    found = found or [i for i, task in enumerate(graph.tasks) if task._function.name == key]
    if not found:
        some = ", ".join(keys[:10])
        raise WrongUsage(f"there is no task {key!r}: there are {some}{', …' if keys[10:] else ''}")
    return found


def _accept(given: argparse.Namespace, graph: Graph, options_of_run: Options) -> int:
    keys = accept_in(graph, options_of_run, given.function)
    _show(given, keys, "\n".join(f"accepted {key}" for key in keys) or "nothing to accept")
    return DONE


# -------------------------------------------------------------------------------------- cache


def _cache(given: argparse.Namespace) -> Cache:
    if not Path(given.directory, "FORMAT").exists():
        raise WrongUsage(f"there is no cache in {given.directory}")
    cache = Cache(given.directory)
    with warnings.catch_warnings(record=True) as caught:
        why_not = cache.store().why_not
    if why_not:
        raise FlowparError(f"the cache in {given.directory} cannot be used: {why_not}")
    for warning in caught:
        warnings.warn(warning.message, stacklevel=2)
    return cache


def _info(given: argparse.Namespace) -> int:
    info = _cache(given).info()
    lines = [
        (
            f"{info['path']}: {info['results']:,} results in {info['objects']:,} objects, "
            f"{_readable(info['bytes'])}"
        ),
        *(f"  {event}" for event in info["events"]),
    ]
    _show(given, info, "\n".join(lines))
    return DONE


def _ls(given: argparse.Namespace) -> int:
    rows = _cache(given).ls()
    lines = [f"{'function':<30} {'results':>8} {'size':>9} {'mean s':>9}  last made"]
    lines += [
        f"{row['function'][:30]:<30} {row['results']:>8,} {_readable(row['bytes']):>9} "
        f"{row['seconds']:>9.3g}  {row['last']}"
        for row in rows
    ]
    _show(given, rows, "\n".join(lines))
    return DONE


def _verify(given: argparse.Namespace) -> int:
    damaged = _cache(given).verify()
    lines = [f"damaged, and forgotten: {name}: {why}" for name, why in damaged.items()]
    _show(given, damaged, "\n".join(lines) or "all is whole")
    return FAILED if damaged else DONE


def _prune(given: argparse.Namespace) -> int:
    cache = _cache(given)
    if given.max_size is None and given.max_age is None:
        raise WrongUsage("prune needs --max-size, --max-age or both")
    freed = cache.prune(max_bytes=given.max_size, max_age=given.max_age)
    _show(given, {"bytes": freed}, f"freed {_readable(freed)}")
    return DONE


def _clear(given: argparse.Namespace) -> int:
    cache, function = _cache(given), given.function
    if function is None:
        cleared = cache.info()["results"]
        cache.clear()
        _show(given, {"results": cleared}, "cleared")
        return DONE
    cleared = cache.store().delete_traces(name=function)
    names = ", ".join(row["function"] for row in cache.ls()[:10]) if not cleared else ""
    there = f": there are {names}" if names else ""
    text = f"cleared {cleared:,} results of {function}"
    _show(given, {"results": cleared}, text if cleared else f"nothing is kept of {function}{there}")
    return DONE


def _show(given: argparse.Namespace, plain: object, text: str) -> None:
    print(json.dumps(plain, indent=1) if given.json else text)


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


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


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
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
