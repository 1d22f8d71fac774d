"""The pools that runs share: kept from one run to the next, closed at the end of the program."""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any

from flowpar.pools.threads import ThreadPool

_pools: dict[tuple[object, ...], Any] = {}
_lock = threading.Lock()


def thread_pool(workers: int | None) -> ThreadPool:
    """Return the thread pool of this size."""
    return _get(("threads", workers), lambda: ThreadPool(workers))  # type: ignore[no-any-return]


def coroutine_pool() -> Any:
    """Return the event loop."""
    from flowpar.pools.coroutines import CoroutinePool  # noqa: PLC0415 - brings asyncio

    return _get(("async",), CoroutinePool)


def process_pool(workers: int | None, start_method: str) -> Any:
    """Return the process pool of this size and kind."""
    from flowpar.pools.processes import ProcessPool  # noqa: PLC0415 - most of our import time

    return _get(
        ("processes", workers, start_method),
        lambda: ProcessPool(workers, start_method=start_method),
    )


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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)
