"""`Executor`: concurrent.futures', on flowpar's own pools."""

from __future__ import annotations

import atexit
import concurrent.futures
import functools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Final

from flowpar.compat.chunks import Chunk, Outcome
from flowpar.compat.dispatcher import Dispatcher
from flowpar.compat.inputs import Inputs
from flowpar.compat.shelves import Shelf
from flowpar.policy import check_count, check_number
from flowpar.pools import shared
from flowpar.pools.items import FULL, SEVERAL
from flowpar.pools.threads import ThreadPool as Threads
from flowpar.task import Function


class Executor(concurrent.futures.Executor):
    """Workers with the methods of `concurrent.futures.Executor`.

    What is better than its own executors: lambdas, closures and functions of a notebook can be
    called, no main guard is needed, a worker that dies costs one call its error and is replaced,
    calls may have a timeout that ends them, and futures may be arguments.

    Parameters
    ----------
    max_workers
        How many; None: as many as CPUs may be used.
    threads
        Whether they are threads; else processes.
    initializer, initargs
        Called first in each worker. If it raises, every call ends with a `PoolError`.
    timeout
        Seconds that a call may take; None: as long as it takes. A process is then killed; a thread
        cannot be, and goes on with nobody waiting.
    start_method
        Of processes: "forkserver", "spawn", "fork".

    Examples
    --------
    >>> import flowpar
    >>> with flowpar.Executor(2, threads=True) as executor:
    ...     three = executor.submit(len, "abc")
    ...     nine = executor.submit(pow, three, 2)  # waits for the first
    ...     nine.result(), list(executor.map(abs, [-1, -2]))
    (9, [1, 2])
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        threads: bool = False,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        timeout: float | None = None,
        start_method: str = "forkserver",
    ) -> None:
        if isinstance(max_workers, int) and max_workers < 1:
            raise ValueError("max_workers must be greater than 0")
        if max_workers is not None:
            check_count("max_workers", max_workers, least=1)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        seconds = None if timeout is None else check_number("timeout", timeout)
        pool = _pool(max_workers, threads, initializer, tuple(initargs), start_method)
        self._begin(Dispatcher(pool, "flowpar feeds an executor"), seconds)

    @classmethod
    def of_shared(cls, workers: int) -> Executor:
        """Return one on the processes that runs share, which it leaves when it ends."""
        made: Executor = object.__new__(cls)
        pool = shared.process_pool(workers, "forkserver")
        made._begin(Dispatcher(pool, "flowpar feeds an executor", owns_pool=False), None)
        return made

    def _begin(self, dispatcher: Dispatcher, timeout: float | None) -> None:
        self._timeout = timeout
        self._dispatcher = dispatcher
        self._ending = _Ending()
        self._origin: Executor | None = None
        _open[self._ending] = self._dispatcher
        self._ending.ended_callback = functools.partial(_open.pop, self._ending, None)
        weakref.finalize(self, self._ending.end, cancel=False, then=self._dispatcher.close)
        _wait_at_exit()

    def options(self, *, timeout: float | None) -> Executor:
        """Return the same workers under another timeout.

        Examples
        --------
        >>> import flowpar, time
        >>> with flowpar.Executor(1) as executor:
        ...     type(executor.options(timeout=0.2).submit(time.sleep, 60).exception())
        <class 'flowpar.errors.TaskTimeout'>
        """
        made: Executor = object.__new__(type(self))
        vars(made).update(vars(self))
        made._origin = self  # when that goes, the workers end
        made._timeout = None if timeout is None else check_number("timeout", timeout)
        return made

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a function called, and return a future of what it returns.

        Parameters
        ----------
        fn
            What is called.
        *args, **kwargs
            With what. Futures among them, also in lists, tuples and dicts, are waited for, and
            their results taken; if one fails, so does this.

        Raises
        ------
        RuntimeError
            After `shutdown`.
        """
        function = self._function(fn)
        future: Future[Any] = Future()
        needed = list(_futures_in((args, kwargs)))
        self._ending.begin(future)
        start = _Start(self._dispatcher, function, future, self._timeout)
        try:
            if needed:
                self._dispatcher.start()
                _Gathering(needed, start, (args, kwargs), future).begin()
            else:
                start(args, kwargs)
        except BaseException:
            self._ending.discard(future)
            raise
        return future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Call a function with the items of some iterables, and give the values in their order.

        Parameters
        ----------
        fn
            Takes as many arguments as there are iterables.
        *iterables
            Gone through together, until the shortest ends.
        timeout
            Seconds from now after which `TimeoutError` is raised where a value is not there.
        chunksize
            How many calls travel together.
        buffersize
            How many calls may be made ahead of the values that were taken; None: all.

        Returns
        -------
        Iterator
            The first error ends it.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        items = zip(*iterables, strict=False)
        inputs = Inputs(
            self._function(fn),
            # As concurrent.futures does: an input that raises does so here.
            iter(list(items)) if buffersize is None else items,
            Shelf(),
            self._dispatcher,
            window=buffersize,
            chunksize=chunksize,
            form=SEVERAL,
            timeout=self._timeout,
        )
        if buffersize is None:
            inputs.unbind()
        self._dispatcher.add(inputs)
        return _values(inputs, None if timeout is None else time.monotonic() + timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the base's
        """Take no more calls, and end the workers when those that there are have ended.

        Parameters
        ----------
        wait
            Whether to return only then.
        cancel_futures
            Whether to cancel what no worker has begun.
        """
        self._ending.end(cancel=cancel_futures, then=self._dispatcher.close)
        # In a callback of one of its futures nobody can wait for the others.
        if wait and not self._dispatcher.is_this_thread and self._ending.is_ours:
            self._ending.ended.wait()
            self._dispatcher.join()

    def __exit__(self, kind: object, *_: object) -> None:
        if isinstance(kind, type) and issubclass(kind, KeyboardInterrupt):
            self.abort()  # who presses Ctrl-C does not wait for what runs
        else:
            self.shutdown(wait=True)

    def abort(self) -> None:
        """End at once: what runs is killed, and all that has not ended fails with `Cancelled`."""
        self._ending.end(cancel=True, then=self._dispatcher.close)
        self._dispatcher.stop()

    def _function(self, fn: Callable[..., Any]) -> Function:
        if self._ending.is_over:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if not callable(fn):
            raise TypeError(f"an executor calls functions, and not {fn!r}")
        return self._dispatcher.functions.get(fn)


def _pool(
    workers: int | None,
    threads: bool,  # noqa: FBT001 - as it came
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    start_method: str,
) -> Any:
    if threads:
        return Threads(workers, initializer=initializer, initargs=initargs)
    from flowpar.pools.processes import ProcessPool  # noqa: PLC0415 - most of our import time

    return ProcessPool(
        workers,
        start_method=start_method,
        initializer=initializer,
        initargs=initargs,
        idle_timeout=None,
        shares_globals=True,
    )


class _Ending:
    """Knows which futures are open, and closes the dispatcher when none is and no more may come."""

    def __init__(self) -> None:
        self.is_over = False
        self.ended = threading.Event()
        self.ended_callback: Callable[[], object] = lambda: None
        self._owner = os.getpid()
        self._open: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self._then: Callable[[], object] = self.ended.set

    def begin(self, future: Future[Any]) -> None:
        """Take a future."""
        with self._lock:
            self._open.add(future)
        future.add_done_callback(self.discard)

    def end(self, *, cancel: bool, then: Callable[[], object]) -> None:
        """Take no more, and do something when all have ended."""
        with self._lock:
            self.is_over, self._then = True, then
            waiting = list(self._open)
        if cancel:
            for future in waiting:
                future.cancel()
        self._look()

    @property
    def is_ours(self) -> bool:
        """Whether this process has it, and not the one that it was forked from."""
        return os.getpid() == self._owner

    def discard(self, future: Future[Any]) -> None:
        """Know that a future has ended, or never was."""
        if future.cancelled():
            # Else those who wait for it are told when its turn comes, if it does.
            future.set_running_or_notify_cancel()
        with self._lock:
            self._open.discard(future)
        self._look()

    def _look(self) -> None:
        with self._lock:
            is_done = self.is_over and not self._open and not self.ended.is_set()
        if is_done:
            self._then()
            self.ended.set()
            self.ended_callback()


class _Start:
    """Hands one call to the dispatcher, once all that it takes is there."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        function: Function,
        future: Future[Any],
        timeout: float | None,
    ) -> None:
        self._dispatcher = dispatcher
        self._function = function
        self._future = future
        self._timeout = timeout

    def later(self, call: Callable[[], object]) -> None:
        """Have something done in the dispatcher's thread."""
        self._dispatcher.do(call)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hand it over."""
        item = (args, kwargs or None)
        self._dispatcher.add(_OneCall(self._function, item, self._future, self._timeout))


class _OneCall:
    """The call behind a future: the source of it, and the sink of its outcome."""

    def __init__(
        self, function: Function, item: Any, future: Future[Any], timeout: float | None
    ) -> None:
        self.function = function
        self._item = item
        self._future = future
        self._timeout = timeout
        self.is_spent = False

    def take(self) -> Chunk | None:
        """Return it, unless somebody has cancelled it."""
        self.is_spent = True
        item, self._item = self._item, None
        if not _begin(self._future):
            return None
        return Chunk(self.function, [item], FULL, 0, self, self, self._timeout)

    def put(self, first: int, outcomes: Sequence[Outcome]) -> None:
        """Take the outcome."""
        del first
        (outcome,) = outcomes
        if outcome.error is None:
            self._future.set_result(outcome.value)
        else:
            self._future.set_exception(outcome.error)

    def put_values(self, first: int, values: list[Any]) -> None:
        """Take the value."""
        del first
        self._future.set_result(values[0])

    def cut(self, reason: BaseException) -> None:
        """Tell that it will not be called."""
        self.is_spent = True
        if _begin(self._future):
            self._future.set_exception(reason)

    def pace(self, seconds: float, slots: int) -> None:
        """Go on as it is."""

    def unbind(self) -> None:
        """Wait for nobody: it never does."""


def _begin(future: Future[Any]) -> bool:
    """Let a future be running; return whether it can be: nobody has cancelled it."""
    # Those who wait for a cancelled one were told when it was cancelled.
    return not future.cancelled() and future.set_running_or_notify_cancel()


class _Gathering:
    """Starts a call when the futures among its arguments have ended."""

    def __init__(
        self,
        needed: list[Future[Any]],
        start: _Start,
        arguments: tuple[tuple[Any, ...], dict[str, Any]],
        future: Future[Any],
    ) -> None:
        self._needed = needed
        self._left = len(needed)
        self._lock = threading.Lock()
        self._start = start
        self._arguments = arguments
        self._future = future

    def begin(self) -> None:
        """Wait."""
        for needed in list(self._needed):
            needed.add_done_callback(self._count)

    def _count(self, ended: Future[Any]) -> None:
        del ended
        with self._lock:
            self._left -= 1
            if self._left:
                return
        # Not here: behind a long chain of futures this would go as deep as that is long.
        self._start.later(self._finish)

    def _finish(self) -> None:
        try:
            args, kwargs = _with_results(self._arguments)
            self._start(args, kwargs)
        except BaseException as error:  # noqa: BLE001 - that of a future, which then is ours
            if _begin(self._future):
                self._future.set_exception(error)


def _futures_in(value: Any) -> Iterator[Future[Any]]:
    """Yield the futures in a value: itself, or those that a list, tuple, set or dict holds."""
    if isinstance(value, Future):
        yield value
    elif type(value) in {list, tuple, set}:
        for each in value:
            yield from _futures_in(each)
    elif type(value) is dict:
        yield from _futures_in(list(value.values()))


def _with_results(value: Any) -> Any:
    """Return a value with results in place of the futures that `_futures_in` finds."""
    if isinstance(value, Future):
        return value.result()
    kind = type(value)
    if kind in {list, tuple, set}:
        return kind(_with_results(each) for each in value)
    if kind is dict:
        return {name: _with_results(each) for name, each in value.items()}
    return value


def _values(inputs: Inputs, deadline: float | None) -> Iterator[Any]:
    try:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                outcome = inputs.next(left)
            except TimeoutError as error:
                raise concurrent.futures.TimeoutError from error
            if outcome is None:
                return
            if outcome.error is not None:
                raise outcome.error
            # Nothing here may hold the value while it is used.
            given = [outcome.value]
            del outcome
            yield given.pop()
    finally:
        inputs.shelf.drop()
        inputs.stop()


_open: Final[dict[_Ending, Dispatcher]] = {}
"""Of the executors that have not ended, also where nobody has them any more."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open.clear)


@functools.cache
def _wait_at_exit() -> None:
    # Not before there is something that ends workers at exit: what comes last is done first.
    atexit.register(_shut_down_all)


def _shut_down_all() -> None:
    """Wait for all calls, as concurrent.futures does at the end of a program."""
    is_interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    for ending, dispatcher in list(_open.items()):
        ending.end(cancel=is_interrupted, then=dispatcher.close)
        if is_interrupted:
            dispatcher.stop()
        ending.ended.wait()
        dispatcher.join()
