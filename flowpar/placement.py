"""Which pool a function belongs on."""

from __future__ import annotations

from typing import Final

from flowpar.pickling import dumps
from flowpar.task import Function

TINY: Final = 5e-6
"""Seconds; a call that takes less costs more to send to a process than to make here."""

TINY_AFTER: Final = 50
"""Calls that must have been that quick before the rest is made here."""


class Placement:
    """Names a lane for each function: "inline", "threads", "processes", "async" or "given".

    Parameters
    ----------
    scheduler
        "auto", "sync", "threads" or "processes"; or "given", for a pool of the user's.

    Notes
    -----
    A ``pool=`` policy decides, except under "sync", where everything runs inline. Coroutines go to
    the event loop, items and attributes are taken inline. Under "auto" the rest goes to processes
    if its function can be sent there, and else to threads.
    """

    def __init__(self, scheduler: str) -> None:
        self.scheduler = scheduler

    def lane_of(self, function: Function) -> str:
        """Return the lane of a function's tasks."""
        if self.scheduler == "sync":
            return "inline"
        if function.policy.pool is not None:
            return function.policy.pool
        if function.is_coroutine:
            return "async"
        if function.is_cheap:
            return "inline"
        if self.scheduler == "auto":
            return "processes" if _travels(function) else "threads"
        return self.scheduler

    def is_free(self, function: Function) -> bool:
        """Return whether flowpar chose the lane, and may choose another."""
        return self.scheduler == "auto" and function.policy.pool is None


def _travels(function: Function) -> bool:
    try:
        dumps(function.as_sent())
    except Exception:  # noqa: BLE001 - pickling runs the user's code; whatever it raises means no
        return False
    return True
