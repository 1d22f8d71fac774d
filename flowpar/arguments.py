"""Searches the arguments of a call for delayed values, and takes apart what holds them.

A container without a delayed value is left alone, however large: it is handed on as it is. One
that holds any becomes a `Template`, a copy of its structure made now, so that what the user does
to the container later changes nothing.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import io
import itertools
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final, cast

from flowpar.errors import ArgumentError
from flowpar.task import TASK_TYPES, Function, Task, Template, needs_of

ATOMS: Final = frozenset(
    {int, float, complex, str, bytes, bytearray, bool, type(None), range, type, type(...)}
    | {types.FunctionType, types.BuiltinFunctionType, types.ModuleType, memoryview}
)
"""Types that hold no delayed value, by far the most frequent ones."""

DEEPEST: Final = 100
"""Levels of nesting around a delayed value: each costs a Python frame to rebuild."""

MOST_HIDDEN: Final = 1000
"""Objects looked at inside an argument that cannot be taken apart: about a millisecond."""

LONGEST_ITERATOR: Final = 10_000_000
"""Values taken from an iterator before it is taken for an endless one."""

_ENDLESS: Final = (itertools.count, itertools.cycle)
_VIEWS: Final[tuple[type, ...]] = (type({}.keys()), type({}.values()), type({}.items()))
_MAPPINGS: Final = (dict, types.MappingProxyType, collections.UserDict)
_SEQUENCES: Final = (
    *(list, tuple, set, frozenset, collections.deque, collections.UserList),
    *_VIEWS,
)


def search(argument: object, path: str) -> object:
    """Return the argument as a call should keep it.

    Parameters
    ----------
    argument
        Anything.
    path
        What to call it in an error, such as ``args[0]``.

    Returns
    -------
    object
        The argument itself if it holds no delayed value; a `Template` if it does. An iterator is
        used up now and becomes a Template in any case.

    Raises
    ------
    ArgumentError
        If a delayed value is where it cannot be replaced by what it stands for.
    """
    if not _holds_anything(argument, path):
        return argument
    return _take_apart(argument, path, _Trail())


def _holds_anything(argument: object, path: str) -> bool:
    """Return whether a task or an iterator is anywhere inside; iterative, cycles allowed."""
    stack: list[object] = [argument]
    seen: set[int] = set()
    while stack:
        thing = stack.pop()
        kind = type(thing)
        if kind in ATOMS:
            continue
        if _is(thing, Task) or _is_iterator(thing):
            return True
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        inside = _inside(thing)
        if inside is None:
            _refuse_hidden(thing, path)
        # One look at the types, in C, settles a million numbers in some milliseconds.
        elif not set(map(type, inside)) <= ATOMS:
            stack.extend(inside)
    return False


def holds_task(value: object) -> bool:
    """Return whether a value is a task, or a container that can be taken apart and holds one.

    Iterators are left alone: a task may return one that is not to be used up.

    Examples
    --------
    >>> holds_task([1, {"a": (2, 3)}])
    False
    """
    stack, seen = [value], set()
    while stack:
        thing = stack.pop()
        if _is(thing, Task):
            return True
        inside = None if type(thing) in ATOMS or id(thing) in seen else _inside(thing)
        if inside is not None and not set(map(type, inside)) <= ATOMS:
            seen.add(id(thing))
            stack.extend(inside)
    return False


def _is(thing: object, kinds: Any) -> bool:
    """Return whether the type of a thing is one of these; what it says of itself may be a trap."""
    return issubclass(type(thing), kinds)


def _is_iterator(thing: object) -> bool:
    # A file is an iterator of its lines, but nobody who passes one means that.
    return _is(thing, Iterator) and not _is(thing, (io.IOBase, Task))


def _inside(thing: object) -> Collection[object] | None:
    """Return what a container holds, or None if it is none that can be taken apart."""
    for kinds, look in _LOOKS:
        if _is(thing, kinds):
            return look(thing)
    kind: Any = type(thing)
    if dataclasses.is_dataclass(kind):
        return [getattr(thing, f.name, None) for f in dataclasses.fields(kind)]
    return None


def _refuse_hidden(thing: object, path: str) -> None:
    """Raise if an object that cannot be taken apart holds a delayed value; nearest first."""
    queue: collections.deque[tuple[object, str]] = collections.deque([(thing, path)])
    seen: set[int] = set()
    for _ in range(MOST_HIDDEN):
        if not queue:
            return
        holder, where = queue.popleft()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        for name, value in _in_sight(holder):
            if _is(value, Task):
                raise ArgumentError(
                    f"{path} holds a delayed value where flowpar cannot replace it: "
                    f"{where}{name} of a {type(holder).__name__}. Pass the delayed value as an "
                    "argument of its own, or make the class a dataclass",
                    path=where + name,
                )
            if type(value) not in ATOMS:
                queue.append((value, where + name))


def _in_sight(thing: object) -> Iterable[tuple[str, object]]:
    """Return what an object holds, as far as that can be seen without running its code."""
    if str(type(thing).__module__).startswith("numpy") and getattr(thing, "dtype", "") == "O":
        return ((".flat[…]", value) for value in thing.flat)  # type: ignore[attr-defined]
    inside = _inside(thing)
    if inside is None:
        return _attributes(thing)
    return () if set(map(type, inside)) <= ATOMS else (("[…]", value) for value in inside)


def _attributes(thing: object) -> Iterator[tuple[str, object]]:
    # Our own objects hold delayed values for good reasons: a function, a run, an error's run.
    ours = str(type(thing).__module__).partition(".")[0] == __name__.partition(".")[0]
    if ours or _is(thing, (types.ModuleType, type)):
        return
    if type(thing) is types.MethodType:
        yield ".__self__", thing.__self__
    yield from [(f".{name}", value) for name, value in getattr(thing, "__dict__", {}).items()]
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in {"__dict__", "__weakref__"} and hasattr(thing, name):
                yield f".{name}", getattr(thing, name)


class _Trail:
    """The containers that a search came through, and what became of those it left.

    A container that is met twice becomes one template, as it was one container.
    """

    def __init__(self) -> None:
        self.open: dict[int, object] = {}
        # The container is kept as well: while it lives, no other one has its address.
        self.done: dict[int, tuple[object, object]] = {}


def _take_apart(thing: object, path: str, trail: _Trail) -> object:
    if type(thing) in ATOMS or _is(thing, Task):
        return thing
    where = id(thing)
    if where in trail.done:
        return trail.done[where][1]
    if where in trail.open or len(trail.open) >= DEEPEST:
        raise ArgumentError(
            f"{path[:60]}… holds a delayed value more than {DEEPEST} levels deep, or inside a "
            "container that holds itself: pass it as an argument of its own",
            path=path,
        )
    trail.open[where] = thing
    made = _take_by_kind(thing, path, trail)
    del trail.open[where]
    trail.done[where] = (thing, made)
    return made


def _take_by_kind(thing: object, path: str, trail: _Trail) -> object:
    for kinds, take in _TAKERS:
        if _is(thing, kinds):
            return take(thing, path, trail)
    if dataclasses.is_dataclass(type(thing)):
        return _take_dataclass(thing, path, trail)
    if _is_iterator(thing):
        return _take_iterator(cast("Iterator[object]", thing), path, trail)
    return thing


def _parts(things: Iterable[object], path: str, trail: _Trail) -> tuple[object, ...]:
    return tuple(
        thing
        if type(thing) in ATOMS or type(thing) in TASK_TYPES
        else _take_apart(thing, f"{path}[{number}]", trail)
        for number, thing in enumerate(things)
    )


def _is_whole(parts: tuple[object, ...], old: Iterable[object]) -> bool:
    """Return whether nothing of a container was taken apart."""
    return all(part is before for part, before in zip(parts, old, strict=True)) and not any(
        isinstance(part, Task) for part in parts
    )


def _take_sequence(thing: Any, path: str, trail: _Trail) -> object:
    items = list(thing)
    parts = _parts(items, path, trail)
    if _is_whole(parts, items):
        return thing
    return Template(_maker(thing, path), parts)


def _maker(thing: Any, path: str) -> Callable[[list[Any]], object]:
    kind = type(thing)
    if kind in {list, tuple, set, frozenset}:
        return kind
    if isinstance(thing, tuple):
        return _MakeTuple(kind, path)
    if isinstance(thing, frozenset):
        return kind
    return _Refill(_emptied(thing, path))


def _emptied(thing: Any, path: str) -> Any:
    try:
        empty = copy.copy(thing)
        empty.clear()
    except Exception as error:
        raise ArgumentError(
            f"{path} holds a delayed value in a {type(thing).__name__}, which flowpar cannot "
            f"copy to replace it ({type(error).__name__}: {error}): pass a plain container",
            path=path,
        ) from error
    return empty


def _take_mapping(thing: Any, path: str, trail: _Trail) -> object:
    keys, values = list(thing.keys()), list(thing.values())
    parts = [part if type(part) in ATOMS else _take_apart(part, path, trail) for part in keys]
    for key, value in zip(keys, values, strict=True):
        plain = type(value) in ATOMS
        parts.append(value if plain else _take_apart(value, f"{path}[{key!r:.40}]", trail))
    if _is_whole(tuple(parts), [*keys, *values]):
        return thing
    if type(thing) is dict:
        return Template(make_dict, tuple(parts))
    if isinstance(thing, types.MappingProxyType):
        return Template(_make_proxy, tuple(parts))
    return Template(_Refill(_emptied(thing, path)), tuple(parts))


def _take_slice(thing: Any, path: str, trail: _Trail) -> object:
    parts = _parts((thing.start, thing.stop, thing.step), path, trail)
    return Template(_make_slice, parts)


def _take_partial(thing: Any, path: str, trail: _Trail) -> object:
    keywords = tuple(thing.keywords)
    parts = _parts((thing.func, *thing.args, *thing.keywords.values()), path, trail)
    return Template(_MakePartial(keywords), parts)


def _take_view(thing: Any, path: str, trail: _Trail) -> object:
    return Template(list, _parts(thing, path, trail))


def _take_iterator(thing: Iterator[object], path: str, trail: _Trail) -> object:
    endless = isinstance(thing, _ENDLESS)
    items = [] if endless else list(itertools.islice(thing, LONGEST_ITERATOR + 1))
    if endless or len(items) > LONGEST_ITERATOR:
        raise ArgumentError(
            f"{path} is an iterator without an end, or of over {LONGEST_ITERATOR:,} values: pass "
            "a list, or say traverse=False",
            path=path,
        )
    return Template(iter, _parts(items, path, trail))


def _take_dataclass(thing: Any, path: str, trail: _Trail) -> object:
    kind = type(thing)
    known = dataclasses.fields(kind)
    if len(kind.__dataclass_fields__) != len(known) and any(
        f._field_type is dataclasses._FIELD_INITVAR  # type: ignore[attr-defined]
        for f in kind.__dataclass_fields__.values()
    ):
        _refuse_dataclass(kind, path, "it has an InitVar, whose value is not kept")
    if _parameters(kind) != {f.name for f in known if f.init}:
        _refuse_dataclass(kind, path, "it has an __init__ of its own")
    names = [f.name for f in known if f.init]
    # A field without init= is computed by __post_init__, from the values this time.
    names += [f.name for f in known if not f.init and not hasattr(kind, "__post_init__")]
    missing = [name for name in names if not hasattr(thing, name)]
    if missing:
        _refuse_dataclass(kind, path, f"its field {missing[0]} has no value")
    old = [getattr(thing, name) for name in names]
    for name, value in zip(names, old, strict=True):
        if _is(value, Task) and value._site and value._site.function == "__post_init__":
            # It would be computed from itself once more.
            _refuse_dataclass(kind, path, f"its __post_init__ computes {name} anew")
    parts = tuple(
        _take_apart(value, f"{path}.{name}", trail) for name, value in zip(names, old, strict=True)
    )
    if _is_whole(parts, old):
        return thing
    n_init = sum(f.init for f in known)
    return Template(_MakeDataclass(kind, tuple(names), n_init), parts)


def _parameters(kind: type) -> set[str]:
    code = getattr(kind.__init__, "__code__", None)  # type: ignore[misc]
    if code is None:
        return set()
    return set(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])


def _refuse_dataclass(kind: type, path: str, why: str) -> None:
    raise ArgumentError(
        f"{path} holds a delayed value in the dataclass {kind.__name__}, which flowpar cannot "
        f"make anew with the value in its place: {why}. Pass the delayed value as an argument of "
        "its own",
        path=path,
    )


_LOOKS: Final[tuple[tuple[Any, Callable[[Any], Collection[object]]], ...]] = (
    (_MAPPINGS, lambda thing: [*thing.keys(), *thing.values()]),
    (_SEQUENCES, lambda thing: thing),
    (slice, lambda thing: (thing.start, thing.stop, thing.step)),
    (functools.partial, lambda thing: (thing.func, *thing.args, *thing.keywords.values())),
)

_TAKERS: Final[tuple[tuple[Any, Callable[[Any, str, _Trail], object]], ...]] = (
    (_MAPPINGS, _take_mapping),
    (_VIEWS, _take_view),
    (_SEQUENCES, _take_sequence),
    (slice, _take_slice),
    (functools.partial, _take_partial),
)


# What makes a container of its computed parts. Functions and small classes of a module, so that
# they pickle; each is given the list of parts.


def make_dict(parts: list[Any]) -> dict[Any, Any]:
    """Return a dict of the keys, which come first, and the values."""
    half = len(parts) // 2
    return dict(zip(parts[:half], parts[half:], strict=True))


def _make_proxy(parts: list[Any]) -> Mapping[Any, Any]:
    return types.MappingProxyType(make_dict(parts))


def _make_slice(parts: list[Any]) -> slice:
    return slice(*parts)


@dataclasses.dataclass(frozen=True, slots=True)
class _MakePartial:
    keywords: tuple[str, ...]

    def __call__(self, parts: list[Any]) -> functools.partial[Any]:
        first = len(parts) - len(self.keywords)
        named = dict(zip(self.keywords, parts[first:], strict=True))
        return functools.partial(parts[0], *parts[1:first], **named)


@dataclasses.dataclass(frozen=True, slots=True)
class _MakeTuple:
    """A namedtuple, or another subclass of tuple that can be made of an iterable."""

    kind: Any
    path: str

    def __call__(self, parts: list[Any]) -> object:
        if hasattr(self.kind, "_make"):
            return self.kind._make(parts)
        try:
            made = self.kind(parts)
        except Exception as error:
            raise self._refusal(f"{type(error).__name__}: {error}") from error
        if tuple(made) != tuple(parts):
            raise self._refusal("it holds something else then")
        return made

    def _refusal(self, why: str) -> ArgumentError:
        return ArgumentError(
            f"{self.path} held a delayed value in a {self.kind.__name__}, a tuple that flowpar "
            f"cannot make of a list of values ({why}): pass a plain tuple",
            path=self.path,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Refill:
    """An emptied container of any mutable kind, to be copied and filled again."""

    empty: Any

    def __call__(self, parts: list[Any]) -> object:
        made = copy.copy(self.empty)
        if hasattr(made, "keys"):
            made.update(make_dict(parts))
        elif hasattr(made, "extend"):
            made.extend(parts)
        else:
            made.update(parts)
        return made


@dataclasses.dataclass(frozen=True, slots=True)
class _MakeDataclass:
    kind: Any
    names: tuple[str, ...]
    n_init: int

    def __call__(self, parts: list[Any]) -> object:
        values = dict(zip(self.names, parts, strict=True))
        made = self.kind(**{name: values.pop(name) for name in self.names[: self.n_init]})
        for name, value in values.items():
            object.__setattr__(made, name, value)  # also of a frozen one
        return made


def gathered(container: object) -> object:
    """Return its argument: what a task does that is a container of delayed values."""
    return container


GATHER: Final = Function(gathered, is_cheap=True)
"""The function of every such task."""


def gather(container: object) -> Task:
    """Return a task whose value is a container with its delayed values computed."""
    task = Task()
    task._function = GATHER
    task._args = (search(container, "the returned value"),)
    task._kwargs = None
    task._needs = needs_of(task._args, None)
    task._site = None
    return task
