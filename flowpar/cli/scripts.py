"""Scripts and modules as the command line names them: run, or asked what they would compute."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from flowpar import running
from flowpar.arguments import holds_task
from flowpar.caching.store import close_all
from flowpar.cli.output import WrongUsage
from flowpar.errors import FlowparError
from flowpar.graph import Graph
from flowpar.running import graph_of
from flowpar.settings import Options, resolve

Answer = Callable[[argparse.Namespace, Graph, Options], int]


class Answered(BaseException):
    """What was asked of a script is answered, with this exit code, and it is to go no further."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class ScriptFailed(Exception):
    """A script raised an error; its traceback begins in the script."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error.with_traceback(_after_us(error.__traceback__))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target is: a file or a module, and perhaps a name in it."""

    path: str
    module: str | None
    """None: it is a file."""
    name: str | None


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
    if Path(path).is_file():
        return Place(path, None, name or None)
    origin = _origin(path)
    if origin is None:
        raise WrongUsage(f"there is no file {path}, and no module of that name")
    return Place(origin, path, name or None)


def _origin(module: str) -> str | None:
    """Return the file of a module; packages on the way to it are imported."""
    if not all(part.isidentifier() for part in module.split(".")):
        return None
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - sys.path has texts
        sys.path.insert(0, here)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return spec.origin


def own_cache(given: argparse.Namespace) -> dict[str, str]:
    """Return the option that the command line gives, as a full path: scripts go elsewhere."""
    return {"cache": os.path.abspath(given.cache)} if given.cache else {}  # noqa: PTH100 - dots


def ask(given: argparse.Namespace, answer: Answer) -> int:
    """Answer for the graph that a script would compute first, or that of one of its names."""
    place = place_of(given.script)
    own = own_cache(given)
    streams = sys.stdout, sys.stderr

    def answer_at_once(graph: Graph, options_of_run: Options) -> NoReturn:
        # It may have put others in their place, and catch whatever is raised here.
        sys.stdout, sys.stderr = streams
        cache = resolve(own).cache if own else options_of_run.cache
        if place.name is None:
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
        target = target_of(place, names, given.set)
    finally:
        running.instead_of_running.pop()
    return answer(given, graph_of([target])[0], resolve(own))


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
    try:
        if place.module is not None and place.name is not None:
            return vars(importlib.import_module(place.module))
        module = _new_module(place)
        code = compile(Path(place.path).read_bytes(), place.path, "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102 - that is what was asked for
    except FlowparError:
        raise
    except Exception as error:  # noqa: BLE001 - it is reported as Python would
        raise ScriptFailed(error) from None
    return module.__dict__


def _new_module(place: Place) -> types.ModuleType:
    name = "__main__" if place.name is None else Path(place.path).stem
    module = types.ModuleType(name)
    module.__file__ = place.path
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    if place.module is None:
        sys.path.insert(0, str(Path(place.path).resolve().parent))
    else:
        module.__spec__ = importlib.util.find_spec(place.module)
        module.__package__ = place.module.rpartition(".")[0]
    sys.modules[name] = module
    return module


def _after_us(trace: types.TracebackType | None) -> types.TracebackType | None:
    """Return a traceback from the first line that is not flowpar's.

    If there is none, it is whole; but for that of a script which cannot be compiled.
    """
    ours, rest, last = str(Path(running.__file__).parent), trace, ""
    while rest is not None and rest.tb_frame.f_code.co_filename.startswith(ours):
        last, rest = rest.tb_frame.f_code.co_filename, rest.tb_next
    return rest or (None if last == __file__ else trace)


def target_of(place: Place, names: Mapping[str, Any], settings: Sequence[tuple[str, str]]) -> Any:
    """Return the delayed value, or the container of some, that is named.

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
        If there is no such name, or what it stands for is, and returns, nothing delayed.
    """
    assert place.name is not None  # noqa: S101 - who has none computes what it computes
    if place.name not in names:
        raise WrongUsage(f"{place.path} has no {place.name!r}")
    found = names[place.name]
    if not holds_task(found) and callable(found):
        found = _returned(place, found, settings)
    elif settings:
        raise WrongUsage(f"{place.name} is no function, so --set is of no use")
    if not holds_task(found):
        raise WrongUsage(f"{place.name} is no delayed value, and holds none: {found!r}"[:200])
    return found


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
    try:
        return function(**values)
    except FlowparError:
        raise
    except Exception as error:  # noqa: BLE001 - it is reported as Python would
        raise ScriptFailed(error) from None


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


def setting(text: str) -> tuple[str, str]:
    """Return the name and the value of ``name=value``."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not like name=value")
    return name, value
