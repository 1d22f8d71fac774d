"""Locks that travel; when the process that holds one ends, it is free."""

from __future__ import annotations

import threading
from types import TracebackType

from flowpar.common.gates import Gate, gate_of, held
from flowpar.pickling import refuse_to_be_kept


class _Common(Gate):
    """What both kinds of locks do."""

    __enter__ = Gate.acquire

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.release()
        except BaseException:  # a signal handler raised, perhaps before it was released
            if self._is_mine():
                self.release()
            raise

    def __reduce__(self) -> tuple[object, ...]:
        refuse_to_be_kept(type(self).__name__)
        return gate_of, (type(self), *self._name)

    def __flowpar_digest__(self) -> object:
        return None  # it decides when something happens, never what it gives

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name[1]}>"


class Lock(_Common):
    """A lock that can be passed to tasks, on threads and in processes; it ends with its holder.

    Used like `multiprocessing.Lock`. When the process that holds it ends, it is free again; as long
    as that lives it stays locked, also if the task has ended that locked it. Only the process that
    holds it can release it, by any of its threads. Where somebody has waited for it in vain,
    ``acquire(block=False)`` may fail for a moment after it became free.

    Examples
    --------
    >>> import flowpar
    >>> @flowpar.delayed
    ... def add(total, amount, lock):
    ...     with lock:
    ...         total.value += amount
    >>> lock, total = flowpar.Lock(), flowpar.Value("i", 0)
    >>> _ = flowpar.compute([add(total, n, lock) for n in range(5)], scheduler="processes")
    >>> total.value
    10
    """


class RLock(_Common):
    """A lock that a thread which holds it can take again; otherwise as `Lock`.

    Examples
    --------
    >>> import flowpar
    >>> lock = flowpar.RLock()
    >>> with lock, lock:
    ...     "held twice"
    'held twice'
    """

    def acquire(
        self, block: bool = True, timeout: float | None = None, *, blocking: bool = True
    ) -> bool:
        """Lock it, once more if this thread has; return whether that was possible.

        Parameters
        ----------
        block, blocking
            Whether to wait; `threading` has the second name for it.
        timeout
            Seconds to wait for at most; None: as long as it takes.
        """
        if held.get(self) == threading.get_ident():
            self._count += 1
            return True
        return Gate.acquire(self, block and blocking, timeout)

    __enter__ = acquire

    def release(self) -> None:
        """Unlock it, if as often as it was locked.

        Raises
        ------
        AssertionError
            If this thread does not hold it, as `multiprocessing` has it.
        """
        if held.get(self) != threading.get_ident():
            raise AssertionError("a recursive lock was released by a thread that does not own it")
        if self._count > 1:
            self._count -= 1
        else:
            Gate.release(self)
