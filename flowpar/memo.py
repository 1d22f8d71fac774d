"""Plain functions that remember what they returned: the cache without a graph."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast, overload

from flowpar.caching.cache import Cache, cache_of
from flowpar.caching.code import short_text
from flowpar.caching.digest import NotDigestible
from flowpar.caching.files import FileMissing, is_unchanged
from flowpar.caching.keeping import Keeper, Keeping, Kept, Small, digester
from flowpar.caching.keys import KeyMaker, Part
from flowpar.caching.objects import Stored, thaw_again
from flowpar.caching.reasons import undeclared_text
from flowpar.caching.store import COMMIT_SECONDS, Store, Trace
from flowpar.errors import FlowparError, FlowparWarning, OptionError
from flowpar.policy import DEFAULT_POLICY, Policy, policy_from
from flowpar.settings import resolve
from flowpar.task import Function

P = ParamSpec("P")
R = TypeVar("R")

_MOST_RECENT: Final = 1000
"""Small values that are remembered of one function."""

_POLICY: Final = ("version", "expires", "ignore", "deps")


@overload
def cached(func: Callable[P, R], /, **options: Any) -> CachedFunction[P, R]: ...
@overload
def cached(func: None = None, /, **options: Any) -> _Decorator: ...
def cached(func: Any = None, /, *, cache: Any = None, **policy: Any) -> Any:
    """Make a function remember what it returned, on disk, until its code or arguments change.

    Parameters
    ----------
    func
        A function, method or coroutine function.
    cache
        As the option of `compute`; None: that of `options` or of the environment, else
        ``.flowpar`` here.
    **policy
        ``version``, ``expires``, ``ignore`` and ``deps``, as for `delayed`.

    Returns
    -------
    CachedFunction
        Called as the function is. Two callers of one key at once, in threads or processes, compute
        it once. Failures are not remembered.

    Raises
    ------
    OptionError
        If an option does not exist, or has a value that it cannot have.

    Examples
    --------
    >>> import flowpar, tempfile
    >>> @flowpar.cached(cache=tempfile.mkdtemp())
    ... def area(width, height=2):
    ...     print("computing")
    ...     return width * height
    >>> area(3)
    computing
    6
    >>> area(3, height=2), area.check_call_in_cache(3)
    (6, True)
    """
    for name in policy:
        if name not in _POLICY:
            raise OptionError(f"{name!r} is no option of cached: there are {', '.join(_POLICY)}")
    where = None if cache is None else cache_of("cache", cache)
    checked = policy_from(DEFAULT_POLICY, policy)
    if func is None:
        return _Decorator(where, checked)
    return _Decorator(where, checked)(func)


class _Decorator:
    """What ``@cached(...)`` gives; kept apart so that types come out right."""

    def __init__(self, cache: Cache | None, policy: Policy) -> None:
        self._cache = cache
        self._policy = policy

    def __call__(self, func: Callable[P, R], /) -> CachedFunction[P, R]:
        if isinstance(func, (staticmethod, classmethod)):
            raise OptionError("put @cached below @staticmethod and @classmethod, not above")
        if not callable(func):
            raise OptionError(f"cached takes a function, and not {func!r}")
        function = Function(func, self._policy)
        kind = CachedCoroutine if function.is_coroutine else CachedFunction
        return kind(function, self._cache)


@dataclass(frozen=True)
class Shelved:
    """A value that stays on disk until it is asked for.

    Examples
    --------
    >>> import flowpar, tempfile
    >>> double = flowpar.cached(lambda x: 2 * x, cache=tempfile.mkdtemp())
    >>> double.call_and_shelve(4).get()
    8
    """

    store: Store
    trace: Trace

    def get(self) -> Any:
        """Return the value.

        Raises
        ------
        FlowparError
            If it is not kept any more.
        """
        known = self.store.lookup([self.trace.key]).get(self.trace.key)
        found = None if known is None else _fetched(self.store, self.trace)
        if found is None:
            raise FlowparError(
                f"the value of {self.trace.name} is not kept any more: call it again"
            )
        return found.load()

    def clear(self) -> None:
        """Forget the value."""
        self.store.forget_call(self.trace.key)

    def __reduce__(self) -> tuple[object, ...]:
        return _shelved, (self.store.path, self.trace)


def _shelved(path: Any, trace: Trace) -> Shelved:
    return Shelved(Cache(path).store(), trace)


class CachedFunction(Generic[P, R]):
    """A function that remembers what it returned; made by `cached`.

    Examples
    --------
    >>> import flowpar, tempfile
    >>> double = flowpar.cached(lambda x: 2 * x, cache=tempfile.mkdtemp())
    >>> double(4), double.check_call_in_cache(4), double.check_call_in_cache(5)
    (8, True, False)
    """

    def __init__(
        self, function: Function, cache: Cache | None, instance: tuple[object, ...] = ()
    ) -> None:
        self._function = function
        self._cache = cache
        self._instance = instance
        self._maker: tuple[object, KeyMaker] | None = None
        self.recent = _Recent()
        self._has_warned = False
        functools.update_wrapper(self, function.call, updated=())
        if function.is_coroutine:
            _mark_as_coroutine(self)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the function returned for these arguments, or returns now."""
        return cast("R", self._called((*self._instance, *args), kwargs))

    def _called(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        call = self._look_up(args, kwargs)
        if call is None:
            return self._function.call(*args, **kwargs)
        if call.find_again() or call.find():
            return call.loaded
        if call.is_inside_itself:
            return self._function.call(*args, **kwargs)
        call.claim()
        try:
            return call.loaded if call.find() else call.compute(args, kwargs)
        finally:
            call.free()

    def __get__(self, instance: object, owner: type | None = None) -> CachedFunction[P, R]:
        if instance is None:
            return self
        return type(self)(self._function, self._cache, (instance,))

    def __repr__(self) -> str:
        return f"<cached {self._function.name}>"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._function, self._cache, self._instance)

    def check_call_in_cache(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Return whether a call with these arguments would compute nothing."""
        call = self._look_up((*self._instance, *args), kwargs)
        return call is not None and call.is_known()

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute anew, whatever is kept, and keep that."""
        args = (*self._instance, *args)  # type: ignore[assignment]
        call = self._look_up(args, kwargs)
        if call is None:
            return cast("R", self._function.call(*args, **kwargs))
        return cast("R", call.compute(args, kwargs))

    def call_and_shelve(self, /, *args: P.args, **kwargs: P.kwargs) -> Shelved:
        """Return a reference to what the function returns, which stays on disk.

        Raises
        ------
        FlowparError
            If the value cannot be kept.
        """
        args = (*self._instance, *args)  # type: ignore[assignment]
        call = self._look_up(args, kwargs)
        if call is not None and not call.is_known():
            call.compute(args, kwargs)
            call.store.commit()
        return self._shelved(call)

    def _shelved(self, call: _Call | None) -> Shelved:
        if call is None or call.trace is None:
            raise FlowparError(f"what {self._function.name} returns cannot be kept")
        return Shelved(call.store, call.trace)

    def clear(self) -> None:
        """Forget all that this function, as its code is now, has returned."""
        store, maker = self._store(), self._key_maker()
        if maker.code is not None:
            store.forget_function(maker.code.digest)

    def _store(self) -> Store:
        cache = self._cache or resolve({}).cache or Cache()
        return cast("Cache", cache).store()

    def _key_maker(self) -> KeyMaker:
        digester().new_epoch()
        policy, call = self._function.policy, self._function.call
        code = digester().code(call, policy.deps)
        if self._maker is None or self._maker[0] is not code:
            maker = KeyMaker(call, version=policy.version, ignore=policy.ignore, deps=policy.deps)
            self._maker = code, maker
        return self._maker[1]

    def _look_up(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Call | None:
        """Return a call with its key; None if it has none."""
        try:
            maker = self._key_maker()
            values = digester().values
            names = tuple(kwargs)
            ignored = maker.ignored(len(args) + len(names), names)
            paths = (*range(len(args)), *names)
            digests = [
                b"" if at in ignored else values.digest(each, f"argument {paths[at]}")
                for at, each in enumerate((*args, *kwargs.values()))
            ]
            parts = maker.parts(digests, names)
        except FileMissing:
            return None  # the function itself will say so
        except NotDigestible as error:
            self.warn(f"it cannot be kept, and always runs: {error}")
            return None
        return _Call(self, self._store(), maker, parts)

    def warn(self, text: str) -> None:
        """Say once what is wrong with keeping what this function returns."""
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(f"{self._function.name}: {text}", FlowparWarning, stacklevel=4)


class CachedCoroutine(CachedFunction[P, R]):
    """A coroutine function that remembers what it returned; made by `cached`."""

    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Return what the function returned for these arguments, or returns now."""
        args = (*self._instance, *args)
        call = self._look_up(args, kwargs)
        if call is None:
            return await _awaitable(self._function.call(*args, **kwargs))
        if call.find():
            return call.loaded
        if call.is_inside_itself:
            return await _awaitable(self._function.call(*args, **kwargs))
        async with call.turn():
            if not call.claim(wait=False):
                await _in_thread(call.claim, call.free)
            try:
                return call.loaded if call.find() else await call.await_and_keep(args, kwargs)
            finally:
                call.free()

    async def call(self, /, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Compute anew, whatever is kept, and keep that."""
        args = (*self._instance, *args)
        call = self._look_up(args, kwargs)
        if call is None:
            return await _awaitable(self._function.call(*args, **kwargs))
        return await call.await_and_keep(args, kwargs)

    async def call_and_shelve(self, /, *args: Any, **kwargs: Any) -> Shelved:  # type: ignore[override]
        """Return a reference to what the function returns, which stays on disk.

        Raises
        ------
        FlowparError
            If the value cannot be kept.
        """
        args = (*self._instance, *args)
        call = self._look_up(args, kwargs)
        if call is not None and not call.is_known():
            await call.await_and_keep(args, kwargs)
            call.store.commit()
        return self._shelved(call)


class _Call:
    """One call of a cached function."""

    def __init__(
        self,
        function: CachedFunction[Any, Any],
        store: Store,
        maker: KeyMaker,
        parts: list[Part],
    ) -> None:
        self.store = store
        self.trace: Trace | None = None
        self.loaded: Any = None
        self._owner = function
        self._function = function._function
        self._maker = maker
        self._parts = parts
        self._key = maker.key(parts)
        self._found: Small | Stored | None = None
        self._owner_of_claim = id(self) if function._function.is_coroutine else None
        self._is_claimed = False
        # Tasks of runs have claims of their own.
        self._name = self._key[::-1]

    def is_known(self) -> bool:
        """Return whether a value is kept, and still good."""
        trace = self.store.lookup([self._key]).get(self._key)
        if trace is None or trace.object is None:
            return False
        if not self._is_good(trace):
            return False
        self.trace = trace
        self._found = _fetched(self.store, trace)
        return self._found is not None

    def _is_good(self, trace: Trace) -> bool:
        expires = self._function.policy.expires
        if expires is not None and not 0 <= time.time() - trace.created <= expires:
            return False
        return all(is_unchanged(path, digest) for path, digest in trace.files)

    def find_again(self) -> bool:
        """Load the value, if it is small and was asked for not long ago."""
        known = self._owner.recent.get(self.store, self._key)
        if known is None or not self._is_good(known[0]):
            return False
        self.trace, self._found = known
        self.loaded = thaw_again(known[1].data)
        return True

    def find(self) -> bool:
        """Load the value that is kept; return whether there is one."""
        if not self.is_known() or self._found is None or self.trace is None:
            return False
        try:
            self.loaded = self._found.load()
        except Exception:  # noqa: BLE001 - damaged, or of code that is no more: it is made again
            self.store.forget_object(self._found.digest)
            return False
        if isinstance(self._found, Small):
            self._owner.recent.put(self._key, (self.trace, self._found))
        return True

    def compute(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call the function, and keep what it returns."""
        keeping = Keeping(self._keeper())
        try:
            begin = time.perf_counter()
            with self._noted():
                value = self._function.call(*args, **kwargs)
            keeping.keep((0, 0), value, begin, (*args, *kwargs.values()))
        finally:
            keeping.close()
        self._put(keeping.kept[0], args, kwargs)
        return value

    async def await_and_keep(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call the function, await it, and keep what it returns."""
        begin = time.perf_counter()
        with self._noted():
            value = await _awaitable(self._function.call(*args, **kwargs))
        self._put(self._keeper().keep(0, value, time.perf_counter() - begin), args, kwargs)
        return value

    def _keeper(self) -> Keeper:
        is_kept = self.store.is_usable and self.store.is_writable
        keeps = frozenset({0}) if is_kept else frozenset[int]()
        return Keeper(self.store.folder, frozenset({0}), keeps)

    def claim(self, *, wait: bool = True) -> bool:
        """Wait until no other call computes this key; or else return whether none does.

        A run that has the key among those of its tasks is not waited for: this call may be one of
        its tasks, or what one of them needs.
        """
        self._is_claimed = self.store.claim(self._name, wait=wait, owner=self._owner_of_claim)
        return self._is_claimed

    @property
    def is_inside_itself(self) -> bool:
        """Whether it was called, over however many others, by a call with its own key."""
        return (self.store.path, self._key) in _computing.get()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        token = _computing.set(_computing.get() | {(self.store.path, self._key)})
        try:
            yield
        finally:
            _computing.reset(token)

    def turn(self) -> asyncio.Lock:
        """Return what coroutines of this loop wait for that want the same key."""
        name = asyncio.get_running_loop(), self.store.path, self._key
        lock = _turns.get(name)
        if lock is None:
            lock = _turns[name] = asyncio.Lock()
        return lock

    def free(self) -> None:
        """Let others have the key, as soon as what was kept is written."""
        if self._is_claimed:
            self.store.free(self._name, after=self._key)
            _commit_soon(self.store)

    def _put(self, kept: Kept, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if kept.is_broken:
            self.store.give_up(kept.trouble)
        elif kept.trouble:
            self._owner.warn(f"what it returned cannot be kept: {kept.trouble}")
        for path in self._maker.undeclared(kept.opened):
            self._owner.warn(undeclared_text(self._function.name, path))
        code, name = self._maker.code, self._function.name
        if code is None or kept.digest is None:
            return
        self.store.put_function(code.digest, code.components)
        texts = [short_text(each) for each in (*args, *kwargs.values())]
        shown = self._maker.texts(texts, tuple(kwargs))
        self.trace = Trace(
            key=self._key,
            value=kept.digest,
            object=kept.object_digest,
            size=kept.size,
            seconds=kept.seconds,
            created=time.time(),
            function=code.digest,
            name=name,
            place=name,
            parts=tuple((*part, text) for part, text in zip(self._parts, shown, strict=True)),
            files=kept.files,
            codes=kept.codes,
        )
        self.store.put(self.trace, kept.data)


class _Recent:
    """Small values that one function was asked for not long ago, as they are kept.

    Forgotten when this process changes the index: something may have been deleted.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Trace, Small]] = {}
        self._stamp: tuple[Store | None, int] = None, 0

    def get(self, store: Store, key: bytes) -> tuple[Trace, Small] | None:
        """Return the trace and the value of a key."""
        stamp = store, store.stamp
        if stamp != self._stamp or len(self._known) > _MOST_RECENT:
            self._known.clear()
            self._stamp = stamp
        return self._known.get(key)

    def put(self, key: bytes, found: tuple[Trace, Small]) -> None:
        """Remember the trace and the value of a key."""
        self._known[key] = found


_committers: weakref.WeakKeyDictionary[Store, threading.Timer] = weakref.WeakKeyDictionary()


def _commit_soon(store: Store) -> None:
    """Have what waits written together with what comes in the next moments."""
    timer = _committers.get(store)
    if timer is None or not timer.is_alive():
        timer = _committers[store] = threading.Timer(COMMIT_SECONDS, store.commit)
        timer.daemon = True  # at the end of the process all is written anyway
        timer.name = "flowpar commit"
        timer.start()


def commit_all() -> None:
    """Write all that waits: this process may be ended at any moment."""
    for store, timer in list(_committers.items()):
        if timer.is_alive():
            timer.cancel()
            store.commit()


_computing: contextvars.ContextVar[frozenset[tuple[Any, bytes]]] = contextvars.ContextVar(
    "_computing", default=frozenset()
)
"""The directory and the key of each call that led here."""

_turns: weakref.WeakValueDictionary[object, asyncio.Lock] = weakref.WeakValueDictionary()


async def _in_thread(work: Callable[[], object], undo: Callable[[], object]) -> None:
    """Do what may wait for long in a thread of its own; undo it if nobody waits for it any more.

    Not in one of the loop's threads: what is waited for may itself need one of those.
    """
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    lock, came_first = threading.Lock(), list[str]()

    def note(what: str) -> None:
        with lock:
            came_first.append(what)
            if len(came_first) == 2:  # noqa: PLR2004 - it was done, and it was left
                undo()

    def run() -> None:
        work()
        try:
            loop.call_soon_threadsafe(done.set)
        except RuntimeError:  # the loop was closed meanwhile
            note("left")
        note("done")

    threading.Thread(target=run, name="flowpar claim", daemon=True).start()
    try:
        await done.wait()
    except asyncio.CancelledError:
        note("left")
        raise


def _mark_as_coroutine(function: object) -> None:
    """Have `inspect` and `asyncio` take an object for the coroutine function that it calls."""
    if hasattr(inspect, "markcoroutinefunction"):  # from Python 3.12 on
        inspect.markcoroutinefunction(function)
    else:
        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]


def _awaitable(made: object) -> Any:
    """Return what a coroutine function made, for who awaits it."""
    return made


def _fetched(store: Store, trace: Trace) -> Small | Stored | None:
    if trace.object is None:
        return None
    found = store.fetch(trace.object, trace.size)
    return Small(found, trace.object) if isinstance(found, bytes) else found
