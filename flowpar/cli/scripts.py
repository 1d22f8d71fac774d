"""Scripts and modules as the command line names them: run, or asked what they would compute."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from flowpar import running
from flowpar.arguments import holds_task
from flowpar.caching.store import close_all
from flowpar.cli.output import WrongUsage, data_apart
from flowpar.dsl import DelayedFunction
from flowpar.errors import FlowparError, InternalError
from flowpar.graph import Graph
from flowpar.policy import unknown_name
from flowpar.running import graph_of
from flowpar.settings import Options, resolve
from flowpar.task import Task

Answer = Callable[[argparse.Namespace, Graph, Options], int]

STDIN: Final = "-"
"""Stands for a script that comes from the standard input, as it does for Python."""


class Answered(BaseException):
    """What was asked of a script is answered, with this exit code, and it is to go no further."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class ScriptFailed(Exception):
    """A script raised an error; its traceback begins in the script."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error.with_traceback(_after_us(error))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target is: a file or a module, and perhaps a name in it."""

    path: str
    module: str | None
    """None: it is a file."""
    name: str | None

    def __str__(self) -> str:
        where = self.module or os.path.basename(self.path)  # noqa: PTH119 - a text
        return f"{where}:{self.name}" if self.name else where


def place_of(text: str) -> Place:
    """Return where ``file.py:name`` or ``package.module:name`` leads; the name may be left out.

    Raises
    ------
    WrongUsage
        If there is no such file or module.
    """
    path, colon, name = text.rpartition(":")
    if not colon or not path or Path(text).exists():
        path, name = text, ""
    elif not name:
        raise WrongUsage(f"{text} names nothing after the colon: leave it out, or add a name")
    if path == STDIN or (Path(path).exists() and not Path(path).is_dir()):
        return Place(path, None, name or None)
    module = path if name or not _is_package(path) else f"{path}.__main__"
    origin = _origin(module)
    if origin is None:
        raise WrongUsage(_why_no_place(path))
    return Place(origin, module, name or None)


def _why_no_place(path: str) -> str:
    first = path.rpartition(":")[0]
    if first and Path(first).is_file():
        return f"{path} has a second name after it: name one, or a list or dictionary of several"
    if Path(path).is_dir():
        file = next(iter(sorted(Path(path).glob("*.py"))), Path(path, "pipeline.py"))
        return f"{path} is a folder: name a file in it, such as {file}, or a module"
    if _is_package(path):
        return f"{path} is a package without __main__: name a module of it, or {path}:NAME"
    return f"there is no file {path}, and no module of that name"


def _is_package(module: str) -> bool:
    spec = _spec(module)
    return spec is not None and spec.submodule_search_locations is not None


