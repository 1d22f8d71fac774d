"""Runs every call at once, in the thread that asks."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping
from typing import Any

from flowpar.pools.base import Callback
from flowpar.pools.transport import Batch
from flowpar.pools.worker import timed_out


class SerialPool:
    """One call after another in the caller's own thread: for tiny tasks, and for debuggers.

    A call with a timeout runs in a thread of its own, because that is the only way to go on
    without it when its time is over.
    """

    name = "inline"
    width = 1
    slots = 1

    def apply_async(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> None:
        """Run the call, then the callback; both before this returns."""
        timeout = args[0].timeout if args and type(args[0]) is Batch else None
        try:
            if timeout is None:
                result = func(*args, **(kwds or {}))
            else:
                result = _run_for(timeout, lambda: func(*args, **(kwds or {})))
        except Exception as error:  # noqa: BLE001 - handed to who asked
            if error_callback is not None:
                error_callback(error)
            return
        if callback is not None:
            callback(result)

    def cancel(self, ticket: object) -> None:
        """Do nothing: there is never a call that has not ended."""

    def close(self) -> None:
        """Do nothing."""


def _run_for(timeout: float, function: Callable[[], Any]) -> Any:
    ended: list[tuple[bool, Any]] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            ended.append((True, context.run(function)))
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            ended.append((False, error))

    thread = threading.Thread(target=run, name="flowpar-timed", daemon=True)
    thread.start()
    thread.join(min(timeout, threading.TIMEOUT_MAX))
    if not ended:
        raise timed_out(timeout, "it goes on in its thread, which cannot be stopped")
    succeeded, result = ended[0]
    if not succeeded:
        raise result
    return result
