"""`Pool` and `ThreadPool`: multiprocessing's, on flowpar's own pools."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Final

from flowpar.compat.dispatcher import Dispatcher
from flowpar.compat.inputs import Inputs, Listed
from flowpar.compat.results import AsyncResult, Callback, MapResult, ResultIterator
from flowpar.compat.shelves import make_shelf
from flowpar.policy import check_count
from flowpar.pools.items import FULL, ONE, SEVERAL
from flowpar.pools.threads import ThreadPool as Threads
from flowpar.task import Function

CHUNKS_A_WORKER: Final = 4
"""Into how many chunks `map` divides its list for each worker, where nobody says how."""

_RUNNING, _CLOSED, _TERMINATED = "running", "closed", "terminated"


class _Pool:
    """What pools of processes and of threads have in common."""

    _state = _TERMINATED

    def __init__(self, processes: int | None, pool: Any) -> None:
        self._processes = processes
        self._dispatcher = Dispatcher(pool, "flowpar feeds a pool")
        self._state = _RUNNING

    # ------------------------------------------------------------------ the eight methods

    def apply(
        self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] | None = None
    ) -> Any:
        """Call a function in a worker, and return what it returns.

        Examples
        --------
        >>> from flowpar import ThreadPool
        >>> with ThreadPool(2) as pool:
        ...     pool.apply(pow, (2, 3))
        8
        """
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """Have a function called in a worker, and return at once.

        Parameters
        ----------
        func, args, kwds
            The call.
        callback, error_callback
            One of them is called, in a thread of the pool, with the value or the error. What it
            raises is reported, and harms nothing.

        Examples
        --------
        >>> from flowpar import ThreadPool
        >>> with ThreadPool(2) as pool:
        ...     pool.apply_async(pow, (2, 3)).get()
        8
        """
        result = AsyncResult(callback, error_callback)
        item = (tuple(args), dict(kwds or {}) or None)
        self._add(Listed(self._function(func), [item], result, form=FULL))
        return result

    def map(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Call a function with each item, in workers, and return the list of the values.

        Parameters
        ----------
        func
            Takes one argument.
        iterable
            The items.
        chunksize
            How many travel together; None: a quarter of what each worker gets.

        Raises
        ------
        Exception
            That of the first item that raised one, when all have ended.

        Examples
        --------
        >>> from flowpar import ThreadPool
        >>> with ThreadPool(2) as pool:
        ...     pool.map(abs, [-1, 2, -3])
        [1, 2, 3]
        """
        return self.map_async(func, iterable, chunksize).get()  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> MapResult:
        """Do as `map`, and return at once; the callback is given the list of all values."""
        self._check_running()
        result = MapResult(callback, error_callback)
        return self._map(func, list(iterable), ONE, chunksize, result)

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[Any]:
        """Do as `map`, for a function of several arguments: each item holds those of one call.

        Examples
        --------
        >>> from flowpar import ThreadPool
        >>> with ThreadPool(2) as pool:
        ...     pool.starmap(pow, [(2, 3), (3, 2)])
        [8, 9]
        """
        return self.starmap_async(func, iterable, chunksize).get()  # type: ignore[no-any-return]

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> MapResult:
        """Do as `starmap`, and return at once; the callback is given the list of all values."""
        self._check_running()
        result = MapResult(callback, error_callback)
        return self._map(func, [tuple(args) for args in iterable], SEVERAL, chunksize, result)

    def imap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
    ) -> ResultIterator:
        """Call a function with each item, in workers, and give the values one after another.

        The items are read as values are taken, so there may be any number of them.

        Parameters
        ----------
        func
            Takes one argument.
        iterable
            The items; a thread of the pool reads them.
        chunksize
            How many travel together.
        buffersize
            How many items may be read whose values were not taken; None: as many as keep the
            workers busy.

        Returns
        -------
        ResultIterator
            An item that failed raises its error in its place, and the rest follows. Its ``next``
            takes a ``timeout``. Leaving it early ends the reading; where nothing was taken at
            all, everything is called.

        Examples
        --------
        >>> import itertools
        >>> from flowpar import ThreadPool
        >>> with ThreadPool(2) as pool:
        ...     list(itertools.islice(pool.imap(abs, itertools.count(-2)), 4))
        [2, 1, 0, 1]
        """
        return self._imap(func, iterable, chunksize, buffersize, is_ordered=True)

    def imap_unordered(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
    ) -> ResultIterator:
        """Do as `imap`, and give the values as they come.

        Examples
        --------
        >>> from flowpar import ThreadPool
        >>> with ThreadPool(2) as pool:
        ...     sorted(pool.imap_unordered(abs, [-1, 2, -3]))
        [1, 2, 3]
        """
        return self._imap(func, iterable, chunksize, buffersize, is_ordered=False)

    # ------------------------------------------------------------------ its end

    def close(self) -> None:
        """Take no more calls; the workers end when those that there are have ended."""
        if self._state == _RUNNING:
            self._state = _CLOSED
            self._dispatcher.close()

    def terminate(self) -> None:
        """End at once. Calls that have not ended raise `Cancelled` where they are waited for."""
        self._state = _TERMINATED
        self._dispatcher.stop()

    def join(self) -> None:
        """Wait until the workers have ended, after `close` or `terminate`.

        Raises
        ------
        ValueError
            If neither was called.
        """
        if self._state == _RUNNING:
            raise ValueError("Pool is still running")
        self._dispatcher.join()

    def __enter__(self) -> Any:
        self._check_running()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def __del__(self) -> None:
        if self._state == _RUNNING:
            warnings.warn(
                f"unclosed running flowpar pool {self!r}",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
            self.terminate()

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state}, {self._dispatcher.pool.width} workers>"

    # ------------------------------------------------------------------ inside

    def _check_running(self) -> None:
        if self._state != _RUNNING:
            raise ValueError("Pool not running")

    def _add(self, source: Any) -> None:
        self._check_running()
        self._dispatcher.add(source)

    def _function(self, func: Callable[..., Any]) -> Function:
        if not callable(func):
            raise TypeError(f"a pool calls functions, and not {func!r}")
        return self._dispatcher.functions.get(func)

    def _map(
        self,
        func: Callable[..., Any],
        items: list[Any],
        form: int,
        chunksize: int | None,
        result: MapResult,
    ) -> MapResult:
        if chunksize is None:
            width = self._dispatcher.pool.width * CHUNKS_A_WORKER
            chunksize = max(1, -(-len(items) // width))
        chunksize = _checked_chunksize(chunksize)
        function = self._function(func)
        result.expect(len(items))
        if items:
            self._add(Listed(function, items, result, form=form, chunksize=chunksize))
        return result

    def _imap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int,
        buffersize: int | None,
        *,
        is_ordered: bool,
    ) -> ResultIterator:
        self._check_running()
        chunksize = _checked_chunksize(chunksize)
        if buffersize is not None:
            check_count("buffersize", buffersize, least=1)
        inputs = Inputs(
            self._function(func),
            iter(iterable),
            make_shelf(is_ordered=is_ordered),
            self._dispatcher,
            window=buffersize,
            chunksize=chunksize,
        )
        self._add(inputs)
        return ResultIterator(inputs)


class Pool(_Pool):
    """A pool of worker processes with the methods of `multiprocessing.Pool`.

    What is better: lambdas, closures and functions of a notebook can be called, no main guard is
    needed, a worker that dies costs one call its error and is replaced, nothing hangs, and `imap`
    reads its input only as fast as its values are taken.

    Parameters
    ----------
    processes
        How many; None: as many as CPUs may be used.
    initializer, initargs
        Called first in each worker. If it raises, every call ends with a `PoolError`.
    maxtasksperchild
        After so many calls a worker is replaced; None: never.
    context
        A context of multiprocessing, or the name of a start method: "forkserver", "spawn", "fork".

    Examples
    --------
    >>> import flowpar
    >>> with flowpar.Pool(2) as pool:
    ...     pool.map(lambda n: n * n, range(4))
    [0, 1, 4, 9]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
    ) -> None:
        from flowpar.pools.processes import ProcessPool  # noqa: PLC0415 - most of our import time

        super().__init__(
            processes,
            ProcessPool(
                _checked_processes(processes),
                start_method=_start_method(context),
                initializer=_checked_initializer(initializer),
                initargs=tuple(initargs),
                max_tasks_per_worker=_checked_life(maxtasksperchild),
                idle_timeout=None,
                shares_globals=True,
            ),
        )


class ThreadPool(_Pool):
    """A pool of threads with the methods of `multiprocessing.pool.ThreadPool`.

    Parameters
    ----------
    processes
        How many threads; None: as many as CPUs may be used.
    initializer, initargs
        Called first in each thread. If it raises, every call ends with a `PoolError`.

    Examples
    --------
    >>> from flowpar import ThreadPool
    >>> with ThreadPool(2) as pool:
    ...     pool.map(len, ["one", "three"])
    [3, 5]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        begin = _checked_initializer(initializer)
        threads = Threads(
            _checked_processes(processes), initializer=begin, initargs=tuple(initargs)
        )
        super().__init__(processes, threads)


def _checked_processes(processes: int | None) -> int | None:
    if isinstance(processes, int) and processes < 1:
        raise ValueError("Number of processes must be at least 1")
    return None if processes is None else check_count("processes", processes, least=1)


def _checked_initializer(
    initializer: Callable[..., object] | None,
) -> Callable[..., object] | None:
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    return initializer


def _checked_life(calls: Any) -> int | None:
    if calls is None:
        return None
    if isinstance(calls, bool) or not isinstance(calls, numbers.Integral) or calls < 1:
        raise ValueError("maxtasksperchild must be a positive int or None")
    return int(calls)


def _checked_chunksize(chunksize: Any) -> int:
    if isinstance(chunksize, bool) or not isinstance(chunksize, numbers.Integral) or chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize!r}")
    return int(chunksize)


def _start_method(context: Any) -> str:
    if context is None:
        return "forkserver"
    if isinstance(context, str):
        return context
    method = context.get_start_method()
    return "forkserver" if method is None else str(method)
