"""How values are pickled, by whoever pickles them; imports nothing of flowpar."""

from __future__ import annotations

import functools
import io
import pickle
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, Final

BufferCallback = Callable[[pickle.PickleBuffer], Any]

Keepers = dict[int, tuple[object, int]]
"""What is kept, and how large it is in bytes, by its id."""

MAIN: Final = frozenset({"__main__", "__mp_main__"})
"""What the main module is called: by its other name multiprocessing, and `flowpar run`, load a
script whose guard must not hold. No worker imports it by either."""


references: Final[dict[type, Callable[[Any], tuple[object, ...] | None]]] = {}
"""By exact class, what gives the name of a value that lies in a file which others can map, in the
form that `object.__reduce__` has; it gives None for a value that does not. Empty until something is
shared, and not asked for what is to outlive this program."""


class _Promise(threading.local):
    """What this thread has promised of what it pickles."""

    keepers: Keepers | None = None
    is_for_good = False
    """Whether the pickle is to outlive this program."""


_promise = _Promise()


class kept_until_loaded:  # noqa: N801 - it is used as a function; and costs less than a generator
    """Promise that what this thread pickles here is kept until the pickles were loaded.

    Then what belongs to this process can travel as its name, and still be let go of at last. As a
    context it gives what has to be kept for that.
    """

    __slots__ = ("_before",)

    def __enter__(self) -> Keepers:
        self._before, keepers = _promise.keepers, Keepers()
        _promise.keepers = keepers
        return keepers

    def __exit__(self, *_: object) -> None:
        _promise.keepers = self._before


def keep(thing: object, size_bytes: int) -> bool:
    """Have something kept until what is pickled now was loaded; return whether it will be.

    Examples
    --------
    >>> keep("what a name stands for", 0)
    False
    >>> with kept_until_loaded() as keepers:
    ...     keep("what a name stands for", 0)
    True
    >>> list(keepers.values())
    [('what a name stands for', 0)]
    """
    keepers = _promise.keepers
    if keepers is None:
        return False
    keepers[id(thing)] = thing, size_bytes
    return True


def dumps(value: object, buffer_callback: BufferCallback | None = None) -> bytes:
    """Return the pickle of a value; functions and classes of ``__main__`` travel by value."""
    import cloudpickle  # noqa: PLC0415 - slow to import, and a serial run needs none of it

    _let_main_travel(cloudpickle.register_pickle_by_value)
    with io.BytesIO() as buffer:
        _thorough_pickler()(buffer, protocol=5, buffer_callback=buffer_callback).dump(value)
        return buffer.getvalue()


@functools.cache
def _thorough_pickler() -> Any:
    """Return the slower pickler, as one that knows what lies in files."""
    import cloudpickle  # noqa: PLC0415 - as above

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, value: object) -> Any:
            return _named(value) or super().reducer_override(value)

    return Pickler


def _named(value: object) -> tuple[object, ...] | None:
    """Return what a value travels as that is found or made again where it arrives."""
    return _with_key(value) or _made_again(value) or (_reference(value) if references else None)


_LRU: Final = type(functools.lru_cache(abs))


def _made_again(value: Any) -> tuple[object, ...] | None:
    """Return what makes a function of ``__main__`` under `functools.lru_cache` or `cache` again.

    cloudpickle sends it by its name. It has a cache of its own where it arrives.
    """
    if type(value) is not _LRU or value.__module__ not in MAIN:
        return None
    state = {name: part for name, part in vars(value).items() if name != "cache_parameters"}
    # The function may name what it becomes here: first that is made, and then filled.
    return new_cached, (value.cache_parameters(),), state, None, None, fill_cached


