"""The pools that runs share: kept from one run to the next, closed at the end of the program."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import threading
from typing import Any, Final

_PROCESSES: Final = "flowpar.pools.processes"

_pools: dict[tuple[object, ...], Any] = {}
_lock = threading.Lock()


def coroutine_pool() -> Any:
    """Return the event loop."""
    from flowpar.pools.coroutines import CoroutinePool  # noqa: PLC0415 - brings asyncio

    return _get(("async",), CoroutinePool)


def process_pool(workers: int | None, start_method: str, **life: Any) -> Any:
    """Return the process pool of this size and kind, with workers that live as this process does.

    Parameters
    ----------
    workers, start_method, **life
        As `ProcessPool` takes them; other values make another pool.

    Notes
    -----
    Workers are kept while the folder, the environment and the search path are those that they
    were given, and no module was loaded anew. Else a new pool takes the place of the old one, which
    finishes what it has and ends when it is idle.
    """
    from flowpar.pools.processes import ProcessPool  # noqa: PLC0415 - most of our import time

    kind = _kind(workers, start_method, life)
    with _lock:
        if not _surroundings.are_unchanged():
            for key in [key for key in _pools if key[1] == "processes"]:
                del _pools[key]
    return _get(kind, lambda: ProcessPool(workers, start_method=start_method, **life))


def _kind(workers: int | None, start_method: str, life: dict[str, object]) -> tuple[object, ...]:
    return (
        "processes",
        workers,
        start_method,
        *sorted((name, value) for name, value in life.items() if value),
    )


def has_processes(workers: int | None, start_method: str, **life: Any) -> bool:
    """Return whether there is a process pool of this size and kind that has workers."""
    pool = _pools.get((os.getpid(), *_kind(workers, start_method, life)))
    return pool is not None and not pool.closed and bool(pool.pids())


class _Surroundings:
    """What workers take over from this process when they start."""

    def __init__(self) -> None:
        self._given: tuple[object, ...] = ()
        self._specs: dict[str, object] = {}

    def are_unchanged(self) -> bool:
        """Return whether all is as it was at the last call."""
        # pytest changes its variable with every test, and no task means it.
        environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        given = (_folder(), list(sys.path), environment)
        same = given == self._given
        self._given = given
        return self._modules_are_unchanged() and same

    def _modules_are_unchanged(self) -> bool:
        """Return whether every module is the one that it was: loading one anew makes a new spec."""
        same = True
        for name, module in list(sys.modules.items()):
            spec = getattr(module, "__spec__", None)
            if self._specs.setdefault(name, spec) is not spec:
                self._specs[name] = spec
                same = False
        return same


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a string, to be compared
    except FileNotFoundError:  # somebody took it away
        return None


_surroundings = _Surroundings()


def _get(kind: tuple[object, ...], make: Any) -> Any:
    # A forked child finds its parent's pools here, whose threads it does not have.
    kind = (os.getpid(), *kind)
    with _lock:
        pool = _pools.get(kind)
        if pool is None or pool.closed:
            pool = _pools[kind] = make()
        return pool


@atexit.register
def close_all() -> None:
    """Close every shared pool of this process; they are made anew when needed."""
    with _lock:
        mine = [kind for kind in _pools if kind[0] == os.getpid()]
        pools = [_pools.pop(kind) for kind in mine]
    for pool in pools:
        pool.close()


def _forget_lock() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent's may have held it at the fork
    _lock = threading.Lock()


def _end_imports() -> None:
    """Wait for a thread that is importing the process pool: a child would wait for ever."""
    if _PROCESSES in sys.modules:
        importlib.import_module(_PROCESSES)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_end_imports, after_in_child=_forget_lock)
