"""Where the calls of a pool come from: a list, or an iterable that is read as it is needed."""

from __future__ import annotations

import collections
import contextvars
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from flowpar.compat.chunks import Broken, Chunk, Outcome, Sink
from flowpar.compat.dispatcher import Dispatcher
from flowpar.compat.freezing import Freezer
from flowpar.compat.shelves import Shelf
from flowpar.pools.items import FULL, ONE
from flowpar.task import Function

MOST_AT_ONCE: Final = 4096
"""Items that are read between two looks whether there is room."""

MOST_AHEAD: Final = 1 << 27
"""Bytes of items that are read ahead, as far as a few items are not more."""

QUICK_SECONDS: Final = 1e-4
"""Values of calls that take less are taken off the shelf many at a time."""

BATCH_SECONDS: Final = 0.004
"""How long the calls of a message of `Parallel` take, where they are quick."""


class Listed:
    """Calls whose arguments are all there.

    Parameters
    ----------
    function
        What is called.
    items, form
        With what.
    sink
        Who hears how they end.
    chunksize
        How many travel together at least.
    timeout
        Seconds that a call may take; each then travels alone.
    """

    def __init__(
        self,
        function: Function,
        items: Sequence[Any],
        sink: Sink,
        *,
        form: int = ONE,
        chunksize: int = 1,
        timeout: float | None = None,
    ) -> None:
        self.function = function
        self._items = items
        self._sink = sink
        self._form = form
        self._chunksize = chunksize
        self._timeout = timeout
        self._moment = object()
        self._next = 0

    @property
    def is_spent(self) -> bool:
        """Whether all were taken."""
        return self._next >= len(self._items)

    def take(self) -> Chunk | None:
        """Return the next chunk."""
        first = self._next
        if self.is_spent:
            return None
        self._next += self._chunksize
        items = self._items[first : self._next]
        return Chunk(
            self.function,
            items,
            self._form,
            first,
            self._sink,
            self,
            self._timeout,
            self._moment,
        )

    def cut(self, reason: BaseException) -> None:
        """Tell that the rest will not be called."""
        left = len(self._items) - self._next
        if left > 0:
            self._sink.put(self._next, [Outcome(error=reason)] * left)
        self._next = len(self._items)

    def pace(self, seconds: float, slots: int) -> None:
        """Go on as it is."""

    def unbind(self) -> None:
        """Wait for nobody: it never does."""