def _origin(module: str) -> str | None:
    """Return the file of a module; packages on the way to it are imported."""
    spec = _spec(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return spec.origin


def _spec(module: str) -> importlib.machinery.ModuleSpec | None:
    if not all(part.isidentifier() for part in module.split(".")):
        return None
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - sys.path has texts
        sys.path.insert(0, here)
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def own_cache(given: argparse.Namespace) -> dict[str, str]:
    """Return the option that the command line gives, as a full path: scripts go elsewhere."""
    return {"cache": os.path.abspath(given.cache)} if given.cache else {}  # noqa: PTH100 - dots


def ask(given: argparse.Namespace, answer: Answer) -> int:
    """Answer for the graph that a script would compute first, or that of one of its names."""
    place = place_of(given.script)
    with data_apart(given):
        return _ask(given, place, answer)


def _ask(given: argparse.Namespace, place: Place, answer: Answer) -> int:
    own = own_cache(given)
    streams = sys.stdout, sys.stderr
    is_asked_for = place.name is None

    def answer_at_once(graph: Graph, options_of_run: Options) -> NoReturn:
        # It may have put others in their place, and catch whatever is raised here.
        sys.stdout, sys.stderr = streams
        cache = resolve(own).cache if own else options_of_run.cache
        if is_asked_for:
            code = given.guard(lambda: answer(given, graph, replace(options_of_run, cache=cache)))
        else:
            code = given.guard(lambda: _refuse_name(place))
        _leave(code, is_alone=given.is_alone)

    running.instead_of_running.append(answer_at_once)
    try:
        names = execute(place, given.of_script)
        if place.name is None:
            raise WrongUsage(
                f"{given.script} computes nothing: name a delayed value, as in {given.script}:NAME"
            )
        is_asked_for = True  # what the function of that name computes is meant
        target = found_of(place, names, given.set)
    finally:
        running.instead_of_running.pop()
    check_delayed(place, target)
    with as_script():
        graph, _ = graph_of([target])
    return answer(given, graph, resolve(own))


def _refuse_name(place: Place) -> NoReturn:
    raise WrongUsage(
        f"{place.path} computes before it has come to its end, so its name {place.name!r} cannot "
        'be asked for: put what it computes under if __name__ == "__main__":'
    )


def _leave(code: int, *, is_alone: bool) -> NoReturn:
    """End the command within the script that it asks, which must do nothing more."""
    if not is_alone:
        raise Answered(code)  # the program that called us goes on
    with contextlib.suppress(Exception):
        close_all()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    # An exception could be caught, and what is to be done at the end is the script's.
    os._exit(code)


def execute(place: Place, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a script as Python would, and return its names.

    If one of them is wanted, the script is imported as a module would be.
    """
    sys.argv = [place.path, *arguments]
    with as_script():
        if place.module is not None and place.name is not None:
            return vars(importlib.import_module(place.module))
        source, filename = _source(place)
        module = _new_module(place)
        code = compile(source, filename, "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102 - that is what was asked for
        return module.__dict__


@contextlib.contextmanager
def as_script() -> Iterator[None]:
    """Make every error that of the script, which is reported as Python would."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is
        raise ScriptFailed(error) from None


def _source(place: Place) -> tuple[bytes, str]:
    if place.path == STDIN:
        return sys.stdin.buffer.read(), "<stdin>"
    return Path(place.path).read_bytes(), place.path


def _new_module(place: Place) -> types.ModuleType:
    """Return the main module of the program from now on.

    If a name of it is wanted, it is called as multiprocessing calls a main module whose guard must
    not hold. That is no name of another module, and it is known not to be imported by any worker.
    """
    name = "__main__" if place.name is None else "__mp_main__"
    module = types.ModuleType(name)
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    if place.path == STDIN:
        sys.path.insert(0, "")
        sys.modules[name] = module
        return module
    module.__file__ = place.path
    if place.module is None:
        sys.path.insert(0, str(Path(place.path).resolve().parent))
    else:
        module.__spec__ = importlib.util.find_spec(place.module)
        module.__package__ = place.module.rpartition(".")[0]
    sys.modules["__main__"] = sys.modules[name] = module
    return module


def _after_us(error: BaseException) -> types.TracebackType | None:
    """Return the traceback of an error from the first line that is not flowpar's.

    If there is none, it is left out where it tells nothing: of what flowpar says on purpose, and of
    a script which cannot be compiled.
    """
    ours, rest, last = str(Path(running.__file__).parent), error.__traceback__, ""
    while rest is not None and rest.tb_frame.f_code.co_filename.startswith(ours):
        last, rest = rest.tb_frame.f_code.co_filename, rest.tb_next
    is_on_purpose = isinstance(error, FlowparError) and not isinstance(error, InternalError)
    return rest or (None if last == __file__ or is_on_purpose else error.__traceback__)


def found_of(place: Place, names: Mapping[str, Any], settings: Sequence[tuple[str, str]]) -> Any:
    """Return what is named: a value, or what the function of that name returns.

    Parameters
    ----------
    place
        Says which.
    names
        Of the script.
    settings
        Arguments for a function that returns the delayed value, by name, as they were written.

    Raises
    ------
    WrongUsage
        If there is no such name, or it is no function, and there are settings for one.
    """
    assert place.name is not None  # noqa: S101 - who has none computes what it computes
    if place.name not in names:
        raise WrongUsage(_why_no_name(place, names))
    found = names[place.name]
    if not holds_task(found) and callable(found):
        return _returned(place, found, settings)
    if settings:
        raise WrongUsage(f"{place.name} is no function, so --set is of no use")
    return found


def _why_no_name(place: Place, names: Mapping[str, Any]) -> str:
    assert place.name is not None  # noqa: S101 - as above
    there = {name: None for name, value in names.items() if _can_be_asked_for(name, value, names)}
    if not there:
        return f"{place.name!r} is not in {place.path}, and nothing else that could be computed"
    return unknown_name(place.name, there, f"in {place.path}")


def _can_be_asked_for(name: str, value: object, names: Mapping[str, Any]) -> bool:
    if name.startswith("_"):
        return False
    if issubclass(type(value), (Task, list, tuple, dict)):
        return holds_task(value)
    is_function = inspect.isfunction(value) or isinstance(value, DelayedFunction)
    return is_function and getattr(value, "__module__", None) == names.get("__name__")


def check_delayed(place: Place, found: object) -> None:
    """Raise `WrongUsage` if what was found at a place is, and holds, nothing delayed."""
    if not holds_task(found):
        raise WrongUsage(f"{place.name} is no delayed value, and holds none: {found!r}"[:200])


def _returned(place: Place, function: Any, settings: Sequence[tuple[str, str]]) -> Any:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        parameters = types.MappingProxyType({})
    values = {name: _value(text, parameters.get(name)) for name, text in settings}
    try:
        inspect.signature(function).bind(**values)
    except (TypeError, ValueError) as error:
        raise WrongUsage(f"{place.name}: {error}; give arguments by --set NAME=VALUE") from None
    with as_script():
        found = function(**values)
        if inspect.iscoroutine(found):
            import asyncio  # noqa: PLC0415 - slow to import, and few scripts need it

            return asyncio.run(found)
        return found


def _value(text: str, parameter: inspect.Parameter | None) -> Any:
    """Return what a text on the command line stands for: a literal of Python, or itself."""
    wanted = None if parameter is None else parameter.annotation
    if wanted in {str, "str"}:
        return text
    if wanted in {Path, "Path"}:
        return Path(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def add_script(
    commands: Any, name: str, do: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    """Add a command to those of the parser that is about a script."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(do=do)
    parser.add_argument(
        "script",
        help="a Python file or a module; with :NAME, the delayed value of that name, otherwise the "
        "first that it computes; - for the standard input. What follows -- are its own arguments",
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


def setting(text: str) -> tuple[str, str]:
    """Return the name and the value of ``name=value``."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not like name=value")
    return name, value
