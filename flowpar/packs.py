"""How delayed values are pickled: flat, however deep, and each task once."""

from __future__ import annotations

import itertools
import os
import weakref
from typing import Any, Final

from flowpar.graph import needed_by
from flowpar.task import Function, Task, Template, needs_of

_HOME: Final = os.urandom(8)
_ORIGIN: Final[Any] = Task.__dict__["_origin"]
_numbers = itertools.count()
_known: weakref.WeakValueDictionary[int, Task] = weakref.WeakValueDictionary()
"""Tasks that went away from here, by their number."""


class _Link:
    """Stands for a task by its number in a pack: the one that it is in, or another."""

    __slots__ = ("number", "pack")

    def __init__(self, number: int, pack: _Pack | None = None) -> None:
        self.number = number
        self.pack = pack

    def __reduce__(self) -> tuple[object, ...]:
        return _Link, (self.number, self.pack)


class _Pack:
    """Delayed values with all that they need, as one flat list: how they travel, however deep.

    A row is (origin, function, links to what it comes after, args, keywords, site); tasks among the
    arguments are links to earlier rows.
    """

    __slots__ = ("__weakref__", "kind", "rows", "tasks")

    def __init__(
        self, kind: type[Task], rows: list[tuple[Any, ...]], tasks: list[Task] | None = None
    ) -> None:
        self.kind = kind
        self.rows = rows
        self.tasks = tasks

    def __reduce__(self) -> tuple[object, ...]:
        return _Pack, (self.kind, self.rows)

    def restored(self) -> list[Task]:
        """Return the tasks, made on the first call."""
        if self.tasks is None:
            made: list[Task] = []
            functions: dict[int, Function] = {}
            for origin, function, after, args, kwargs, site in self.rows:
                known = _known.get(origin[1]) if origin[0] == _HOME else None
                if known is not None:  # it went away from here, and comes back
                    made.append(known)
                    continue
                if after and id(function) not in functions:
                    others = tuple(_unlinked(link, made) for link in after)
                    functions[id(function)] = Function(
                        function.call, function.policy, after=others, is_cheap=function.is_cheap
                    )
                task = Task()
                task._function = functions.get(id(function), function)
                task._args = tuple([_unlinked(a, made) for a in args])
                task._kwargs = kwargs and {n: _unlinked(a, made) for n, a in kwargs.items()}
                task._needs = needs_of(task._args, task._kwargs)
                task._site = site
                task._origin = origin
                task.__class__ = self.kind
                made.append(task)
            self.tasks = made
        return self.tasks


_live: dict[int, tuple[weakref.ref[_Pack], int]] = {}
"""By address: where a task is in a pack that somebody, most likely a pickler, still holds. It lets
a list of values that share tasks arrive as values that share tasks."""


def packed(task: Task) -> tuple[_Pack, int]:
    """Return a pack that a task is in, made now if need be, and its number in it."""
    where = _find_live(task)
    return where or _pack(task)


def _find_live(task: Task) -> tuple[_Pack, int] | None:
    reference, number = _live.get(id(task), (None, 0))
    pack = reference() if reference is not None else None
    return None if pack is None else (pack, number)


def _pack(target: Task) -> tuple[_Pack, int]:
    tasks: list[Task] = []
    links: dict[Task, _Link] = {}
    opened: set[Task] = set()
    stack = [target]
    while stack:
        task = stack[-1]
        if task in links:
            stack.pop()
            continue
        if task not in opened:
            opened.add(task)
            if found := _find_live(task):
                links[task] = _Link(found[1], found[0])
            else:
                stack += [need for need in needed_by(task) if need not in links]
            continue
        stack.pop()
        links[task] = _Link(len(tasks))
        tasks.append(task)
    bare: dict[Function, Function] = {}
    pack = _Pack(type(target), [_row(task, links, bare) for task in tasks], tasks)
    _remember(pack)
    return pack, len(tasks) - 1


def _row(task: Task, links: dict[Task, _Link], bare: dict[Function, Function]) -> tuple[Any, ...]:
    function = task._function
    after = tuple(links[other] for other in function.after)
    if after:
        # What a function comes after is in this pack: it must not pack it once more.
        if function not in bare:
            bare[function] = Function(function.call, function.policy, is_cheap=function.is_cheap)
        function = bare[function]
    kwargs = task._kwargs and {n: _linked(a, links) for n, a in task._kwargs.items()}
    return (
        _origin_of(task),
        function,
        after,
        tuple([_linked(a, links) for a in task._args]),
        kwargs,
        task._site,
    )


def _origin_of(task: Task) -> tuple[bytes, int]:
    """Return where a task comes from; a task that comes back from a worker is the one that left."""
    try:
        return _ORIGIN.__get__(task)  # type: ignore[no-any-return]
    except AttributeError:
        origin = (_HOME, next(_numbers))
        _ORIGIN.__set__(task, origin)  # past the Delayed, which refuses assignment
        _known[origin[1]] = task
        return origin


def _remember(pack: _Pack) -> None:
    addresses = [id(task) for task in pack.tasks or ()]

    def forget(reference: weakref.ref[_Pack]) -> None:
        for address in addresses:
            if _live.get(address, (None,))[0] is reference:
                del _live[address]

    reference = weakref.ref(pack, forget)
    for number, address in enumerate(addresses):
        _live[address] = (reference, number)


def _linked(argument: object, links: dict[Task, _Link]) -> object:
    if isinstance(argument, Task):
        return links[argument]
    if type(argument) is Template:
        return argument.replaced(lambda part: _linked(part, links))
    return argument


def _unlinked(argument: object, made: list[Task]) -> Any:
    if type(argument) is _Link:
        return (argument.pack.restored() if argument.pack else made)[argument.number]
    if type(argument) is Template:
        return argument.replaced(lambda part: _unlinked(part, made))
    return argument


def taken_from(pack: _Pack, number: int) -> Task:
    """Return a task of a pack."""
    return pack.restored()[number]
