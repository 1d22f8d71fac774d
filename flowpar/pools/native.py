"""Threads that libraries start for themselves, such as BLAS: ours and theirs share the CPUs.

Worker processes are told by environment variables; in this process, where the libraries are loaded
already, threadpoolctl (extra "resources") tells them. Without it nothing is limited here.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from typing import Any, Final

from flowpar.pools.resources import cpu_count, user_limits_threads

_LIBRARIES: Final = ("numpy", "scipy", "sklearn", "torch")
"""Packages that bring such libraries; without one of them nothing is looked for."""

_lock = threading.Lock()
_widths: list[int] = []
"""Of the runs that want a limit now."""
_limits: Any = None


def limit(width: int) -> bool:
    """Let libraries use what so many threads of ours leave of the CPUs, until `release`.

    Returns
    -------
    bool
        Whether `release` is to be called: False if nothing was limited.
    """
    global _limits  # noqa: PLW0603 - the libraries' settings are global too
    if (
        user_limits_threads()
        or not any(name in sys.modules for name in _LIBRARIES)
        or importlib.util.find_spec("threadpoolctl") is None
    ):
        return False
    import threadpoolctl  # noqa: PLC0415 - an extra

    with _lock:
        _widths.append(width)
        if _limits is None or width == max(_widths):
            if _limits is not None:
                _limits.restore_original_limits()
            _limits = threadpoolctl.threadpool_limits(max(1, cpu_count() // max(_widths)))
    return True


def release(width: int) -> None:
    """Let libraries use as many threads as before, if no other run needs the limit."""
    global _limits  # noqa: PLW0603 - as above
    with _lock:
        _widths.remove(width)
        if not _widths and _limits is not None:
            _limits.restore_original_limits()
            _limits = None