class Inputs:
    """Calls whose arguments come from an iterable, no more of which is read than there is room for.

    A thread reads it: what it waits for holds nobody up, and may even be a value that these calls
    give.

    Parameters
    ----------
    function
        What is called.
    iterator
        What it is called with.
    shelf
        Where the outcomes are put.
    dispatcher
        Which takes from here.
    window
        How many may have been read, and their outcomes not taken; None: as many as keep the workers
        busy, which is more the quicker they are.
    chunksize
        How many travel together; fewer at the end, and where nothing is on its way.
    form
        What an item is.
    timeout
        Seconds that a call may take; each then travels alone.
    is_still
        Whether nothing becomes of arguments between two items.
    """

    def __init__(
        self,
        function: Function,
        iterator: Iterator[Any],
        shelf: Shelf,
        dispatcher: Dispatcher,
        *,
        window: int | None,
        chunksize: int = 1,
        form: int = ONE,
        timeout: float | None = None,
        is_still: bool = False,
    ) -> None:
        if timeout is not None:
            chunksize = 1  # each travels alone
        self._form = form
        self._timeout = timeout
        self.function = function
        self.shelf = shelf
        self._iterator = iterator
        self._wake = dispatcher.wake
        # Threads are given the very objects.
        self._freezer = (
            Freezer(form, is_still=is_still) if dispatcher.pool.name == "processes" else None
        )
        self._is_elastic = window is None
        self._few = 2 * dispatcher.pool.slots * chunksize
        """So many are read ahead in any case, unless somebody has said how many."""
        self._window: float = max(self._few if window is None else window, chunksize)
        self._chunksize = chunksize
        self._least = chunksize
        """How many there must be for a message, before the end."""
        self._ready: collections.deque[Any] = collections.deque()
        self._read = self._sent = self._taken = 0
        self._changed = threading.Condition()
        self._has_ended = False
        self._is_awaited = False
        self._takes_many = False
        self._there: collections.deque[Outcome] = collections.deque()
        """Taken off the shelf, for who takes values."""
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="flowpar reads", daemon=True
        )
        self._thread.start()

    # ------------------------------------------------------------------ for the dispatcher

    @property
    def is_spent(self) -> bool:
        """Whether all was read, and taken."""
        return self._has_ended and not self._ready

    def take(self) -> Chunk | None:
        """Return the next chunk, if so much was read."""
        if not self._may_take():
            return None
        size = min(len(self._ready), self._chunksize)
        items = [self._ready.popleft() for _ in range(size)]
        first = self._sent
        self._sent += size
        return Chunk(self.function, items, self._form, first, self.shelf, self, self._timeout)

    def _may_take(self) -> bool:
        # First said, then looked: the reader sees it, or we see what it has read.
        self._is_awaited = True
        self._is_awaited = not self._has_enough()
        return not self._is_awaited

    def _has_enough(self) -> bool:
        """Return whether so much was read that it is to be sent.

        Where nothing is on its way, that is all there is: what is read may wait for its values, or
        be all that there is room for.
        """
        ready = len(self._ready)
        return ready >= self._least or (ready > 0 and (self._has_ended or self._is_idle))

    @property
    def _is_idle(self) -> bool:
        """Whether all that was sent has ended."""
        return self.shelf.ended == self._sent

    def cut(self, reason: BaseException) -> None:
        """Tell that the rest will not be called."""
        self._end(Broken(error=reason))
        if self._ready:
            left = len(self._ready)
            self._ready.clear()
            self.shelf.put(self._sent, [Outcome(error=reason)] * left)

    def pace(self, seconds: float, slots: int) -> None:
        """Read as far ahead as messages are on their way, unless somebody has said how far."""
        self._takes_many = self._is_elastic and seconds < QUICK_SECONDS
        wanted = 2 * slots * self._chunksize
        if self._freezer is not None and self._freezer.largest:
            # Quick calls may be of large items.
            wanted = max(self._few, min(wanted, MOST_AHEAD // self._freezer.largest))
        if self._is_elastic and wanted != self._window:
            self._widen(wanted)

    def unbind(self) -> None:
        """Read on, however few of the outcomes are taken: somebody waits for the end."""
        self._is_elastic = False
        self._widen(math.inf)

    def _widen(self, window: float) -> None:
        with self._changed:
            self._window = window
            self._changed.notify_all()

    # ------------------------------------------------------------------ for who takes values

    def next(self, timeout: float | None = None) -> Outcome | None:
        """Return the next outcome, once it is there; None: there is none any more.

        Raises
        ------
        TimeoutError
            If it is not there after so many seconds.
        """
        if not self._takes_many and not self._there:
            outcome = self.shelf.take(timeout)
            self.make_room()
            return outcome
        try:
            return self._there.popleft()
        except IndexError:
            first, *rest = self.shelf.take_some(timeout) or (None,)
        self._there.extend(rest)
        self.make_room(1 + len(rest))
        return first

    def make_room(self, size: int = 1) -> None:
        """Know that outcomes were taken."""
        with self._changed:
            self._taken += size
            self._changed.notify_all()

    def leave(self) -> None:
        """Know that nobody will take the rest.

        If none was taken at all, the calls are wanted for what they do, and are made; else no more
        is read.
        """
        self.shelf.drop()
        if self._taken:
            self.stop()
        else:
            self.unbind()

    def stop(self) -> None:
        """Read no more, and call nothing more."""
        self._end(None)
        self._ready.clear()
        self._wake()

    # ------------------------------------------------------------------ in its thread

    def _run(self) -> None:
        last = None
        try:
            while room := self._room():
                if not self._read_some(room):
                    break
        except BaseException as error:  # noqa: BLE001 - whatever it was, it is for who takes the values
            last = Broken(error=error)
        self._iterator = iter(())  # the user's may have something to do at its end
        self._freezer = None
        self._end(last)
        self._wake()

    def _room(self) -> int:
        """Return how many may be read, once there is room; 0: no more."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._has_ended or self._read - self._taken < self._window
            )
            if self._has_ended:
                return 0
            return int(min(self._window - (self._read - self._taken), MOST_AT_ONCE))

    def _read_some(self, most: int) -> bool:
        """Read so many; return whether there may be more."""
        for _ in range(most):
            try:
                value = next(self._iterator)
            except StopIteration:
                return False
            if self._has_ended:
                return False
            self._ready.append(self._frozen(value))
            self._read += 1
            self._tell()
        return True

    def _tell(self) -> None:
        """Wake who waits for what was read."""
        if self._is_awaited and self._has_enough():
            self._is_awaited = False
            self._wake()

    def _frozen(self, item: Any) -> Any:
        """Return an item as it is now: the iterable may use its objects again."""
        return item if self._freezer is None else self._freezer.freeze(item)

    def _end(self, last: Outcome | None) -> None:
        with self._changed:
            if self._has_ended:
                return
            self.shelf.end(self._read, last)
            self._has_ended = True
            self._changed.notify_all()


class Mixed(Inputs):
    """Calls of any functions.

    Parameters
    ----------
    iterator
        Of (function, arguments, keyword arguments, seconds that it may take or None).
    shelf, dispatcher, window, is_still
        As for `Inputs`.
    chunksize
        As for `Inputs`; None: as many as take some milliseconds.
    """

    def __init__(
        self,
        iterator: Iterator[Any],
        shelf: Shelf,
        dispatcher: Dispatcher,
        *,
        window: int | None,
        chunksize: int | None = 1,
        is_still: bool = False,
    ) -> None:
        self._grows = chunksize is None
        super().__init__(
            Function(_nothing),
            self._known(dispatcher.functions.get, iterator),
            shelf,
            dispatcher,
            window=window,
            chunksize=chunksize or 1,
            form=FULL,
            is_still=is_still,
        )

    @staticmethod
    def _known(known: Callable[..., Function], calls: Iterator[Any]) -> Iterator[Any]:
        for function, args, kwargs, timeout in calls:
            yield known(function), (args, kwargs or None), timeout

    @property
    def function(self) -> Function:
        """That of the call which comes next."""
        return self._ready[0][0] if self._ready else self._last_function

    @function.setter
    def function(self, function: Function) -> None:
        self._last_function = function

    def take(self) -> Chunk | None:
        """Return the next calls of one function."""
        if not self._may_take():
            return None
        function, _, timeout = self._ready[0]
        self.function = function
        size = 1 if timeout is not None else self._size()
        items: list[Any] = []
        while self._ready and len(items) < size and self._ready[0][0::2] == (function, timeout):
            items.append(self._ready.popleft()[1])
        first = self._sent
        self._sent += len(items)
        return Chunk(function, items, FULL, first, self.shelf, self, timeout)

    def _frozen(self, item: Any) -> Any:
        function, call, timeout = item
        return function, super()._frozen(call), timeout

    def pace(self, seconds: float, slots: int) -> None:
        """Have more calls travel together if they are quick, unless the user has said how many."""
        if self._grows:
            self._chunksize = max(1, min(1024, int(BATCH_SECONDS / max(seconds, 1e-7))))
        super().pace(seconds, slots)

    def _size(self) -> int:
        # Towards the end the messages become smaller, so that no worker has much when others wait.
        share = len(self._ready) // 4 if self._grows else self._chunksize
        return max(1, min(self._chunksize, share))


def _nothing() -> None:
    """Stand for a function while there is no call."""
