"""What one call is; imports only policy and pickling.

The records here cross every boundary of the package. The user's calls come in as `Task`; `Call` is
the form in which a pool gets them.
"""

from __future__ import annotations

import enum
import functools
import importlib
import inspect
import itertools
import sys
import types
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from flowpar.pickling import MAIN
from flowpar.policy import DEFAULT_POLICY, Policy


class Missing(enum.Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""Stands for an argument that was not given, where None is a value like any other."""


@dataclass(frozen=True, slots=True)
class Site:
    """The line of the user's that built a task."""

    filename: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.filename}:{self.line} in {self.function}"


_numbers = itertools.count(1)


class Function:
    """A callable with its policy, shared by all tasks that call it.

    Attributes
    ----------
    number
        Names this function within this process; never used twice.
    is_coroutine
        Whether a call gives a coroutine, to be run on an event loop.
    is_cheap
        Whether a call costs less than sending it anywhere (items, attributes, containers).
    after
        Tasks that must have ended before a call may start, without giving it a value.
    """

    __slots__ = (
        "__weakref__",
        "_arity",
        "_sent",
        "after",
        "call",
        "is_cheap",
        "is_coroutine",
        "name",
        "number",
        "policy",
    )

    def __init__(
        self,
        call: Callable[..., object],
        policy: Policy = DEFAULT_POLICY,
        *,
        after: tuple[Task, ...] = (),
        is_cheap: bool = False,
    ) -> None:
        self.call = call
        self.policy = policy
        self.after = after
        self.is_cheap = is_cheap
        self.number = next(_numbers)
        self._sent: Callable[..., object] | None = None
        self.name = policy.name or name_of(call)
        self.is_coroutine = gives_coroutine(call)
        self._arity: _Arity | None = None

    def check(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Raise TypeError if the function cannot be called with these arguments."""
        arity = self._arity
        if arity is None:
            arity = self._arity = _arity_of(self.call)
        # The common case, without keywords, costs one comparison.
        if kwargs or not arity.least <= len(args) <= arity.most:
            arity.bind(self.name, args, kwargs)

    def as_sent(self) -> Callable[..., Any]:
        """Return what to send to another process: a name, if a decorator in a module hides it.

        What ``__main__`` defines travels by value in any case, since no worker imports that. Not
        asked before the function is needed: the decorator is at work when this object is made.
        """
        if self._sent is None:
            call = self.call
            in_module = getattr(call, "__module__", "__main__") not in MAIN
            hidden = in_module and _is_hidden(call)
            self._sent = Hidden(call.__module__, call.__qualname__) if hidden else call
        return self._sent

    def __reduce__(self) -> str | tuple[object, ...]:
        if self is CONSTANT:
            return "CONSTANT"
        call = self.as_sent()
        if call is self.call and not _is_by_value() and _is_hidden(call):
            call = Hidden(call.__module__, call.__qualname__)
        return _function, (call, self.policy, self.after, self.is_cheap)

    def __repr__(self) -> str:
        return f"<Function {self.name}>"


def _function(
    call: Callable[..., object],
    policy: Policy,
    after: tuple[Task, ...],
    is_cheap: bool,  # noqa: FBT001 - called by pickle
) -> Function:
    return Function(call, policy, after=after, is_cheap=is_cheap)


@dataclass(frozen=True, slots=True)
class Hidden:
    """A function that a decorator hides: its name leads to what the decorator made of it.

    Pickle finds functions by name, and would refuse this one. It arrives as the function.
    """

    module: str
    qualname: str

    def __reduce__(self) -> tuple[object, ...]:
        return _unhidden, (self.module, self.qualname)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return _unhidden(self.module, self.qualname)(*args, **kwargs)


def _unhidden(module: str, qualname: str) -> Callable[..., Any]:
    importlib.import_module(module)
    return _named(module, qualname).__wrapped__  # type: ignore[attr-defined, no-any-return]


def _named(module: str, qualname: str) -> object:
    thing: object = sys.modules.get(module)
    for name in qualname.split("."):
        thing = getattr(thing, name, None)
    return thing


def _is_hidden(call: object) -> bool:
    module, qualname = getattr(call, "__module__", None), getattr(call, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or "<" in qualname:
        return False
    found = _named(module, qualname)
    return found is not call and getattr(found, "__wrapped__", None) is call


def _is_by_value() -> bool:
    """Return whether the pickler at work is cloudpickle, which takes functions apart."""
    caller = sys._getframe(2).f_globals.get("__name__", "")
    return "cloudpickle" in caller


class _Arity:
    """How many positional arguments a callable takes, and a full check for the rest."""

    __slots__ = ("least", "most", "signature")

    def __init__(self, call: Callable[..., object]) -> None:
        self.least, self.most = 0, 2**31
        self.signature: inspect.Signature | None
        try:
            self.signature = inspect.signature(call)
        except (TypeError, ValueError):  # many builtins have none: they check themselves
            self.signature = None
            return
        kinds = list(self.signature.parameters.values())
        positional = [p for p in kinds if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
        self.least = sum(p.default is p.empty for p in positional)
        if not any(p.kind is p.VAR_POSITIONAL for p in kinds):
            self.most = len(positional)
        if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in kinds):
            self.least = 2**31  # never the cheap way: a keyword is required

    def bind(self, name: str, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        if self.signature is None:
            return
        parameters = self.signature.parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            # Which collects them, though Signature.bind would have it otherwise.
            hidden = {p.name for p in parameters if p.kind is p.POSITIONAL_ONLY}
            kwargs = {key: each for key, each in kwargs.items() if key not in hidden}
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}{self.signature} cannot be called so: {error}") from None


_arities: Final[weakref.WeakKeyDictionary[types.FunctionType, _Arity]] = weakref.WeakKeyDictionary()
"""Of functions that were called: who writes ``delayed(f)(x)`` in a loop asks often."""


def _arity_of(call: Callable[..., object]) -> _Arity:
    if type(call) is not types.FunctionType:
        return _Arity(call)
    known = _arities.get(call)
    if known is None:
        known = _arities[call] = _Arity(call)
    return known


def code_of(call: Any) -> int:
    """Return a number that stands for the code of a callable: the same for closures of one def."""
    return id(code_object(call))


def code_object(call: Any) -> object:
    """Return the code of a callable, or what stands for it."""
    while isinstance(call, functools.partial):
        call = call.func
    if isinstance(call, types.MethodType):
        call = call.__func__
    return call.__code__ if isinstance(call, types.FunctionType) else call


def name_of(call: object) -> str:
    """Return a short name for a callable."""
    for thing in (call, getattr(call, "func", None), type(call)):
        name = getattr(thing, "__name__", None)
        if isinstance(name, str):
            return name
    return type(call).__name__


def gives_coroutine(call: Callable[..., object]) -> bool:
    """Return whether what a call returns is to be awaited."""
    while isinstance(call, functools.partial):
        call = call.func
    if inspect.iscoroutinefunction(call):
        return True
    if inspect.isroutine(call) or isinstance(call, type):
        return False
    return inspect.iscoroutinefunction(getattr(type(call), "__call__", None))  # noqa: B004


class Task:
    """One call to be made: a function and its arguments.

    The fields begin with an underscore because every public name on a delayed value builds a
    task: `Delayed` is a Task with operators. They belong to this package, not to users, and
    nothing writes them after the task was built.
    """

    __slots__ = ("__weakref__", "_args", "_function", "_kwargs", "_needs", "_origin", "_site")

    _function: Function
    _args: tuple[Any, ...]
    _kwargs: Mapping[str, Any] | None
    _needs: tuple[Task, ...] | None
    """The tasks among the arguments: `_args` itself if each argument is one. None: there is no
    task, and yet a container to be made anew."""
    _origin: tuple[bytes, int]
    """Which process made it, and its number there; set when it travels for the first time."""
    _site: Site | None


TASK_TYPES: Final[set[type]] = {Task}
"""Task and its subclasses, of which there is one: asking for the exact type is quicker."""


def needs_of(
    args: tuple[object, ...], kwargs: Mapping[str, object] | None
) -> tuple[Task, ...] | None:
    """Return what `Task._needs` is for these arguments."""
    if kwargs is None and all([type(argument) in TASK_TYPES for argument in args]):  # noqa: C419 - a list is quicker
        return args  # type: ignore[return-value]
    needs: list[Task] = []
    has_template = False
    for argument in (*args, *(kwargs or {}).values()):
        if type(argument) in TASK_TYPES:
            needs.append(argument)  # type: ignore[arg-type]
        elif type(argument) is Template:
            has_template = True
            needs.extend(argument.tasks())
    return tuple(needs) or (None if has_template else ())


def value(thing: object) -> object:
    """Return its argument: the callable of a task that is a value already."""
    return thing


CONSTANT: Final = Function(value, is_cheap=True)
"""The function of every such task; its one argument is not searched."""


def is_constant(task: Task) -> bool:
    """Return whether a task is a value already, with nothing to run."""
    return task._function.call is value


class Ref:
    """Stands in an argument for the value of another task of the graph."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> tuple[object, ...]:
        return Ref, (self.index,)

    def __repr__(self) -> str:
        return f"Ref({self.index})"


class Template:
    """A container among the arguments that holds delayed values, taken apart.

    Attributes
    ----------
    make
        Given the list of parts, each computed, returns the container.
    parts
        Literals, tasks (or refs, once sent), and templates.
    """

    __slots__ = ("make", "parts")

    def __init__(self, make: Callable[[list[Any]], object], parts: tuple[object, ...]) -> None:
        self.make = make
        self.parts = parts

    def leaves(self) -> list[object]:
        """Return every part that is no template, of those inside as well, in order."""
        found: list[object] = []
        seen: set[int] = set()
        stack: list[object] = [self]
        while stack:
            part = stack.pop()
            if type(part) is not Template:
                found.append(part)
            elif id(part) not in seen:  # one that stands in two places is looked at once
                seen.add(id(part))
                stack.extend(reversed(part.parts))
        return found

    def tasks(self) -> list[Task]:
        """Return every task inside, in order."""
        return [part for part in self.leaves() if isinstance(part, Task)]

    def refs(self) -> list[int]:
        """Return the index of every Ref inside."""
        return [part.index for part in self.leaves() if type(part) is Ref]

    def replaced(
        self, replace: Callable[[Any], object], memo: dict[int, Template] | None = None
    ) -> Template:
        """Return the same with another object for each part that is no template."""
        memo = {} if memo is None else memo
        made = memo.get(id(self))
        if made is None:
            parts = [
                part.replaced(replace, memo) if type(part) is Template else replace(part)
                for part in self.parts
            ]
            made = memo[id(self)] = Template(self.make, tuple(parts))
        return made

    def fill(self, values: Mapping[int, object], memo: dict[int, object] | None = None) -> object:
        """Return the container with the values in place of the refs."""
        memo = {} if memo is None else memo
        if id(self) not in memo:
            parts: list[object] = []
            for part in self.parts:
                kind = type(part)
                if kind is Ref:
                    parts.append(values[part.index])  # type: ignore[attr-defined]
                elif kind is Template:
                    parts.append(part.fill(values, memo))  # type: ignore[attr-defined]
                else:
                    parts.append(part)
            memo[id(self)] = self.make(parts)
        return memo[id(self)]

    def __reduce__(self) -> tuple[object, ...]:
        return Template, (self.make, self.parts)


# How the arguments of a call are to be read. Three ways, because the first two are most calls
# and cost a fraction of the third.
LITERAL: Final = 0
"""No argument is a ref."""
ALL_REFS: Final = 1
"""`args` are indices of values, and there are no keywords."""
MIXED: Final = 2
"""Any argument may be a Ref or a Template."""

Call = tuple[int, int, int, tuple[Any, ...], Mapping[str, Any] | None]
"""(index, function number, LITERAL | ALL_REFS | MIXED, args, kwargs): a tuple, because twenty
thousand of them are made, pickled and read in a twentieth of a second."""
