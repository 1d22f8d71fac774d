"""Whether calls may share this process, by what their code names and what it writes to.

Some libraries have one state for the whole process: the current figure of pyplot, the generator of
``random.seed``, the working directory. Two threads that use one spoil each other's results without
a word. Other code may end the process. What names such things is for processes of its own. So is
what writes to its arguments, or to what lies outside of it: threads share that, and processes have
copies. Wrong in the one direction costs some speed, in the other it costs values; so what cannot be
looked through does not share.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import types
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from flowpar.caching.origins import Origin, origin_of_file, origin_of_module
from flowpar.sharing.belongings import (
    NAMES,
    UNKNOWN,
    Unloaded,
    attribute_of,
    attribute_of_class,
    is_a,
    is_immutable,
    loaded,
    name_of,
    trouble_of,
    trouble_of_name,
)
from flowpar.sharing.codetrees import doings_of, tree_of
from flowpar.sharing.marks import (
    NEW,
    NO_MARKS,
    OUTER,
    OUTSIDE,
    Call,
    Marks,
    Value,
    given_to,
    joined,
)
from flowpar.sharing.mutators import CHANGES_FIRST, MUTATORS
from flowpar.sharing.writes import Flow

__all__ = ["shares_badly"]

MOST: Final = 1000
"""Functions that are looked at, from one to what it calls; each once for each kind of object."""


def shares_badly(call: Any) -> str:
    """Return what speaks against calling a function in several threads; empty if nothing does.

    Helpers that are the user's own are looked at as well, and methods of the user's own objects.

    Examples
    --------
    >>> import os, random
    >>> def draw(n):
    ...     random.seed(n)
    ...     return random.random()
    >>> shares_badly(draw), shares_badly(lambda n: draw(n) + 1), shares_badly(abs)
    ('it names random.seed', 'it names random.seed', '')
    >>> def grown(values):
    ...     found = list(values)
    ...     found.append(1)
    ...     return found
    >>> def grow(values):
    ...     values.append(1)
    ...     return values
    >>> shares_badly(grown), shares_badly(grow)
    ('', 'it writes to values')
    """
    try:
        return _Survey().judge(call)
    except Exception:  # noqa: BLE001 - code may be as strange as it likes, and is not run for this
        return "it cannot be looked through"


class _TooMuchError(Exception):
    """There is more code than we look at."""


class _Survey:
    """What was found out about functions on the way from one to what it calls."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, int], tuple[Marks, Value]] = {}
        self._kept: list[object] = []  # so that no other thing gets the id of one
        self._active: set[tuple[int, int]] = set()
        self._again: set[tuple[int, int]] = set()
        self._left = MOST
        self._trouble = ""
        self._is_outside_changed = False

    def judge(self, call: Any) -> str:
        """Return what speaks against a callable."""
        self._kept.append(call)
        changed = self._changed_by(call)
        if self._is_outside_changed:
            changed |= OUTSIDE
        if self._trouble or not changed:
            return self._trouble
        names = sorted(
            {"what lies outside of it" if each == OUTER else each.rstrip("*") for each in changed}
        )
        return f"it writes to {', '.join(names)}"

    def _changed_by(self, call: Any) -> Marks:
        value = Value(OUTSIDE, OUTSIDE, call)
        self._mention(value)
        callee, before = _peeled(value)
        for each in before:
            self._mention(each)
        thing, bound = callee.thing, callee.bound
        self._mention(callee)
        if is_a(thing, types.BuiltinFunctionType):
            self._mention(Value(thing=thing.__self__))
        if bound is not None:
            self._mention(bound)
        if is_a(thing, type):
            thing, bound = attribute_of_class(thing, "__init__"), NEW
        elif not is_a(thing, types.FunctionType):
            callable_ = attribute_of_class(type(thing), "__call__")
            if not is_a(callable_, types.FunctionType):
                return _changed_in_c(thing)
            thing, bound = callable_, replace(callee, kind=type(thing))
        if not is_a(thing, types.FunctionType):
            return NO_MARKS
        is_learning = bound is not None and name_of(thing) in MUTATORS
        changed, _ = self._look(thing, bound)
        own = _first_of(thing) if bound is NEW else NO_MARKS
        if not _is_users(thing):
            # Packages keep their own state well, and write to ``out=None`` if there is one.
            self._is_outside_changed = False
            own |= OUTSIDE | _optional_of(thing)
        return (changed - own) | (OUTSIDE if is_learning else NO_MARKS)

    # What flows ask

    def spend(self) -> None:
        """Count one more function."""
        self._left -= 1
        if self._left < 0:
            raise _TooMuchError

    def call(self, callee: Value, call: Call) -> tuple[Marks, Value] | None:
        """Return what a call changes and returns; None if that cannot be seen."""
        callee, before = _peeled(callee)
        call = replace(call, positional=(*before, *call.positional)) if before else call
        thing, bound = callee.thing, callee.bound
        if is_a(thing, type):
            return self._make(thing, call)
        if not is_a(thing, types.FunctionType):
            if thing is UNKNOWN:
                return None
            bound = replace(callee, kind=type(thing))
            thing = attribute_of_class(type(thing), "__call__")
        if not _is_users(thing):
            return None
        if bound is not None:
            call = replace(call, positional=(bound, *call.positional))
        changed, returned = self._look(thing, bound)
        given = _given(thing, call)
        own, inside = _mapped(returned.own, given), _mapped(returned.inside, given)
        kind = returned.kind
        return _mapped(changed, given), Value(own, inside, returned.thing, kind)

    def _make(self, cls: type, call: Call) -> tuple[Marks, Value] | None:
        """Return what making an instance of a class of the user's changes, and the instance."""
        if not _is_users_class(cls):
            return None
        marks = call.starred.union(*(each.all for each in call.values()))
        made = Value(NO_MARKS, marks, kind=cls)
        changed = NO_MARKS
        for name in ("__new__", "__init__", "__post_init__"):
            method = attribute_of_class(cls, name)
            method = method.__func__ if is_a(method, staticmethod) else method
            if _is_users(method):
                known = self.call(Value(thing=method, bound=made), call)
                changed |= known[0] if known is not None and name != "__post_init__" else NO_MARKS
        # What the new object gets is not changed by being put there.
        return changed, made

    def outer(self, function: types.FunctionType, name: str) -> Value:
        """Return what a name from outside stands for in a function."""
        thing = _outer_of(function, name)
        if thing is UNKNOWN:
            # Not there yet: all there is to go by is the name.
            self._trouble = self._trouble or (f"it names {name}" if name in NAMES else "")
            return Value(OUTSIDE, OUTSIDE)
        return self._found_thing(thing)

    def attribute(self, value: Value, name: str) -> Value:
        """Return what a value has by a name."""
        thing = value.thing
        if thing is UNKNOWN:
            found = UNKNOWN if value.kind is None else attribute_of_class(value.kind, name)
            return _taken(value, found, is_sure=False, is_bound=True)
        if is_a(thing, Unloaded, types.ModuleType):
            return self._found_thing(attribute_of(thing, name))
        if is_immutable(thing):
            return NEW
        found = attribute_of(thing, name)
        of_class = attribute_of_class(type(thing), name)
        taken = _taken(value, found, is_sure=True, is_bound=found is of_class)
        self._mention(taken)
        return taken

    def mention(self, value: Value) -> None:
        """Take note of something that code names."""
        self._mention(value)

    def _found_thing(self, thing: Any) -> Value:
        value = Value(OUTSIDE, OUTSIDE, thing)
        self._mention(value)
        if is_a(thing, types.FunctionType) and _is_users(thing):
            self._look(thing, None)
        if is_immutable(thing):
            return Value(thing=thing)
        return Value(NO_MARKS, OUTSIDE, thing) if is_a(thing, tuple) else value

    def _mention(self, value: Value) -> None:
        if value.thing is not UNKNOWN and not self._trouble:
            self._trouble = trouble_of(value.thing)

    # Functions

    def _look(self, function: types.FunctionType, bound: Value | None) -> tuple[Marks, Value]:
        """Return the marks that a function changes, of its own parameters, and what it returns."""
        known = None if bound is None else bound.kind if bound.thing is UNKNOWN else bound.thing
        key = id(function), id(known)
        if key in self._active:
            self._again.add(key)
        if key in self._found:
            return self._found[key]
        self._kept += [function, known]
        self._found[key] = NO_MARKS, NEW
        self._active.add(key)
        found: tuple[Marks, Value] = NO_MARKS, NEW
        for _ in range(_ROUNDS):  # until a function that calls itself does no more than it did
            before = self._found[key]
            self.spend()
            found = self._found[key] = self._read(function, bound)
            if key not in self._again or _is_same(found, before):
                break
        self._active.discard(key)
        if OUTER in found[0]:
            self._is_outside_changed = True
        return found

    def _read(self, function: types.FunctionType, bound: Value | None) -> tuple[Marks, Value]:
        node = tree_of(function.__code__)
        if node is None:
            return self._read_instructions(function), NEW
        given = given_to(node)
        if bound is not None:
            first = function.__code__.co_varnames[:1]
            for name in first:
                if name in given:
                    kind = bound.kind
                    given[name] = replace(given[name], thing=bound.thing, kind=kind)
        flow = Flow(self, node, given, functools.partial(self.outer, function))
        flow.walk()
        return frozenset(flow.changed), joined(flow.returned)

    def _read_instructions(self, function: types.FunctionType) -> Marks:
        """Return what a function changes whose source is not there: more rather than less."""
        doings = doings_of(function.__code__)
        changed = set(doings.writes)
        is_changing = doings.is_writing or not MUTATORS.isdisjoint(doings.attributes)
        for name in doings.imports:
            self._trouble = self._trouble or trouble_of_name(name) or trouble_of(loaded(name))
        for name in NAMES & doings.attributes:
            self._trouble = self._trouble or f"it names {name}"
        for chain in doings.chains:
            is_changing |= self._is_changed_by(function, chain, doings.attributes)
        return frozenset(changed | ({OUTER} if is_changing else set()))

    def _is_changed_by(
        self, function: types.FunctionType, chain: tuple[str, ...], attributes: set[str]
    ) -> bool:
        """Return whether what a name stands for changes something, be it what it is given."""
        if chain[-1] in CHANGES_FIRST:
            return True
        value = self.outer(function, chain[0])
        values = [value]
        for name in chain[1:]:
            value = self.attribute(value, name)
            values.append(value)
        anything = Call(starred=OUTSIDE)
        if OUTER in (self.call(value, anything) or [NO_MARKS])[0]:
            return True
        classes = [each.thing for each in values if is_a(each.thing, type)]
        methods = (
            self.attribute(Value(kind=cls), name)
            for cls in classes
            if _is_users_class(cls)
            for name in attributes
        )
        return any(OUTER in (self.call(each, anything) or [NO_MARKS])[0] for each in methods)


