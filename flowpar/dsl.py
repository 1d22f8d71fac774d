"""The words users write: `delayed`, and values that are not computed yet."""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import sys
import types
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, overload

from flowpar import running
from flowpar.arguments import ATOMS, gather, search
from flowpar.errors import OptionError
from flowpar.notes import describe, on_one_line
from flowpar.packs import packed, taken_from
from flowpar.policy import DEFAULT_POLICY, Policy, policy_from
from flowpar.record import Run
from flowpar.task import (
    CONSTANT,
    MISSING,
    TASK_TYPES,
    Function,
    Site,
    Task,
    is_constant,
    needs_of,
    value,
)

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from flowpar.views.pictures.picture import Picture

T = TypeVar("T")
P = ParamSpec("P")
_new_task = Task


# ------------------------------------------------------------------------------ building

_sites: dict[int, tuple[Site, types.CodeType]] = {}
_MOST_SITES = 10_000
OUR_GLOBALS = {id(globals())}
"""The modules that build tasks for the user, whose lines are not the user's."""


def _site() -> Site:
    """Return the line of the user's that is being run; one object a line."""
    frame = sys._getframe(2)
    while id(frame.f_globals) in OUR_GLOBALS and frame.f_back is not None:
        frame = frame.f_back
    code = frame.f_code
    # Hashing a code object is slow, its address is not; it stays its own while it is kept here.
    known = _sites.get((id(code) << 20) ^ frame.f_lasti)
    if known is not None:
        return known[0]
    if len(_sites) > _MOST_SITES:
        _sites.clear()
    site = Site(code.co_filename, frame.f_lineno, code.co_name)
    _sites[(id(code) << 20) ^ frame.f_lasti] = (site, code)
    return site


