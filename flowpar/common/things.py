"""What processes wait for together, as the one process has it that serves it; no I/O, no clock.

An `Ask` is a request of somebody. It is answered at once, or kept until it can be. Who asked may
give up, or die: then `forget` is told of what was not answered; what was answered and perhaps never
heard is undone by what came with the answer; and `leave` is told of a process that has ended.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import BrokenBarrierError
from typing import Final

Undo = Callable[[], object]


class Ask:
    """A request: of whom, and how to answer it."""

    __slots__ = ("session",)

    session: object
    """The process that asked."""

    @abstractmethod
    def answer(self, value: object, undo: Undo | None = None) -> None:
        """Answer it; undo is called if the answer was perhaps not heard."""

    @abstractmethod
    def fail(self, error: BaseException) -> None:
        """Answer it with an error."""


class Thing:
    """Something that is served; its public methods can be asked for."""

    is_pinned = False
    """Whether it stays, though nobody has it any more."""

    def forget(self, ask: Ask) -> None:
        """Let go of a request that nobody waits for any more."""

    def leave(self, session: object) -> None:
        """Take back what a process has that ended."""


_ENDED: Final = "calls that have ended"
"""Holds the permits that nobody gives back by dying."""


class Permits(Thing):
    """A semaphore.

    Parameters
    ----------
    count
        How many permits there are.
    most
        How many there may be; None: any number.
    """

    def __init__(self, count: int, most: int | None) -> None:
        self._count = count
        self._most = most
        self._holders: dict[object, int] = {}  # those who took first are first
        self._waiting: deque[Ask] = deque()

    def acquire(self, ask: Ask, wait: bool) -> None:
        """Take one, now or as soon as there is one."""
        if self._count:
            self._grant(ask)
        elif wait:
            self._waiting.append(ask)
        else:
            ask.answer(False)

    def release(self, ask: Ask) -> None:
        """Give one back, or one more."""
        if self._most is not None and self._count >= self._most:
            raise ValueError("a semaphore was released too many times")
        # Who releases what another has taken does it for that one: first for those who will not.
        first = next(iter(self._holders), None)
        own = (session for session in (ask.session, _ENDED) if session in self._holders)
        self._give_back(next(own, first))
        ask.answer(None)

    def settle(self, ask: Ask) -> None:
        """Have what the process has stay taken, though it should end."""
        kept = self._holders.pop(ask.session, 0)
        if kept:
            self._holders[_ENDED] = self._holders.get(_ENDED, 0) + kept
        ask.answer(None)

    def get_value(self, ask: Ask) -> None:
        """Say how many there are."""
        ask.answer(self._count)

    def forget(self, ask: Ask) -> None:
        """See `Thing`."""
        if ask in self._waiting:
            self._waiting.remove(ask)

    def leave(self, session: object) -> None:
        """Give back what it had."""
        while session in self._holders:
            self._give_back(session)

    def _grant(self, ask: Ask) -> None:
        self._count -= 1
        self._holders[ask.session] = self._holders.get(ask.session, 0) + 1
        ask.answer(True, partial(self._undo, ask.session))

    def _undo(self, session: object) -> None:
        if session in self._holders:  # or else another has given it back
            self._give_back(session)

    def _give_back(self, session: object) -> None:
        left = self._holders.pop(session, 0) - 1
        if left > 0:
            self._holders[session] = left
        self._count += 1
        if self._waiting:
            self._grant(self._waiting.popleft())


class Flag(Thing):
    """An event."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[Ask] = []

    def is_set(self, ask: Ask) -> None:
        """Say whether it is set."""
        ask.answer(self._is_set)

    def set(self, ask: Ask) -> None:
        """Set it, and wake all who wait."""
        self._is_set = True
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.answer(True)
        ask.answer(None)

    def clear(self, ask: Ask) -> None:
        """Take it back."""
        self._is_set = False
        ask.answer(None)

    def wait(self, ask: Ask) -> None:
        """Answer when it is set."""
        if self._is_set:
            ask.answer(True)
        else:
            self._waiting.append(ask)

    def forget(self, ask: Ask) -> None:
        """See `Thing`."""
        if ask in self._waiting:
            self._waiting.remove(ask)


@dataclass(slots=True)
class _Ticket:
    ask: Ask | None = None
    is_called: bool = False


_Place = tuple[object, int]
"""Who has a ticket: a process, and the number that it has given it."""


class Turnstile(Thing):
    """Those who wait for a condition: they enlist while they hold its lock, and then wait."""

    def __init__(self) -> None:
        self._tickets: OrderedDict[_Place, _Ticket] = OrderedDict()

    def enlist(self, ask: Ask, number: int) -> None:
        """Give out a ticket."""
        place = ask.session, number
        self._tickets[place] = _Ticket()
        ask.answer(None, partial(self._drop, place))

    def wait(self, ask: Ask, number: int) -> None:
        """Answer when the ticket is called."""
        place = ask.session, number
        ticket = self._tickets[place]
        ticket.ask = ask
        if ticket.is_called:
            self._let_in(place)

    def delist(self, ask: Ask, number: int) -> None:
        """Take a ticket back, if it is there; if it was called, another is."""
        self._drop((ask.session, number))
        ask.answer(None)

    def notify(self, ask: Ask, count: int | None) -> None:
        """Call so many tickets, None: all, in their order."""
        self._call(len(self._tickets) if count is None else count)
        ask.answer(None)

    def forget(self, ask: Ask) -> None:
        """See `Thing`."""
        for place in [at for at, ticket in self._tickets.items() if ticket.ask is ask]:
            self._drop(place)

    def leave(self, session: object) -> None:
        """See `Thing`."""
        for place in [at for at in self._tickets if at[0] == session]:
            self._drop(place)

    def _call(self, count: int) -> None:
        uncalled = [at for at, ticket in self._tickets.items() if not ticket.is_called]
        for place in uncalled[:count]:
            ticket = self._tickets.get(place)
            # One who is let in and is not there any more has another called meanwhile.
            if ticket is None or ticket.is_called:
                self._call(1)
                continue
            ticket.is_called = True
            if ticket.ask is not None:
                self._let_in(place)

    def _let_in(self, place: _Place) -> None:
        ask = self._tickets.pop(place).ask
        if ask is not None:
            ask.answer(True, partial(self._call, 1))

    def _drop(self, place: _Place) -> None:
        ticket = self._tickets.pop(place, None)
        if ticket is not None and ticket.is_called:
            self._call(1)


