"""The command line: run a pipeline, see what it would do and why, look after its cache."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

from flowpar import running
from flowpar.cli import caches, doctor, runs
from flowpar.cli.output import (
    DONE,
    FAILED,
    INTERRUPTED,
    WRONG_USAGE,
    WrongUsage,
    short_warnings,
    show,
)
from flowpar.cli.scripts import (
    Answer,
    Answered,
    ScriptFailed,
    ask,
    execute,
    own_cache,
    place_of,
    setting,
    target_of,
)
from flowpar.errors import FlowparError
from flowpar.graph import Graph
from flowpar.preview import Look, accept_in, preview
from flowpar.settings import SCHEDULERS, Options, options
from flowpar.views.pictures.contents import CLUSTERS, RANKDIRS
from flowpar.views.pictures.picture import draw
from flowpar.views.pictures.styles import COLOURS

EXAMPLES: Final = """\
examples:
  flowpar plan pipeline.py              what would run, and what is up to date
  flowpar why pipeline.py resize[3]     why that task would run, or ran
  flowpar run pipeline.py:sheet -j 4    compute one delayed value of a script
  flowpar run shop.nightly:build --set day=2026-11-21
                                        call a function of a module, compute what it returns
  flowpar graph pipeline.py -o g.svg    see it
  flowpar log                           which runs there were
  flowpar report 12 -o run.html         all that there is to tell of one
  flowpar cache prune --max-size 20G    forget what was not used for longest

A script is a Python file or a module, with :NAME the delayed value of that name, the list or
dictionary of some, or a function that returns one. What follows -- are the script's own arguments.
Exit codes: 0 done, 1 a task failed, 2 wrong usage, 130 interrupted.
"""


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
    given.guard = _exit_code
    with short_warnings():
        return _exit_code(lambda: given.do(given))


def _exit_code(do: Callable[[], int]) -> int:
    try:
        return do()
    except Answered as answered:
        return answered.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # of a pager that was left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except FlowparError as error:
        print(f"flowpar: {error}", file=sys.stderr)
        return WRONG_USAGE if isinstance(error, WrongUsage) else FAILED
    except ScriptFailed as failed:
        sys.excepthook(type(failed.error), failed.error, failed.error.__traceback__)
        return FAILED


def _parted(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return what is for us, and what comes after ``--`` and is for the script."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


# ------------------------------------------------------------------------------------- parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowpar",
        description="Run a pipeline, see what it would do and why, look after its cache.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    _add_script(commands, "plan", _asking(_plan), "what would run, and what is up to date")
    why = _add_script(
        commands, "why", _asking(_why), "why a task would run, or ran when it ran last"
    )
    why.add_argument("key", nargs="?", help="of a task, such as resize[3], or of a function")
    _add_graph(commands)
    accept = _add_script(
        commands,
        "accept",
        _asking(_accept),
        "keep values whose code changed without consequence",
    )
    accept.add_argument("--function", help="only of the functions of this name")
    runs.add_commands(commands)
    cache = commands.add_parser("cache", help="look into a cache, and clean it up")
    caches.add_commands(cache)
    doctor.add_command(commands)
    return parser


def _add_script(
    commands: Any, name: str, do: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(do=do)
    parser.add_argument(
        "script",
        help="a Python file or a module; with :NAME, the delayed value of that name, otherwise the "
        "first that it computes. What follows -- are its own arguments",
    )
    parser.add_argument("--cache", help="directory; the script's own, or .flowpar, if not given")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=setting,
        metavar="NAME=VALUE",
        help="an argument of the function that is named; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print data instead of text")
    return parser


def _add_run(commands: Any) -> None:
    run = _add_script(commands, "run", _run, "run a script, or compute one of its delayed values")
    run.add_argument("-j", "--workers", type=int, help="how many processes or threads")
    run.add_argument("--scheduler", choices=SCHEDULERS, help="where tasks run")
    run.add_argument("--keep-going", action="store_true", help="finish what does not depend on it")
    run.add_argument("--dashboard", action="store_true", help="show it on a page meanwhile")
    run.add_argument("--report", metavar="FILE", help="write all that there is to tell, as .html")
    run.add_argument("--no-progress", action="store_true", help="no bar")


def _add_graph(commands: Any) -> None:
    graph = _add_script(
        commands, "graph", _asking(_graph), "draw what would be computed, and what would run of it"
    )
    graph.add_argument(
        "-o",
        "--output",
        default="graph.svg",
        help="file (graph.svg); .svg, .dot, .mmd, .txt and .json need nothing",
    )
    size = graph.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="a box for each task, however many")
    size.add_argument("--collapse", action="store_true", help="a box for each function")
    graph.add_argument("--color", choices=COLOURS, default="auto", help="what colours mean")
    graph.add_argument("--focus", metavar="NAME", help="of a task or a function, and next to it")
    graph.add_argument("--rankdir", choices=RANKDIRS, help="to the right, or downwards")
    graph.add_argument("--cluster", choices=CLUSTERS, help="what stands together")


def _asking(answer: Answer) -> Callable[[argparse.Namespace], int]:
    return lambda given: ask(given, answer)


# ----------------------------------------------------------------------------------- commands


def _run(given: argparse.Namespace) -> int:
    place = place_of(given.script)
    with options(**own_cache(given), **_of_run(given)):
        names = execute(place, given.of_script)
        if place.name is None:
            if given.set:
                raise WrongUsage("--set is for a function that is named, as in FILE.py:NAME")
            return DONE
        target = target_of(place, names, given.set)
        try:
            done = running.run(target)
        except Exception as error:  # noqa: BLE001 - it is reported as Python would
            raise ScriptFailed(error) from None
    plain = {
        "status": done.status,
        "seconds": done.seconds,
        "counts": asdict(done.counts),
        "tasks": [asdict(task) for task in done.tasks],
    }
    show(given, plain, done.summary())
    return DONE


def _of_run(given: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if given.workers is not None:
        found["workers"] = given.workers
    if given.scheduler is not None:
        found["scheduler"] = given.scheduler
    if given.keep_going:
        found["on_error"] = "continue"
    if given.report is not None:
        found["report"] = given.report
    if given.dashboard:
        found["dashboard"] = True
    if given.no_progress:
        found["progress"] = False
    return found


def _plan(given: argparse.Namespace, graph: Graph, options_of_run: Options) -> int:
    found = preview(graph, options_of_run)
    show(given, found.to_dict(), str(found))
    return DONE


def _graph(given: argparse.Namespace, graph: Graph, options_of_run: Options) -> int:
    look = None if options_of_run.cache is None else Look(graph, options_of_run)
    if given.json:
        import networkx as nx  # noqa: PLC0415 - slow to import

        statuses = {} if look is None else look.statuses()
        made = graph.to_networkx({index: {"status": status} for index, status in statuses.items()})
        show(given, nx.node_link_data(made, edges="edges"), "")
        return DONE
    names = ("color", "focus", "rankdir", "cluster")
    wanted = {name: getattr(given, name) for name in names}
    wanted["collapse"] = True if given.collapse else False if given.full else "auto"
    made = graph.to_networkx({} if look is None else look.facts())
    print(draw(made, given.output, **wanted))
    return DONE


def _why(given: argparse.Namespace, graph: Graph, options_of_run: Options) -> int:
    look = Look(graph, options_of_run)
    explanations = [look.explain(index) for index in _chosen(look, given.key)]
    plain = [each.to_dict() for each in explanations]
    show(given, plain, "\n".join(map(str, explanations)))
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
    show(given, keys, "\n".join(f"accepted {key}" for key in keys) or "nothing to accept")
    return DONE
