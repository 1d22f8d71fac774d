"""The command line: run a pipeline, see what it would do and why, look after its cache."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from flowpar.cli import caches, computing, doctor, runs
from flowpar.cli.output import (
    DONE,
    FAILED,
    INTERRUPTED,
    Refused,
    WrongUsage,
    place_to_write,
    refusing,
    short_warnings,
    show,
    tell,
)
from flowpar.cli.scripts import (
    Answer,
    Answered,
    ScriptFailed,
    add_script,
    ask,
)
from flowpar.errors import FlowparError
from flowpar.graph import Graph
from flowpar.preview import Look, accept_in, preview
from flowpar.settings import Options
from flowpar.views.pictures.contents import CLUSTERS, RANKDIRS
from flowpar.views.pictures.picture import SUFFIXES, draw
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
dictionary of some, or a function that returns one; - is one from the standard input. What follows
-- are the script's own arguments. With --json the output is data alone: what scripts and tasks
print goes to the errors. That of run is the run of what is named, or the list of all of a script.
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
        return DONE
    except Refused as error:
        print(f"flowpar: {error}", file=sys.stderr)
        return error.exit_code
    except (ScriptFailed, FlowparError) as error:
        tell(error.error if isinstance(error, ScriptFailed) else error)
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
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    computing.add_command(commands)
    add_script(commands, "plan", _asking(_plan), "what would run, and what is up to date")
    why = add_script(
        commands, "why", _asking(_why), "why a task would run, or ran when it ran last"
    )
    why.add_argument("key", nargs="?", help="of a task, such as resize[3], or of a function")
    _add_graph(commands)
    accept = add_script(
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


def _add_graph(commands: Any) -> None:
    graph = add_script(
        commands, "graph", _draw, "draw what would be computed, and what would run of it"
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
    def refuse_or_answer(given: argparse.Namespace, graph: Graph, options_of_run: Options) -> int:
        with refusing():
            return answer(given, graph, options_of_run)

    return lambda given: ask(given, refuse_or_answer)


class _Parser(argparse.ArgumentParser):
    """Of one command: takes options between its arguments, too."""

    _is_at_it = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # What takes them apart calls this method in turn; and it takes no commands within commands.
        if self._is_at_it or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._is_at_it = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_at_it = False


# ----------------------------------------------------------------------------------- commands


def _plan(given: argparse.Namespace, graph: Graph, options_of_run: Options) -> int:
    found = preview(graph, options_of_run)
    show(given, found.to_dict(), str(found))
    return DONE


def _draw(given: argparse.Namespace) -> int:
    if not given.json:
        given.file = place_to_write(given.output, SUFFIXES, "a picture")
    return _asking(_graph)(given)


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
    draw(made, given.file, **wanted)
    show(given, None, given.output)
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