def _peeled(value: Value) -> tuple[Value, tuple[Value, ...]]:
    """Return the function within partial ones and wrappers, and what it gets before the rest."""
    before: tuple[Value, ...] = ()
    for _ in range(_MOST_WRAPPERS):
        thing = value.thing
        if is_a(thing, functools.partial):
            given = (*thing.args, *thing.keywords.values())
            before = (*(Value(OUTSIDE, OUTSIDE, each) for each in given), *before)
            value = Value(OUTSIDE, OUTSIDE, thing.func)
        elif is_a(thing, types.MethodType):
            itself = Value(OUTSIDE, OUTSIDE, thing.__self__, type(thing.__self__))
            value = Value(OUTSIDE, OUTSIDE, thing.__func__, bound=itself)
        elif is_a(thing, staticmethod, classmethod):
            value = replace(value, thing=thing.__func__)
        elif thing is UNKNOWN or is_a(thing, *_NOT_WRAPPERS):
            break
        else:
            inner = _wrapped(thing)
            if inner is UNKNOWN:
                break
            value = replace(value, thing=inner)
    return value, before


def _wrapped(thing: Any) -> Any:
    """Return the function that an object was made for, as by lru_cache or a compiler."""
    if is_a(thing, Unloaded) or _is_users_class(type(thing)):
        return UNKNOWN
    for name in ("__wrapped__", "py_func"):
        found = inspect.getattr_static(thing, name, UNKNOWN)
        if is_a(found, types.FunctionType):
            return found
    return UNKNOWN