def new_cached(parameters: dict[str, Any]) -> Any:
    """Return a function under `functools.lru_cache` that `fill_cached` says more of."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return cached.__wrapped__(*args, **kwargs)

    cached = functools.lru_cache(**parameters)(call)
    return cached


def fill_cached(cached: Any, state: dict[str, Any]) -> None:
    """Give it the function that it calls, and its name."""
    vars(cached).update(state)


def _with_key(value: Any) -> tuple[object, ...] | None:
    """Return a proxy of multiprocessing's with its manager's key, which its own children inherit.

    None: it is none, or what it stands for ends before its pickle is to be loaded.
    """
    managers = sys.modules.get("multiprocessing.managers")
    if managers is None or not isinstance(value, managers.BaseProxy) or _promise.is_for_good:
        return None
    rebuild, given = value.__reduce__()
    if rebuild is not managers.RebuildProxy:
        return None
    *parts, options = given
    from multiprocessing import process  # noqa: PLC0415 - most programs do without

    key = bytes(value._authkey)
    is_own = key == bytes(process.current_process().authkey)
    return rebuild_proxy, (is_own, rebuild, (*parts, {**options, "authkey": key}))


def rebuild_proxy(
    is_own: bool,  # noqa: FBT001 - called by pickle
    rebuild: Callable[..., object],
    given: tuple[Any, ...],
) -> object:
    """Return a proxy; if its manager is of the same family, those that it gives work too."""
    from multiprocessing import process  # noqa: PLC0415 - as above

    if is_own:
        process.current_process().authkey = given[-1]["authkey"]
    return rebuild(*given)


def _reference(value: object) -> tuple[object, ...] | None:
    refer = references.get(type(value))
    return None if refer is None else refer(value)


def travels_by_name(value: object) -> bool:
    """Return whether a value lies in a file that others can map, and is not copied there."""
    if type(value) not in references:
        return False
    with kept_until_loaded():
        return _reference(value) is not None


def _let_main_travel(register: Callable[[types.ModuleType], object]) -> None:
    """Have the slower pickler treat both names of the main module alike: by itself it knows one."""
    main = sys.modules.get("__mp_main__")
    # It may be the other name of a module that is called `__main__`.
    if main is not None and getattr(main, "__name__", None) == "__mp_main__":
        register(main)


def dump(value: object, buffer_callback: BufferCallback | None = None) -> bytes:
    """Return the pickle of a value, by the faster of two picklers if that will do.

    Parameters
    ----------
    value
        Anything.
    buffer_callback
        Given each large buffer of the value, which is then not in the pickle. It may be called
        for some twice: the first pickler gives up half way.
    """
    try:
        # The C pickler alone is several times faster, but it takes what __main__ defines by name.
        return _fast_dumps(value, buffer_callback)
    except Exception:  # noqa: BLE001 - whatever it was, the slower pickler decides
        return dumps(value, buffer_callback)


def dump_apart(value: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Return the pickle of a value, and the large buffers beside it."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        return _fast_dumps(value, buffers.append), buffers
    except Exception:  # noqa: BLE001 - as in `dump`
        buffers.clear()
        return dumps(value, buffers.append), buffers


_FOUND_BY_NAME: Final = frozenset({"flowpar", "numpy", "pandas", "scipy", "polars", "pyarrow"})
"""Packages whose functions stand in the pickles of arrays and tables, and ours; of any other
function the slower pickler knows whether a worker can import it."""


class _ByNameRefused(pickle.PicklingError):
    """Something of ``__main__`` would have travelled by name."""


class FastPickler(pickle.Pickler):
    """The C pickler, which refuses what it would send by a name that is not found elsewhere."""

    def reducer_override(self, value: object) -> Any:  # noqa: D102 - pickle's
        # Called for classes, functions and instances only, never for plain data.
        kind = value if isinstance(value, type) else type(value)
        # Some objects have a module, and travel by their name in it.
        if kind.__module__ in MAIN or getattr(value, "__module__", None) in MAIN:
            raise _ByNameRefused
        if isinstance(value, types.FunctionType):
            package = (value.__module__ or "").partition(".")[0]
            if package not in _FOUND_BY_NAME:
                raise _ByNameRefused
        return _with_key(value) or NotImplemented


class _ReferringPickler(FastPickler):
    def reducer_override(self, value: object) -> Any:
        return _reference(value) or super().reducer_override(value)


def _fast_dumps(value: object, buffer_callback: BufferCallback | None) -> bytes:
    return dumps_by(references_pickler(), value, buffer_callback)


def references_pickler() -> type[FastPickler]:
    """Return the C pickler, as one that knows what lies in files if there is anything."""
    return _ReferringPickler if references else FastPickler


def dumps_by(
    pickler: type[pickle.Pickler], value: object, buffer_callback: BufferCallback | None
) -> bytes:
    """Return the pickle of a value as a kind of pickler makes it."""
    with io.BytesIO() as buffer:
        pickler(buffer, protocol=5, buffer_callback=buffer_callback).dump(value)
        return buffer.getvalue()


def refuse_to_be_kept(kind: str) -> None:
    """Raise an error if what is pickled now is to outlive this program.

    Parameters
    ----------
    kind
        What is refused: it ends with the program.

    Raises
    ------
    PicklingError
        If so.
    """
    if _promise.is_for_good:
        raise pickle.PicklingError(f"a {kind} ends with its program, and cannot be kept")


def dump_to_keep(value: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Return a pickle that outlives this program, and the large buffers beside it.

    A class of ``__main__`` is found by its name where there is one on loading, so that a kept value
    is of the class that the script has then; elsewhere, as in a worker, it comes from the pickle.
    """
    before, _promise.is_for_good = _promise.is_for_good, True
    try:
        return _dump_to_keep(value)
    finally:
        _promise.is_for_good = before


def _dump_to_keep(value: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
    buffers: list[pickle.PickleBuffer] = []
    try:
        return dumps_by(FastPickler, value, buffers.append), buffers
    except Exception:  # noqa: BLE001 - whatever it was, the slower pickler decides
        buffers.clear()
    import cloudpickle  # noqa: PLC0415 - as above

    _let_main_travel(cloudpickle.register_pickle_by_value)

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, thing: object) -> Any:
            if isinstance(thing, type) and thing.__module__ in MAIN:
                return main_class, (thing.__qualname__, dumps(thing))
            return super().reducer_override(thing)

    with io.BytesIO() as buffer:
        Pickler(buffer, protocol=5, buffer_callback=buffers.append).dump(value)
        return buffer.getvalue(), buffers


def main_class(qualname: str, data: bytes) -> object:
    """Return the class of that name in ``__main__``, or else the one that was pickled."""
    found: object = sys.modules.get("__main__")
    for name in qualname.split("."):
        found = getattr(found, name, None)
    if isinstance(found, type):
        return found
    return pickle.loads(data)  # noqa: S301 - part of an object whose digest was checked