def _build(
    function: Function, args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> Delayed[Any]:
    """Return a call as a delayed value.

    A plain Task is filled and then becomes a Delayed, because only a Delayed refuses assignment.
    """
    n_tasks = 0
    plain = kwargs is None or not kwargs
    for argument in args:
        kind = type(argument)
        if kind is Delayed:
            n_tasks += 1
        elif kind not in ATOMS:
            plain = False
            break
    if not plain:
        kwargs = kwargs or None
        if function.policy.traverse:
            args, kwargs = _searched(args, kwargs)
        needs = needs_of(args, kwargs)
    elif not n_tasks:
        kwargs, needs = None, ()
    else:
        kwargs = None
        needs = args if n_tasks == len(args) else needs_of(args, None)
    task = _new_task()
    task._function = function
    task._args = args
    task._kwargs = kwargs
    task._needs = needs
    task._site = _site()
    task.__class__ = Delayed
    return task  # type: ignore[return-value]


def _searched(
    args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
    found = [
        a if type(a) is Delayed or type(a) in ATOMS else search(a, f"args[{position}]")
        for position, a in enumerate(args)
    ]
    if kwargs is not None:
        kwargs = {name: search(a, f"argument {name}") for name, a in kwargs.items()}
    return tuple(found), kwargs


class DelayedFunction(Generic[T]):
    """A function whose calls build delayed values instead of running.

    Made by `delayed`. Its arguments are the function's own: none of flowpar's names is taken.

    Examples
    --------
    >>> from flowpar import delayed
    >>> double = delayed(lambda x: 2 * x, name="double")
    >>> double(4)
    <Delayed double(4)>
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        functools.update_wrapper(self, function.call, updated=())

    def __call__(self, /, *args: Any, **kwargs: Any) -> Delayed[T]:
        """Build a delayed call; the arguments are checked against the function's signature."""
        function = self._function
        arity = function._arity
        if arity is None or kwargs or not arity.least <= len(args) <= arity.most:
            function.check(args, kwargs)
        return _build(function, args, kwargs)

    def options(self, *, after: Any = None, **policy: Any) -> DelayedFunction[T]:
        """Return the same function under another policy.

        Parameters
        ----------
        after
            Delayed values that must have been computed before a call starts.
        **policy
            As for `delayed`.

        Raises
        ------
        OptionError
            If a name is not a policy, or has a value that it cannot have.

        Examples
        --------
        >>> from flowpar import delayed
        >>> fetch = delayed(str.upper)
        >>> fetch.options(retries=3, timeout=10)("a").compute(scheduler="threads")
        'A'
        """
        old = self._function
        earlier = old.after if after is None else _as_tasks(after)
        function = Function(
            old.call,
            policy_from(old.policy, policy),
            after=earlier,
            is_cheap=old.is_cheap,
        )
        return DelayedFunction(function)

    def __get__(self, instance: object, owner: type | None = None) -> DelayedFunction[T]:
        if instance is None:
            return self
        return _BoundFunction(self._function, instance)

    def __repr__(self) -> str:
        return f"<delayed {on_one_line(self._function.name)}>"

    def __reduce__(self) -> tuple[object, ...]:
        return DelayedFunction, (self._function,)


class _BoundFunction(DelayedFunction[T]):
    """A delayed method of an object, which is its first argument."""

    def __init__(self, function: Function, instance: object) -> None:
        super().__init__(function)
        self._instance = instance

    def __call__(self, /, *args: Any, **kwargs: Any) -> Delayed[T]:
        self._function.check((self._instance, *args), kwargs)
        return _build(self._function, (self._instance, *args), kwargs)

    def options(self, *, after: Any = None, **policy: Any) -> DelayedFunction[T]:
        other = super().options(after=after, **policy)
        return _BoundFunction(other._function, self._instance)

    def __reduce__(self) -> tuple[object, ...]:
        return _BoundFunction, (self._function, self._instance)


def _as_tasks(after: Any) -> tuple[Task, ...]:
    tasks = (after,) if isinstance(after, Task) else after
    if not isinstance(tasks, (tuple, list, set)):
        raise OptionError(f"after takes delayed values, and not {after!r}")
    for task in tasks:
        if not isinstance(task, Task):
            raise OptionError(f"after takes delayed values, and not {task!r}")
    return tuple(tasks)


@overload
def delayed(func: Delayed[T], /, **policy: Any) -> Delayed[T]: ...
@overload
def delayed(
    func: Callable[..., Coroutine[Any, Any, T]], /, **policy: Any
) -> DelayedFunction[T]: ...
@overload
def delayed(func: Callable[..., Delayed[T]], /, **policy: Any) -> DelayedFunction[T]: ...
@overload
def delayed(func: Callable[..., T], /, **policy: Any) -> DelayedFunction[T]: ...
@overload
def delayed(**policy: Any) -> _Decorator: ...
@overload
def delayed(func: T, /, **policy: Any) -> Delayed[T]: ...
def delayed(func: Any = MISSING, /, **policy: Any) -> Any:
    """Make a function lazy: its calls build tasks, which run later, in parallel.

    Also a decorator, with or without a policy, and a way to make a task of a value.

    Parameters
    ----------
    func
        A function, a class, any callable; or a value. Without it, a decorator is returned.
    **policy
        How its tasks may be run. Times are in seconds.

        * ``name``: shown instead of the function's name
        * ``nout``: how many values it returns, so that the result can be unpacked
        * ``retries``, ``retry_delay`` (doubles each time, with jitter), ``retry_on`` (exception
          types)
        * ``timeout``: a process is killed, a coroutine cancelled; a thread goes on, its result is
          dropped
        * ``memory``: bytes, or a text such as "1.5 GB": a task that comes to hold more, its
          arguments and the processes that it starts included, is killed and fails with
          `MemoryExceeded`. It runs in a process, alone, and is looked at 20 times a second; memory
          that it shares with others (large values, libraries) does not count. Linux only; not held
          under ``scheduler="sync"``, nor in tasks that run within another task
        * ``pool``: "inline", "threads", "processes" or "async"; else flowpar chooses
        * ``limit``: name, or {name: amount}, of a resource shared by tasks; ``limits=`` of the run
          says how much there is, one if it says nothing
        * ``priority``: higher first
        * ``pure``: False for a task with side effects: never in a batch with others
        * ``traverse``: False to hand containers on without searching them for delayed values
        * ``cache``, ``version``, ``expires``: for runs with a cache
        * ``group``: what it belongs to, in pictures

    Returns
    -------
    DelayedFunction or Delayed
        A function that builds tasks; or a value as a task.

    Raises
    ------
    OptionError
        If a policy does not exist, or has a value that it cannot have.

    Examples
    --------
    >>> from flowpar import delayed
    >>> @delayed
    ... def area(width, height):
    ...     return width * height
    >>> total = area(2, 3) + area(4, 5)
    >>> total.compute(scheduler="sync")
    26
    """
    if func is MISSING:
        return _Decorator(policy_from(DEFAULT_POLICY, policy))
    if isinstance(func, Task):
        return func
    if isinstance(func, DelayedFunction):
        return func.options(**policy) if policy else func
    checked = policy_from(DEFAULT_POLICY, policy) if policy else DEFAULT_POLICY
    if isinstance(func, (staticmethod, classmethod)):
        _refuse_decoration(func)
    if callable(func):
        return DelayedFunction(_shared_function(func, checked))
    return delayed_value(func, checked)


_shared: dict[int, weakref.ref[Function]] = {}
"""By address of a callable: what it became when it was made delayed last."""


def _are_equal(one: Policy, other: Policy) -> bool:
    return one is other or one == other  # the latter costs as much as to build a call


def _shared_function(call: Callable[..., Any], policy: Policy) -> Function:
    """Return one and the same Function for ``delayed(f)`` in each turn of a loop.

    What is known of a function, its pickle among it, goes by this object.
    """
    reference = _shared.get(id(call))
    known = reference() if reference is not None else None
    # The callable is kept alive by what it became, so the address is its own.
    if known is not None and known.call is call and _are_equal(known.policy, policy):
        return known
    function = Function(call, policy)
    address = id(call)

    def forget(gone: weakref.ref[Function]) -> None:
        if _shared.get(address) is gone:
            del _shared[address]

    _shared[address] = weakref.ref(function, forget)
    return function


class _Decorator:
    """What ``@delayed(retries=2)`` is, before it meets the function."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @overload
    def __call__(self, func: Callable[..., Coroutine[Any, Any, T]], /) -> DelayedFunction[T]: ...
    @overload
    def __call__(self, func: Callable[..., T], /) -> DelayedFunction[T]: ...
    def __call__(self, func: Any, /) -> Any:
        """Return the delayed function."""
        if isinstance(func, (staticmethod, classmethod)) or not callable(func):
            _refuse_decoration(func)
        return DelayedFunction(Function(func, self._policy))


def _refuse_decoration(func: object) -> NoReturn:
    if isinstance(func, (staticmethod, classmethod)):
        raise OptionError(f"put @{type(func).__name__} above @delayed, and not below it")
    raise OptionError(f"a decorator takes a function, and not {func!r}")


def delayed_value(thing: object, policy: Policy = DEFAULT_POLICY) -> Delayed[Any]:
    """Return a value as a task; if it is a container of delayed values, as one that waits."""
    searched = search(thing, "the value") if policy.traverse else thing
    if searched is not thing:
        return as_delayed(gather(thing))
    task = _new_task()
    task._function = CONSTANT if policy is DEFAULT_POLICY else Function(value, policy)
    task._args = (thing,)
    task._kwargs = None
    task._needs = ()
    task._site = None
    return as_delayed(task)


def as_delayed(task: Task) -> Delayed[Any]:
    """Return a task as a delayed value: the same object, with operators."""
    if type(task) is Task:
        task.__class__ = Delayed
    return task  # type: ignore[return-value]


# ------------------------------------------------------------------------------ the value


class Delayed(Task, Generic[T]):
    """A value that will be computed: what a call of a delayed function returns.

    Operators, items, attributes and method calls on it build more tasks. It is not a value yet:
    it has no truth, no length, nothing can be assigned to it.

    Examples
    --------
    >>> from flowpar import delayed
    >>> words = delayed(str.split)("a few words")
    >>> (words[0].upper() + "!").compute(scheduler="sync")
    'A!'
    >>> bool(words)
    Traceback (most recent call last):
    TypeError: <Delayed split('a few words')> is neither true nor false before it is computed: ...
    """

    __slots__ = ()

    # numpy and pandas would take it for a scalar otherwise, and make arrays of delayed values.
    __array_ufunc__ = None
    __pandas_priority__ = 10_000

    # Names that work without computing. Everything else is an attribute of the value to be.

    def compute(self, **options: Any) -> T:
        """Run what this value needs, and return it.

        Parameters
        ----------
        **options
            As for `flowpar.compute`.

        Raises
        ------
        Exception
            As `flowpar.compute`.
        """
        return running.compute(self, **options)  # type: ignore[no-any-return]

    def run(self, **options: Any) -> Run:
        """Run what this value needs, and return the record; see `flowpar.run`."""
        return running.run(self, **options)

    def submit(self, **options: Any) -> Future[T]:
        """Start computing in the background, and return a ``concurrent.futures.Future``."""
        from flowpar import background  # noqa: PLC0415 - brings asyncio, and most runs need none

        return background.submit(self, **options)

    def persist(self, **options: Any) -> Delayed[T]:
        """Compute now, and return a delayed value that holds the result.

        What is built on it later does not compute it again.
        """
        held = self.compute(**options)
        return delayed_value(held, Policy(name=self._function.name, traverse=False))

    def visualize(self, path: str | Path | None = "graph.svg", **options: Any) -> Picture:
        """Draw what this value needs; see `flowpar.visualize`."""
        from flowpar import pictures  # noqa: PLC0415 - most values are not drawn

        return pictures.visualize(self, filename=path, **options)

    def __await__(self) -> Generator[Any, None, T]:
        from flowpar import background  # noqa: PLC0415 - as above

        return background.value_of(self).__await__()

    def __repr__(self) -> str:
        if is_constant(self):
            return f"<Delayed value {describe(self)}>"
        return f"<Delayed {describe(self)}>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Return what a notebook shows: the picture, and the text."""
        del include, exclude
        shown = {"text/plain": repr(self)}
        # A cell must show something, whatever is wrong with the picture.
        with contextlib.suppress(Exception):
            from flowpar import pictures  # noqa: PLC0415 - as above

            svg = pictures.picture_for_notebook(self)
            shown |= {"image/svg+xml": svg} if svg else {}
        return shown

    __hash__ = object.__hash__

    # Building more tasks.

    def __getattr__(self, name: str) -> Delayed[Any]:
        if name.startswith("_"):
            raise AttributeError(
                f"a delayed value has no attribute {name!r}; for one of the value that it will "
                f"be: delayed(getattr)(x, {name!r})"
            )
        return _build(_GETATTR, (self, name), None)

    def __getitem__(self, key: Any) -> Delayed[Any]:
        return _build(_GETITEM, (self, key), None)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Delayed[Any]:
        """Build a call of the value to be, or of its method."""
        if self._function is _GETATTR:
            # One task for x.method(...), so that no bound method has to travel.
            return _build(_METHOD, (*self._args, *args), kwargs)
        return _build(_CALL, (self, *args), kwargs)

    def __iter__(self) -> Iterator[Delayed[Any]]:
        nout = self._function.policy.nout
        if nout is None:
            raise TypeError(
                "a delayed value cannot be iterated before it is computed: say how many values "
                f"there will be with delayed(nout=…) on {self._function.name}, or iterate inside "
                "a task"
            )
        return iter([_build(_NTH, (self, number, nout), None) for number in range(nout)])

    def __len__(self) -> int:
        nout = self._function.policy.nout
        if nout is None:
            self._refuse("has no length before it is computed", "delayed(len)(x)")
        return nout

    def __dir__(self) -> list[str]:
        return ["compute", "persist", "run", "submit", "visualize"]

    if TYPE_CHECKING:  # `_add_operators` makes them; this is for type checkers

        def __add__(self, other: Any) -> Delayed[Any]: ...
        def __radd__(self, other: Any) -> Delayed[Any]: ...
        def __sub__(self, other: Any) -> Delayed[Any]: ...
        def __rsub__(self, other: Any) -> Delayed[Any]: ...
        def __mul__(self, other: Any) -> Delayed[Any]: ...
        def __rmul__(self, other: Any) -> Delayed[Any]: ...
        def __matmul__(self, other: Any) -> Delayed[Any]: ...
        def __rmatmul__(self, other: Any) -> Delayed[Any]: ...
        def __truediv__(self, other: Any) -> Delayed[Any]: ...
        def __rtruediv__(self, other: Any) -> Delayed[Any]: ...
        def __floordiv__(self, other: Any) -> Delayed[Any]: ...
        def __rfloordiv__(self, other: Any) -> Delayed[Any]: ...
        def __mod__(self, other: Any) -> Delayed[Any]: ...
        def __rmod__(self, other: Any) -> Delayed[Any]: ...
        def __divmod__(self, other: Any) -> Delayed[Any]: ...
        def __rdivmod__(self, other: Any) -> Delayed[Any]: ...
        def __lshift__(self, other: Any) -> Delayed[Any]: ...
        def __rlshift__(self, other: Any) -> Delayed[Any]: ...
        def __rshift__(self, other: Any) -> Delayed[Any]: ...
        def __rrshift__(self, other: Any) -> Delayed[Any]: ...
        def __and__(self, other: Any) -> Delayed[Any]: ...
        def __rand__(self, other: Any) -> Delayed[Any]: ...
        def __xor__(self, other: Any) -> Delayed[Any]: ...
        def __rxor__(self, other: Any) -> Delayed[Any]: ...
        def __or__(self, other: Any) -> Delayed[Any]: ...
        def __ror__(self, other: Any) -> Delayed[Any]: ...
        def __pow__(self, other: Any) -> Delayed[Any]: ...
        def __rpow__(self, other: Any) -> Delayed[Any]: ...
        def __lt__(self, other: Any) -> Delayed[Any]: ...
        def __le__(self, other: Any) -> Delayed[Any]: ...
        def __gt__(self, other: Any) -> Delayed[Any]: ...
        def __ge__(self, other: Any) -> Delayed[Any]: ...
        def __eq__(self, other: object) -> Delayed[Any]: ...  # type: ignore[override]
        def __ne__(self, other: object) -> Delayed[Any]: ...  # type: ignore[override]
        def __neg__(self) -> Delayed[Any]: ...
        def __pos__(self) -> Delayed[Any]: ...
        def __abs__(self) -> Delayed[Any]: ...
        def __invert__(self) -> Delayed[Any]: ...
        def __trunc__(self) -> Delayed[Any]: ...
        def __floor__(self) -> Delayed[Any]: ...
        def __ceil__(self) -> Delayed[Any]: ...
        def __round__(self, digits: Any = None) -> Delayed[Any]: ...

    # What cannot be known before.

    def __bool__(self) -> NoReturn:  # noqa: PLE0304
        self._refuse("is neither true nor false before it is computed", "x.compute()")

    def __contains__(self, item: object) -> bool:
        self._refuse(
            "contains nothing before it is computed", "delayed(operator.contains)(x, item)"
        )

    def __int__(self) -> int:
        self._refuse("is no number before it is computed", "delayed(int)(x)")

    def __index__(self) -> NoReturn:  # noqa: PLE0305
        self._refuse("is no number before it is computed", "x.compute()")

    def __float__(self) -> float:
        self._refuse("is no number before it is computed", "delayed(float)(x)")

    def __complex__(self) -> complex:
        self._refuse("is no number before it is computed", "delayed(complex)(x)")

    def __bytes__(self) -> NoReturn:  # noqa: PLE0308
        self._refuse("is no string before it is computed", "delayed(bytes)(x)")

    def __array__(self, *_: object, **__: object) -> NoReturn:
        self._refuse("is no array before it is computed", "delayed(numpy.asarray)(x)")

    def __enter__(self) -> NoReturn:
        self._refuse("cannot be entered before it is computed", "x.compute()")

    def __exit__(self, *_: object) -> None:
        """Do nothing: it is never entered."""

    def __setattr__(self, name: str, to: object) -> None:
        self._refuse(f"takes no assignment to .{name}", "a task that returns the value with it")

    def __setitem__(self, key: object, to: object) -> None:
        self._refuse("takes no assignment to its items", "a task that returns the value with it")

    def __delattr__(self, name: str) -> None:
        self._refuse("takes no deletion", "a task that returns the value without it")

    def __delitem__(self, key: object) -> None:
        self._refuse("takes no deletion", "a task that returns the value without it")

    def _refuse(self, why: str, instead: str) -> NoReturn:
        raise TypeError(f"{self!r} {why}: use {instead}, or do it inside a task")

    def __copy__(self) -> Delayed[T]:
        return self

    def __deepcopy__(self, memo: object) -> Delayed[T]:
        return self

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        return taken_from, packed(self)


def _method(thing: Any, name: str, /, *args: Any, **kwargs: Any) -> Any:
    return getattr(thing, name)(*args, **kwargs)


def _call(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _nth(values: Any, number: int, count: int) -> Any:
    """Return one of the values that were to be unpacked."""
    try:
        found = len(values)
    except TypeError:  # items may work all the same
        found = count
    if found != count:
        raise ValueError(f"nout says {count} values, and there are {found} to unpack")
    return values[number]


_NTH = Function(_nth, Policy(name="item"), is_cheap=True)
_GETATTR = Function(getattr, is_cheap=True)
_GETITEM = Function(operator.getitem, is_cheap=True)
_METHOD = Function(_method, Policy(name="method"))
_CALL = Function(_call, Policy(name="call"))


def _add_operators() -> None:
    """Give `Delayed` the operators, each as one shared function."""
    arithmetic = ["add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow"]
    for word in [*arithmetic, "lshift", "rshift", "and_", "xor", "or_"]:
        plain = divmod if word == "divmod" else getattr(operator, word)
        name = word.rstrip("_")
        function = Function(plain, Policy(name=name))
        setattr(Delayed, f"__{name}__", _forward(function))
        setattr(Delayed, f"__r{name}__", _reflected(function))
    for word in ["lt", "le", "eq", "ne", "gt", "ge"]:
        setattr(Delayed, f"__{word}__", _forward(Function(getattr(operator, word))))
    for word in ["neg", "pos", "abs", "invert"]:
        setattr(Delayed, f"__{word}__", _forward(Function(getattr(operator, word))))
    for plain in (round, math.trunc, math.floor, math.ceil):
        setattr(Delayed, f"__{plain.__name__}__", _forward(Function(plain)))
    setattr(Delayed, "__pow__", _forward(Function(pow)))  # noqa: B010 - pow(x, y, modulo) too


def _forward(function: Function) -> Callable[..., Delayed[Any]]:
    def build(self: Delayed[Any], *others: Any) -> Delayed[Any]:
        return _build(function, (self, *others), None)

    return build


def _reflected(function: Function) -> Callable[..., Delayed[Any]]:
    def build(self: Delayed[Any], other: Any) -> Delayed[Any]:
        return _build(function, (other, self), None)

    return build


_add_operators()
TASK_TYPES.add(Delayed)