def _is_users(function: Any) -> bool:
    return (
        is_a(function, types.FunctionType)
        and origin_of_file(function.__code__.co_filename) is Origin.USER
    )


def _is_users_class(cls: type) -> bool:
    home = type.__getattribute__(cls, "__module__")
    return isinstance(home, str) and origin_of_module(home) is Origin.USER


def _first_of(function: types.FunctionType) -> Marks:
    return frozenset(
        mark for name in function.__code__.co_varnames[:1] for mark in (name, f"{name}*")
    )


def _optional_of(function: types.FunctionType) -> Marks:
    """Return the marks of parameters that are None if they are not given."""
    code = function.__code__
    defaults = function.__defaults__ or ()
    last = code.co_varnames[: code.co_argcount][code.co_argcount - len(defaults) :]
    given = {**dict(zip(last, defaults, strict=True)), **(function.__kwdefaults__ or {})}
    names = [name for name, default in given.items() if default is None]
    return frozenset(mark for name in names for mark in (name, f"{name}*"))


def _changed_in_c(thing: Any) -> Marks:
    """Return what a function without code changes, going by its name."""
    name = name_of(thing)
    owner = getattr(thing, "__self__", None) if is_a(thing, types.BuiltinFunctionType) else None
    is_method = is_a(thing, types.MethodDescriptorType, types.WrapperDescriptorType)
    is_bound = owner is not None and not is_a(owner, types.ModuleType)
    if (is_method or is_bound) and name in MUTATORS:
        return OUTSIDE
    return OUTSIDE if name in CHANGES_FIRST else NO_MARKS