class Gathering(Thing):
    """A barrier.

    Parameters
    ----------
    parties
        How many there must be.
    has_action
        Whether the last who comes does something before all go on.
    """

    def __init__(self, parties: int, has_action: bool) -> None:
        self._parties = parties
        self._has_action = has_action
        self._waiting: list[Ask] = []
        self._next: list[Ask] = []
        """Those who came while the last of this round acts."""
        self._actor: Ask | None = None
        self._is_broken = False

    def arrive(self, ask: Ask) -> None:
        """Answer ``(place, whether to act)`` when all are there."""
        if self._is_broken:
            raise BrokenBarrierError("the barrier is broken")
        if self._actor is not None:
            self._next.append(ask)
            return
        self._waiting.append(ask)
        if len(self._waiting) < self._parties:
            return
        if not self._has_action:
            self._let_all_go()
            return
        self._actor = ask
        ask.answer((self._parties - 1, True), self._break)

    def acted(self, ask: Ask) -> None:
        """Let all go: the last has done its part."""
        if self._actor is not None:
            self._let_all_go()
        ask.answer(None)

    def abort(self, ask: Ask) -> None:
        """Break it: all who wait get an error, and who comes."""
        self._break()
        ask.answer(None)

    def reset(self, ask: Ask) -> None:
        """Make it as new; who waits gets an error."""
        self._break()
        self._is_broken = False
        ask.answer(None)

    def state(self, ask: Ask) -> None:
        """Say how many wait, and whether it is broken."""
        waiting = self._next if self._actor is not None else self._waiting
        ask.answer((len(waiting), self._is_broken))

    def forget(self, ask: Ask) -> None:
        """Break it: who has come is not there any more."""
        for group in (self._waiting, self._next):
            if ask in group:
                group.remove(ask)
        self._break()

    def leave(self, session: object) -> None:
        """See `Thing`."""
        if self._actor is not None and self._actor.session == session:
            self._break()

    def _let_all_go(self) -> None:
        waiting, self._waiting, actor = self._waiting, [], self._actor
        self._actor = None
        for place, each in enumerate(waiting):
            if each is not actor:
                each.answer((place, False))
        came, self._next = self._next, []
        for each in came:
            self.arrive(each)

    def _break(self) -> None:
        self._is_broken = True
        waiting, actor = self._waiting + self._next, self._actor
        self._waiting, self._next, self._actor = [], [], None
        for each in waiting:
            if each is not actor:
                each.fail(BrokenBarrierError("the barrier was broken: somebody left it"))


class Line(Thing):
    """A queue of pickles.

    Parameters
    ----------
    most
        How many it may hold; zero or less: any number.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: deque[bytes] = deque()
        self._getters: deque[Ask] = deque()
        self._putters: deque[tuple[Ask, bytes]] = deque()
        self._undone = 0
        """How many were put of which nobody has said that they are done."""
        self._joiners: list[Ask] = []

    def put(self, ask: Ask, item: bytes, wait: bool) -> None:
        """Append an item, now or as soon as there is room; answer whether it is in."""
        if not 0 < self._most <= len(self._items):
            self._undone += 1
            self._add(item)
            ask.answer(True)
        elif wait:
            self._putters.append((ask, item))
        else:
            ask.answer(False)

    def get(self, ask: Ask, wait: bool) -> None:
        """Take the first item, now or as soon as there is one; None: there is none."""
        if self._items:
            self._hand(ask, self._items.popleft())
            if self._putters:
                putter, item = self._putters.popleft()
                self._undone += 1
                self._items.append(item)
                putter.answer(True)
        elif wait:
            self._getters.append(ask)
        else:
            ask.answer(None)

    def size(self, ask: Ask) -> None:
        """Say how many items there are."""
        ask.answer(len(self._items))

    def task_done(self, ask: Ask) -> None:
        """Note that one more is done, and let those go on who wait for all."""
        if not self._undone:
            raise ValueError("task_done() called too many times")
        self._undone -= 1
        if not self._undone:
            joiners, self._joiners = self._joiners, []
            for each in joiners:
                each.answer(None)
        ask.answer(None)

    def join(self, ask: Ask) -> None:
        """Answer when all are done."""
        if self._undone:
            self._joiners.append(ask)
        else:
            ask.answer(None)

    def forget(self, ask: Ask) -> None:
        """See `Thing`."""
        for group in (self._getters, self._joiners):
            if ask in group:
                group.remove(ask)
        self._putters = deque(each for each in self._putters if each[0] is not ask)

    def _add(self, item: bytes) -> None:
        if self._getters:
            self._hand(self._getters.popleft(), item)
        else:
            self._items.append(item)

    def _hand(self, ask: Ask, item: bytes) -> None:
        ask.answer(item, partial(self._put_back, item))

    def _put_back(self, item: bytes) -> None:
        if self._getters:
            self._hand(self._getters.popleft(), item)
        else:
            self._items.appendleft(item)