def _taken(value: Value, found: Any, *, is_sure: bool, is_bound: bool) -> Value:
    """Return what lies in a class or an instance, as it comes when it is taken.

    Parameters
    ----------
    value
        The instance, or the class.
    found
        What lies there; `UNKNOWN` if nothing does.
    is_sure
        Whether the instance is known: one that is not may have something else than its class.
    is_bound
        Whether it lies in the class of the instance, so that functions are methods.
    """
    if is_a(found, types.FunctionType):
        is_method = is_bound and not is_a(value.thing, type)
        return Value(OUTSIDE, OUTSIDE, found, bound=value if is_method else None)
    if is_a(found, staticmethod):
        return Value(OUTSIDE, OUTSIDE, found.__func__)
    if is_a(found, classmethod):
        cls = value.kind if value.thing is UNKNOWN else value.thing
        cls = cls if is_a(cls, type) else type(cls)
        return Value(OUTSIDE, OUTSIDE, found.__func__, bound=Value(OUTSIDE, OUTSIDE, cls))
    if is_a(found, property) and is_a(found.fget, types.FunctionType):
        return Value(thing=found.fget, bound=value, is_computed=True)
    return _taken_plainly(value, found, is_sure=is_sure, is_bound=is_bound)


def _taken_plainly(value: Value, found: Any, *, is_sure: bool, is_bound: bool) -> Value:
    is_computed = attribute_of_class(type(found), "__get__") is not UNKNOWN
    if found is UNKNOWN or is_computed or (is_immutable(found) and not is_sure):
        return Value(value.all, value.inside)
    if is_immutable(found):
        return Value(thing=found)
    marks = NO_MARKS if is_sure and not is_bound else OUTSIDE
    return Value(value.all | marks, value.all | marks, found if is_sure else UNKNOWN)


def _outer_of(function: types.FunctionType, name: str) -> Any:
    code = function.__code__
    if name in code.co_freevars and function.__closure__ is not None:
        try:
            return function.__closure__[code.co_freevars.index(name)].cell_contents
        except ValueError:  # it is empty still
            return UNKNOWN
    found = function.__globals__.get(name, UNKNOWN)
    return vars(builtins).get(name, UNKNOWN) if found is UNKNOWN else found


def _given(function: types.FunctionType, call: Call) -> dict[str, Value]:
    """Return what the parameters of a function stand for in a call."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    known = (*names, *code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount])
    given = dict.fromkeys(known, Value(call.starred, call.starred)) if call.starred else {}
    defaults = function.__defaults__ or ()
    for name, default in (
        *zip(names[len(names) - len(defaults) :], defaults, strict=True),
        *(function.__kwdefaults__ or {}).items(),
    ):
        if not call.starred and not is_immutable(default):
            given[name] = Value(OUTSIDE, OUTSIDE)
    given.update(zip(names, call.positional, strict=False))
    given.update({name: each for name, each in call.keywords.items() if name in known})
    rest = [each.all for each in call.positional[len(names) :]]
    rest += [each.all for name, each in call.keywords.items() if name not in known]
    for name in code.co_varnames[len(known) :][:2]:
        given.setdefault(name, Value(NO_MARKS, call.starred.union(*rest)))
    return given


def _mapped(marks: Marks, given: Mapping[str, Value]) -> Marks:
    """Return marks of a function's parameters as those of what it is given."""
    found: set[str] = set()
    for mark in marks:
        if mark == OUTER:
            found.add(OUTER)
        elif mark.endswith("*"):
            found |= given.get(mark[:-1], NEW).inside
        else:
            found |= given.get(mark, NEW).own
    return frozenset(found)


def _is_same(one: tuple[Marks, Value], other: tuple[Marks, Value]) -> bool:
    return one[0] == other[0] and one[1].own == other[1].own and one[1].inside == other[1].inside


_ROUNDS: Final = 4
_MOST_WRAPPERS: Final = 10
_NOT_WRAPPERS: Final = (types.FunctionType, types.BuiltinFunctionType, type, types.ModuleType)
