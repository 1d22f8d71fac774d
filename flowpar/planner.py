"""The state of one run: what to do next. No thread, no clock, no input or output.

A task moves along `MOVES` and nowhere else::

    waiting ──> ready ──> running ──> done
       │  ^       ^          │  ├───> failed
       │  └───────┴──────────┘  └───> waiting  (it gave a delayed value, or was not begun)
       └──> skipped       (ready again: another attempt)

Where a run has a cache, a task that is ready is judged first: it is then *cached*, and no value of
it is there, or it is let go to a lane. A value that is missed after all is fetched, or made again::

    waiting ──> ready ──(judged)──> cached ──(missed)──> waiting
                  └──> waiting      (what it needs is not there)

Every step counts, none scans: a task costs the same in a graph of a thousand and of a million.
"""

from __future__ import annotations

import collections
import heapq
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from flowpar.errors import CycleError, InternalError, TaskError
from flowpar.events import Counts
from flowpar.graph import Graph
from flowpar.limits import Limits
from flowpar.pools.depot import Held
from flowpar.pools.failures import type_name
from flowpar.pools.transport import TINY_TYPES, Report
from flowpar.sizes import size_of
from flowpar.status import (
    CACHED,
    DONE,
    FAILED,
    MOVES,
    READY,
    RUNNING,
    SKIPPED,
    WAITING,
    Ended,
    FunctionState,
    Status,
    Timing,
)
from flowpar.task import Function, code_of, is_constant, value

BATCH_SECONDS: Final = 0.005
"""How long a batch should take: long beside the 0.1 ms that sending one costs, short beside
what a person notices."""

LEAST_SECONDS: Final = 0.0003
"""How long a batch should take at least, even if that leaves another worker without one."""

HANDLING_SECONDS: Final = 1e-6
"""What a task costs a worker besides its own time."""

CHAIN_SHARE: Final = 0.1
"""Of a task's own time: what the moving of its argument costs, from where the task follows at once
on what returned that."""

SIZED_FROM: Final = 4096
"""Bytes; values that take less are not counted."""

BATCH_TASKS: Final = 1000
"""Tasks in a batch at most: beyond this, sending costs under 0.2 µs a task already."""

DEEPEST_EXPANSION: Final = 100_000
"""How many times a task may give a delayed value that gives a delayed value, and so on."""

CONSTANT_LANE: Final = "constant"
"""The lane of tasks that are values already, and never wait."""

SINGLE_LANE: Final = "async"
"""The lane whose pool takes one call at a time."""

_RANKS: Final = (1 << 40) - 1


class Expansion(NamedTuple):
    """What a task returned that returned a delayed value."""

    source: int
    """The task whose value it has."""
    first: int
    """The first of the tasks that came into being by that; they follow one another."""
    end: int
    """After the last."""


class Plan:
    """What is ready, running and finished in one run of a graph.

    Used by the thread that runs the scheduler only.

    Parameters
    ----------
    graph
        What to run; it may grow while it runs.
    lane_of
        Which lane, that is which pool, the tasks of a function wait for; asked once a function.
    limits
        How much there is of each resource; of one that is not named here there is one.
    rng
        Draws the jitter of retries.
    fetch
        Returns the value of a task that is cached, or something that stands for it, or None; not
        None itself: the run has a cache, and tasks that are ready are to be judged first.
    timing_of
        Returns what is known of a function from before; None: nothing is.

    Attributes
    ----------
    values
        What finished tasks returned, by index, as long as something needs it.
    sealed
        By index: what goes to other processes in place of some of these values.
    sizes
        By index: bytes of those that are large and in memory, about.
    held_bytes, peak_bytes
        The sum of that, now and at most.
    errors
        Why a task failed for good, by index.
    attempts
        How often each task was started, by index.
    unjudged
        Tasks that are ready, and of which nobody knows yet whether they have to run.
    became
        By index: the task whose value a task has that returned a delayed value.

    Notes
    -----
    Source: the split of deciding from doing is that of ninja's ``Plan``; batches as connected
    parts of the graph are our own.
    """

    is_guarded = False
    """Whether memory is limited: then what is inside containers counts in `sizes`, though it takes
    time to look."""
    trusts_memory = True
    """Whether what earlier runs tell of a function is believed before it was called in this one;
    not where one call more may take too much memory, or hold up values that somebody awaits."""
    largest_bytes = 0
    """Of all values that came."""
    most_tasks = BATCH_TASKS
    """Tasks in a batch at most."""

    _is_apart = False

    def __init__(
        self,
        graph: Graph,
        *,
        lane_of: Callable[[Function], str],
        limits: Mapping[str, float] | None = None,
        rng: random.Random | None = None,
        fetch: Callable[[int], object | None] | None = None,
        timing_of: Callable[[Function], Timing] | None = None,
    ) -> None:
        self.graph = graph
        self.values: dict[int, Any] = {}
        self.sealed: dict[int, object] = {}
        self.sizes: dict[int, int] = {}
        self.held_bytes = self.peak_bytes = 0
        self.errors: dict[int, BaseException] = {}
        self.reasons: dict[int, str] = {}
        self.status = bytearray()
        self.attempts = array("L")
        self.functions: dict[int, FunctionState] = {}
        self.ended: list[Ended] | None = None
        """Tasks that ended since the caller last looked; None: the caller does not look."""
        self.finished_targets: list[int] | None = None
        """Targets whose values came since `take_targets`; None: the caller does not ask."""
        self.unjudged: list[int] = []
        self.became: dict[int, int] = {}
        self.expansions: dict[int, Expansion] = {}
        self._fetch = fetch
        self._forced: set[int] = set()
        self._passed: set[int] = set()
        self._states: list[FunctionState] = []
        self._missing: list[int] = []
        self._uses: list[int] = []
        self._targets = collections.Counter(graph.targets)
        self._lane_of = lane_of
        self._limits = Limits(limits or {})
        self._rng = rng or random.Random()  # noqa: S311 - jitter is no secret
        self._ready: dict[str, list[int]] = {}
        self._later: list[tuple[float, int]] = []
        self._timing_of = timing_of
        self._timings: dict[int, Timing] = {}
        self._resting: dict[int, float] = {}
        self._alone: set[int] = set()
        self._alias: dict[int, int] = {}
        self._depth: dict[int, int] = {}
        self._late: set[int] = set()
        self._open = 0
        self._is_prioritised = False
        self._flying: dict[int, list[int]] = {}
        self._extend()

    # ------------------------------------------------------------------------------- asking

    @property
    def is_active(self) -> bool:
        """Whether a task has not come to its end."""
        return self._open > 0

    @property
    def is_stuck(self) -> bool:
        """Whether tasks wait, and nothing runs or will run that could free them."""
        return bool(self._open) and not (
            self._flying or self._later or self.unjudged or any(self._ready.values())
        )

    @property
    def is_running(self) -> bool:
        """Whether a task is running."""
        return bool(self._flying)

    def n_ready(self, lane: str) -> int:
        """Return how many tasks wait for this pool and nothing else."""
        return len(self._ready.get(lane, ()))

    def lanes(self) -> list[str]:
        """Return every lane that has tasks ready."""
        return [lane for lane, ready in self._ready.items() if ready]

    def next_retry(self) -> float | None:
        """Return when the next retry is due, or None if none waits."""
        return self._later[0][0] if self._later else None

    def counts(self) -> Counts:
        """Return how many tasks are where; costs a step for each function."""
        states = self.functions.values()
        return Counts(
            total=sum(state.total for state in states),
            done=sum(state.done for state in states),
            cached=sum(state.cached for state in states),
            failed=sum(state.failed for state in states),
            skipped=sum(state.skipped for state in states),
            running=sum(map(len, self._flying.values())),
        )

    def counts_by_name(self) -> dict[str, Counts]:
        """Return the counts of the functions of each name; costs a step for each that runs."""
        running = collections.Counter(
            self._states[index] for batch in self._flying.values() for index in batch
        )
        found: dict[str, Counts] = {}
        for state in self.functions.values():
            if state.total:  # else none of its tasks is needed
                name, counts = state.function.name, state.counts(running[state])
                found[name] = found[name] + counts if name in found else counts
        return found

    def state(self, index: int) -> FunctionState:
        """Return what is known of the function of a task."""
        return self._states[index]

    # ------------------------------------------------------------------------------- taking

    def part_all(self) -> None:
        """Have each task be a batch by itself from here on."""
        self._is_apart = True
        for state in self.functions.values():
            state.alone, state.joins = True, False

    def take(self, lane: str, share: int = 1) -> list[int]:
        """Return tasks to start now as one batch, and mark them running.

        Parameters
        ----------
        lane
            The pool that has room.
        share
            How many ready tasks the batch may take, so that other workers get some too.

        Returns
        -------
        list of int
            Indices, each after those that it depends on. Empty if nothing is ready.
        """
        ready = self._ready.get(lane)
        if not ready:
            return []
        while True:
            first = heapq.heappop(ready) & _RANKS
            if not (self._states[first].alone or first in self._alone or lane == SINGLE_LANE):
                return self._start(self._gather(first, lane, share))
            if self._acquire(first):
                return self._start([first])
            if not ready:
                return []

    def _start(self, batch: list[int]) -> list[int]:
        status, attempts = self.status, self.attempts
        for index in batch:
            if status[index] > READY:
                raise self._wrong_move(index, RUNNING)
            status[index] = RUNNING
            attempts[index] += 1
        self._flying[batch[0]] = batch
        return batch

    def _gather(self, first: int, lane: str, share: int) -> list[int]:  # noqa: C901, PLR0915
        """Return a batch that starts with a ready task and goes on depth first.

        A dependent joins when all that it still waits for is in the batch: its arguments then
        never leave the worker. When the batch is full, those still join that cost nothing, such as
        items: of a large value, only the item that is wanted travels; and those that follow alone
        on a large value, which is then never moved. Long, because it runs once a task.
        """
        ready, states, missing, status = self._ready[lane], self._states, self._missing, self.status
        dependents, alone, alias = self.graph.dependents, self._alone, self._alias
        judging = self._fetch is not None
        batch: list[int] = []
        chained: set[int] = set()
        left: dict[int, int] = {}
        stack = [first]
        seconds = 0.0
        full, prioritised = False, self._is_prioritised
        while True:  # noqa: PLR1702
            if not stack:
                if full or not ready or (share <= 1 and seconds > LEAST_SECONDS):
                    break
                following = ready[0] & _RANKS
                state = states[following]
                # One that nothing is known of might hold up the reports of those before it; what
                # earlier runs tell is believed of calls of one function among themselves.
                is_new = state is not states[first] and not state.timing.calls
                if state.alone or following in alone or is_new:
                    break
                heapq.heappop(ready)
                share -= 1
                stack.append(following)
            index = stack.pop()
            state = states[index]
            if not state.rides:
                if full and index not in chained:
                    continue
                timing = state.timing
                cost = timing.expected_seconds if timing.calls or self.trusts_memory else None
                seconds += (BATCH_SECONDS if cost is None else cost) + HANDLING_SECONDS
                full = seconds >= BATCH_SECONDS or len(batch) >= self.most_tasks
            batch.append(index)
            for dependent in dependents[index]:
                waits_for = missing[dependent]
                if waits_for > 1:
                    left[dependent] = waits_for = left.get(dependent, waits_for) - 1
                    if waits_for:
                        continue
                state = states[dependent]
                if prioritised and ready and ready[0] < dependent - state.priority:
                    continue  # something else that is ready comes first
                if (
                    status[dependent] == WAITING
                    and (
                        state.rides
                        or (state.lane == lane and not full and not judging)
                        or self._chains(index, dependent, chained)
                    )
                    and state.joins
                    and dependent not in alone
                    and dependent not in alias
                    and not (judging and not self._has_all(dependent, batch))
                ):
                    stack.append(dependent)
        return batch

    def _chains(self, index: int, dependent: int, chained: set[int]) -> bool:
        """Let a task follow at once whose argument costs more to move than that may delay.

        It would run next in any case: it waits for nothing else, and nothing else for what it gets.
        """
        first, second = self._states[index], self._states[dependent]
        chains = (
            first.timing.moves > 0
            and first.lane == second.lane
            and second.timing.calls > 0
            and self._fetch is None
            and len(self.graph.dependents[index]) == 1
            and index not in self._targets
            and first.timing.moving_seconds
            >= CHAIN_SHARE * second.timing.seconds / second.timing.calls
        )
        if chains:
            chained.add(dependent)
        return chains

    def _has_all(self, index: int, batch: list[int]) -> bool:
        """Return whether all that a task needs is in a batch, or there: not only known of."""
        needs = self.graph.dependencies[index]
        return all(need == batch[-1] or need in self.values or need in batch for need in needs)

    def wanted(self, batch: list[int]) -> frozenset[int]:
        """Return those of a batch whose values are needed outside it."""
        if len(batch) == 1 and not self.graph.order_only:
            return frozenset(batch)
        inside, targets, dependents = set(batch), self._targets, self.graph.dependents
        found = [i for i in batch if i in targets or not inside.issuperset(dependents[i])]
        return frozenset(found if not self.graph.order_only else self._taken(found, inside))

    def is_lent(self, index: int) -> bool:
        """Return whether more than one call takes the value of a task, or one more than once."""
        takers = self.graph.dependents[index]
        return len(takers) + self._targets[index] > 1 or any(
            self._states[taker].function.policy.retries for taker in takers
        )

    def _taken(self, indices: list[int], inside: set[int]) -> list[int]:
        """Return those whose values are taken, and not only waited for."""
        order_only, dependents = self.graph.order_only, self.graph.dependents
        return [
            index
            for index in indices
            if index in self._targets
            or any(
                (index, other) not in order_only
                for other in dependents[index]
                if other not in inside
            )
        ]

    # ----------------------------------------------------------------------------- settling

    def finish(self, batch: list[int], report: Report, now: float) -> list[int]:
        """Take in how a batch ended.

        Parameters
        ----------
        batch
            As `take` returned it.
        report
            As the pool returned it.
        now
            The time, for retries.

        Returns
        -------
        list of int
            Tasks that gave a delayed value: they count as running until `expand`, or `fail`, is
            called for each.
        """
        failed, expanded, unstarted = report.failed, report.expanded, report.unstarted
        self._flying.pop(batch[0], None)
        if self._states[batch[0]].limited:
            self._release(batch[0])
        if batch[0] in unstarted and not report.damaged:
            raise InternalError(f"{self.graph.key(batch[0])} was ready, and could not be started")
        if failed or expanded or unstarted:
            aside = {*failed, *expanded, *unstarted}
            made = [index for index in batch if index not in aside]
            # Times come in the order of the calls that were made: of all but the unstarted.
            skipped = set(unstarted)
            timed = [index for index in batch if index not in skipped]
        else:
            made = timed = batch
        self._learn(timed, report)
        self.values.update(report.values)
        self._weigh(report.values)
        lost = self._lost(batch, report) if self._late else []
        for index in unstarted:
            self._unstart(index)
        self._done(made)
        for index in lost:
            self._revive(index)
        for index, failure in failed.items():
            self.fail(index, failure.error, now)
        return list(expanded)

    def _lost(self, batch: list[int], report: Report) -> list[int]:
        """Return those whose values a task that came later needs, and that the batch did not send.

        They have to run again: their new dependents wait on.
        """
        late = self._late.intersection(batch)
        self._late -= late
        inside = set(batch)
        lost = sorted(late - report.values.keys() - report.failed.keys() - report.expanded.keys())
        lost = [index for index in lost if index not in report.unstarted]
        for index in lost:
            for dependent in self.graph.dependents[index]:
                if dependent not in inside:
                    self._missing[dependent] += 1
        return lost

    def _weigh(self, values: Mapping[int, object]) -> None:
        """Count the memory that values take which came just now."""
        for index, came in values.items():
            if type(came) in TINY_TYPES:
                continue
            size = size_of(came, deep=self.is_guarded)
            if size >= SIZED_FROM:
                self.held_bytes += size - self.sizes.get(index, 0)
                self.sizes[index] = size
                self.largest_bytes = max(self.largest_bytes, size)
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)

    def put_aside(self, index: int, value: object) -> None:
        """Let something stand for a value that takes no memory."""
        self.values[index] = value
        self.sealed.pop(index, None)
        self.held_bytes -= self.sizes.pop(index, 0)

    def _learn(self, timed: list[int], report: Report) -> None:
        states = self._states
        last = report.start
        clocked = report.cpu_seconds
        for index, end in zip(timed, report.ends, strict=False):
            timing = states[index].timing
            timing.calls += 1
            timing.seconds += end - last
            if clocked and index in clocked:
                timing.cpu_seconds += clocked[index]
                timing.clocked_seconds += end - last
                timing.delayed_seconds += report.delayed_seconds.get(index, 0.0)
            last = end
        for index, moved in report.values.items():
            if type(moved) is Held:
                timing = states[index].timing
                timing.moves += 1
                timing.moved_bytes += moved.size

    def _done(self, indices: Iterable[int]) -> None:  # noqa: C901, PLR0912
        """Mark tasks done, free their dependents, and let go of values nobody needs any more.

        Long, because it runs once a task.
        """
        status, missing, uses, values = self.status, self._missing, self._uses, self.values
        sizes = self.sizes
        dependents, dependencies = self.graph.dependents, self.graph.dependencies
        states, ended, targets = self._states, self.ended, self.finished_targets
        unneeded: list[int] = []
        aliases: list[int] = []
        n_done = 0
        for index in indices:  # noqa: PLR1702
            if status[index] != RUNNING:
                raise self._wrong_move(index, DONE)
            status[index] = DONE
            states[index].done += 1
            n_done += 1
            if ended is not None:
                ended.append(Ended(index, Status.DONE))
            if targets is not None and index in self._targets:
                targets.append(index)
            for dependent in dependents[index]:
                missing[dependent] = left = missing[dependent] - 1
                if not left and status[dependent] == WAITING:
                    if dependent in self._alias:
                        aliases.append(dependent)
                    elif dependent not in self._resting:
                        self._make_ready(dependent)
            for need in dependencies[index]:
                uses[need] = left = uses[need] - 1
                if not left:
                    unneeded.append(need)
            if not uses[index]:
                values.pop(index, None)
                if sizes:
                    self.held_bytes -= sizes.pop(index, 0)
        self._open -= n_done
        self._drop(unneeded)
        if aliases:
            self._settle_aliases(aliases)

    def _settle_aliases(self, aliases: list[int]) -> None:
        """Give tasks the values of the delayed values that they returned, to any depth."""
        while aliases:
            index = aliases.pop()
            source = self._alias[index]
            if self.must_have(index) and not self._have(source):
                self._recall(source)
                continue
            del self._alias[index]
            self.became[index] = source
            # It was not called if what it returned was known.
            is_done = bool(self.attempts[index])
            self._end_well(index, is_done=is_done)
            if source in self.values:
                self.values[index] = self.values[source]
                if source in self.sizes:  # until that is dropped, it is counted twice
                    self.sizes[index] = self.sizes[source]
                    self.held_bytes += self.sizes[index]
            self._drop_use(source)
            if self.finished_targets is not None and index in self._targets:
                self.finished_targets.append(index)
            aliases += self._free_dependents(index)
            self._let_go(index)
            if not self._uses[index]:
                self.values.pop(index, None)
                self.held_bytes -= self.sizes.pop(index, 0)

    def _end_well(self, index: int, *, is_done: bool) -> None:
        self._move(index, DONE if is_done else CACHED)
        self._count(index, 1)
        self._open -= 1
        if self.ended is not None:
            self.ended.append(Ended(index, Status.DONE if is_done else Status.CACHED))

    def _count(self, index: int, change: int) -> None:
        state = self._states[index]
        if self.status[index] == DONE:
            state.done += change
        else:
            state.cached += change

    def _free_dependents(self, index: int) -> list[int]:
        """Make ready what waited for a task alone; return those that take its value for theirs."""
        aliases = []
        for dependent in self.graph.dependents[index]:
            self._missing[dependent] -= 1
            if self._missing[dependent] or self.status[dependent] != WAITING:
                continue
            if dependent in self._alias:
                aliases.append(dependent)
            elif dependent not in self._resting:
                self._make_ready(dependent)
        return aliases

    def fail(self, index: int, error: BaseException, now: float) -> bool:
        """Record that an attempt failed; return whether there will be another.

        A final failure skips all that depends on the task, directly or not. The task is of a batch
        that was given to `finish` or to `lose`.
        """
        state = self._states[index]
        policy = state.function.policy
        may_retry = _is_one_of(error, policy.retry_on) and not (
            isinstance(error, TaskError) and error.is_final
        )
        if may_retry and self.attempts[index] <= policy.retries:
            self._wait(index)
            doubled = policy.retry_delay * 2.0 ** min(self.attempts[index] - 1, 30)
            pause = doubled * self._rng.uniform(0.75, 1.25)
            self._alone.add(index)
            self._resting[index] = now + pause
            heapq.heappush(self._later, (now + pause, index))
            return True
        self._move(index, FAILED)
        state.failed += 1
        self._open -= 1
        self.errors[index] = error
        self._let_go(index)
        if self.ended is not None:
            self.ended.append(Ended(index, Status.FAILED))
        self._skip_dependents(index)
        return False

    def spoil(self, index: int, error: BaseException) -> None:
        """Record that a target's value cannot be had after all, though its task ended well."""
        self._count(index, -1)
        self._move(index, FAILED)
        self._states[index].failed += 1
        self.errors[index] = error
        self.values.pop(index, None)

    def _skip_dependents(self, culprit: int) -> None:
        stack = [culprit]
        why = f"{self.graph.key(culprit)} failed"
        while stack:
            for dependent in self.graph.dependents[stack.pop()]:
                if self.status[dependent] == WAITING:
                    self._skip(dependent, why)
                    stack.append(dependent)

    def _skip(self, index: int, why: str) -> None:
        self._move(index, SKIPPED)
        self._resting.pop(index, None)
        self._let_go(index)
        self._states[index].skipped += 1
        self._open -= 1
        self.reasons[index] = why
        self._alias.pop(index, None)
        if self.ended is not None:
            self.ended.append(Ended(index, Status.SKIPPED))

    def lose(self, batch: list[int], guilty: int | None = None) -> None:
        """Undo the start of a batch that will not be reported: its worker is gone, or refused it.

        Parameters
        ----------
        batch
            As `take` returned it. The attempts are not counted, and from now on each of these
            tasks travels alone.
        guilty
            The task that is to blame: its attempt counts, and `fail` is to be called for it.
        """
        self._flying.pop(batch[0], None)
        if self._states[batch[0]].limited:
            self._release(batch[0])
        self._alone.update(batch)
        for index in batch:
            if index != guilty:
                self._unstart(index)

    def _unstart(self, index: int) -> None:
        self._wait(index)
        self.attempts[index] -= 1
        if not self._missing[index]:
            self._make_ready(index)

    def _wait(self, index: int) -> None:
        self._move(index, WAITING)
        if self._fetch is not None:
            # What it needs may have been recalled since it was ready.
            self._missing[index] = self._unsettled(index)

    def wake(self, now: float) -> None:
        """Make those tasks ready whose wait before another attempt is over."""
        while self._later and self._later[0][0] <= now:
            due, index = heapq.heappop(self._later)
            if self._resting.get(index) != due:
                continue
            del self._resting[index]
            # It may have lost, with its worker, what it needs: then that comes first.
            if not self._missing[index]:
                self._make_ready(index)

    def postpone(self, batch: list[int], aside: set[int], due: float) -> list[int]:
        """Undo the start of some of a batch, until a time; return the rest of it.

        Parameters
        ----------
        batch
            As `take` returned it.
        aside
            Those that cannot start yet. What needs them and is in the batch waits for them.
        due
            When they are to be judged again.
        """
        left = []
        for index in batch:
            if index in aside:
                self._resting[index] = due
                heapq.heappush(self._later, (due, index))
            elif aside.isdisjoint(self.graph.dependencies[index]):
                left.append(index)
                continue
            aside.add(index)
            self._unstart_quietly(index)
        del self._flying[batch[0]]
        if left:
            self._flying[left[0]] = left
        elif self._states[batch[0]].limited:
            self._release(batch[0])
        return left

    def _unstart_quietly(self, index: int) -> None:
        self._move(index, WAITING)
        self.attempts[index] -= 1
        self._missing[index] = self._unsettled(index)

    def change_lane(self, function: Function, lane: str) -> None:
        """Let the tasks of a function wait for another pool."""
        state = self.functions[function.number]
        old = self._ready.get(state.lane, [])
        state.lane = lane
        staying: list[int] = []
        moving: list[int] = []
        for entry in old:
            (moving if self._states[entry & _RANKS] is state else staying).append(entry)
        if moving:
            old[:] = staying
            heapq.heapify(old)
            for entry in moving:
                heapq.heappush(self._ready.setdefault(lane, []), entry)

    # ---------------------------------------------------------------------------- expanding

    def expand(self, index: int, source: int) -> None:
        """Let a task have the value of another, which it returned in place of one.

        Parameters
        ----------
        index
            The task that returned a delayed value; `finish` named it.
        source
            That delayed value, which the graph has been grown by.

        Raises
        ------
        CycleError
            If this has been going on for `DEEPEST_EXPANSION` levels.
        OptionError
            If a task needs more of a resource than there is. In either case nothing has changed.
        """
        depth = self._depth.get(index, 0) + 1
        if depth > DEEPEST_EXPANSION:
            name = self._states[index].function.name
            raise CycleError(
                f"{name} has been giving delayed values that give delayed values for "
                f"{depth:,} levels: it seems never to end",
                cycle=(name, name),
            )
        for task in self.graph.tasks[len(self.status) :]:
            self._function_state(task._function)  # raises, if it does, before anything changes
        first = len(self.status)
        self._extend()
        self.expansions[index] = Expansion(source, first, len(self.status))
        self._move(index, WAITING)
        self._missing[index] = 1 if self._fetch is None else 1 + self._unsettled(index)
        self._depth.pop(index, None)
        self._depth[source] = max(depth, self._depth.get(source, 0))
        self._alias[index] = source
        self._uses[source] += 1
        dependents = self.graph.dependents
        if dependents[source]:
            dependents[source].append(index)  # type: ignore[attr-defined]
        else:
            dependents[source] = [index]
        if self._is_settled(source):
            self._missing[index] -= 1
            if not self._missing[index]:
                self._settle_aliases([index])
        elif self.status[source] in {FAILED, SKIPPED}:
            self._skip_dependents(source)
        elif self._fetch is not None:
            return  # it is on its way
        elif self.status[source] == RUNNING:
            self._late.add(source)
        else:
            self._revive(source)

    def _is_available(self, index: int) -> bool:
        if self.status[index] == DONE and index not in self.values:
            task = self.graph.tasks[index]
            if is_constant(task):
                self.values[index] = task._args[0]
        return self.status[index] == DONE and index in self.values

    def _revive(self, source: int) -> None:
        """Run tasks again whose values were let go of, and that a new task needs."""
        stack = [source]
        while stack:
            index = stack.pop()
            if self.status[index] != DONE or index in self.values:
                continue
            self._move(index, WAITING)
            self._states[index].done -= 1
            self._open += 1
            needs = self.graph.dependencies[index]
            self._missing[index] = sum(not self._is_available(need) for need in needs)
            for need in needs:
                self._uses[need] += 1
                if not self._is_available(need):
                    stack.append(need)
            if not self._missing[index]:
                self._make_ready(index)

    def _extend(self) -> None:
        """Take in the tasks that the graph has and the plan does not know yet."""
        graph, first = self.graph, len(self.status)
        tasks, dependencies = graph.tasks, graph.dependencies
        new = range(first, len(tasks))
        self.status.extend(bytes(len(new)))
        self.attempts.extend(array("L", bytes(array("L").itemsize * len(new))))
        doomed: list[int] = []
        if not first:
            self._missing = list(map(len, dependencies))
            self._uses = list(map(len, graph.dependents))
            for index in graph.targets:
                self._uses[index] += 1
        else:
            doomed = self._extend_counters(new)
        functions, states = self.functions, self._states
        constants = []
        for index in new:
            function = tasks[index]._function
            state = functions.get(function.number) or self._function_state(function)
            states.append(state)
            if state.lane == CONSTANT_LANE:
                constants.append(index)
                continue
            state.total += 1
            if state.keeps:
                self._uses[index] += 1
        self._open += len(new) - len(constants)
        for index in constants:
            self._take_constant(index)
        for index in doomed:
            self._skip_dependents(index)
        for index in new:
            if not self._missing[index] and self.status[index] == WAITING:
                self._make_ready(index)

    def _extend_counters(self, new: range) -> list[int]:
        """Count what new tasks wait for; return what they need of tasks that failed."""
        status, first = self.status, new.start
        doomed = []
        for index in new:
            needs = self.graph.dependencies[index]
            self._missing.append(len(needs))
            self._uses.append(len(self.graph.dependents[index]))
            for need in needs:
                if need >= first:
                    continue
                self._uses[need] += 1
                order_only = (need, index) in self.graph.order_only
                if self._is_settled(need) or (order_only and status[need] == DONE):
                    self._missing[index] -= 1
                elif status[need] == DONE:
                    self._revive(need)
                elif status[need] == RUNNING and not order_only and self._fetch is None:
                    self._late.add(need)
                elif status[need] in {FAILED, SKIPPED}:
                    doomed.append(need)
        return doomed

    def _function_state(self, function: Function) -> FunctionState:
        known = self.functions.get(function.number)
        if known is not None:
            return known
        lane = CONSTANT_LANE if function.call is value else self._lane_of(function)
        self._limits.check(function)
        state = FunctionState(
            function,
            lane,
            alone=self._is_apart or function.policy.runs_alone,
            joins=not (self._is_apart or function.policy.runs_alone or function.after),
            priority=function.policy.priority << 40,
            rides=function.is_cheap and function.policy.pool is None,
            limited=bool(function.policy.limit),
            keeps=not function.policy.pure,
            timing=self._timing(function),
        )
        self.functions[function.number] = state
        self._is_prioritised |= bool(state.priority)
        return state

    def _timing(self, function: Function) -> Timing:
        code = code_of(function.call)
        timing = self._timings.get(code)
        if timing is None:
            timing = Timing() if self._timing_of is None else self._timing_of(function)
            self._timings[code] = timing
        return timing

    def _take_constant(self, index: int) -> None:
        self.status[index] = DONE
        self.values[index] = self.graph.tasks[index]._args[0]
        for dependent in self.graph.dependents[index]:
            self._missing[dependent] -= 1
        if not self._uses[index]:
            del self.values[index]

    # ------------------------------------------------------------------------------ judging

    def must_have(self, index: int) -> bool:
        """Return whether the value of a task is needed, and not only what it is known by."""
        return index in self._forced or index in self._targets

    def hit(self, index: int, known: object = None) -> None:
        """Take a task as done: what it would give is known.

        Parameters
        ----------
        index
            A task that is ready.
        known
            Its value, or what stands for it, if `must_have` says that it is needed.
        """
        self._end_well(index, is_done=False)
        if known is not None:
            self.values[index] = known
        if self.finished_targets is not None and index in self._targets:
            self.finished_targets.append(index)
        aliases = self._free_dependents(index)
        if index not in self._passed:
            self._let_go(index)
        if not self._uses[index]:
            self.values.pop(index, None)
        if aliases:
            self._settle_aliases(aliases)

    def pass_over(self, index: int) -> None:
        """Take a task as done whose value is never kept; it runs if what runs needs it after all.

        So what it needs itself is not let go of, until nothing can need it any more.
        """
        self._passed.add(index)
        self.hit(index)

    def miss(self, index: int) -> bool:
        """Let a task run, once what it needs is there; return whether it is already.

        What is known and not there is fetched, or runs again. The task is then to be judged anew,
        since that may have given another value.
        """
        order_only = self.graph.order_only
        for need in self.graph.dependencies[index]:
            if not self._is_settled(need):
                continue
            is_missed = (
                need in self._passed if (need, index) in order_only else not self._have(need)
            )
            if is_missed:
                self._recall(need)
        left = self._unsettled(index)
        if left:
            self._move(index, WAITING)
            self._missing[index] = left
            return False
        return True

    def let_run(self, index: int) -> None:
        """Let a task that is ready, and was missed, run as soon as its pool has room."""
        self._let_run(index)

    def recall(self, index: int) -> None:
        """Let a task run again whose value turned out not to be there."""
        self.values.pop(index, None)
        self._recall(index)

    def _is_settled(self, index: int) -> bool:
        if self._fetch is None:
            return self._is_available(index)
        return self.status[index] in {DONE, CACHED}

    def _unsettled(self, index: int) -> int:
        return sum(not self._is_settled(need) for need in self.graph.dependencies[index])

    def _have(self, index: int) -> bool:
        """Return whether the value of a settled task is there, or was fetched."""
        if index in self.values or self._is_available(index):
            return True
        if self._fetch is None:
            return False
        known = self._fetch(index)
        if known is not None:
            self.values[index] = known
        return known is not None

    def _recall(self, index: int) -> None:
        """Make again a value that is known and not there; all that waits, waits for it too."""
        self._forced.add(index)
        if not self._is_settled(index):
            return
        self._count(index, -1)
        self._open += 1
        self._move(index, WAITING)
        for dependent in self.graph.dependents[index]:
            if self.status[dependent] == WAITING:
                self._missing[dependent] += 1
        if index in self._passed:
            self._passed.discard(index)
        else:
            for need in self.graph.dependencies[index]:
                self._uses[need] += 1
        source = self.became.pop(index, None)
        if source is not None:
            self._alias[index] = source
            self._uses[source] += 1
            self._missing[index] = self._unsettled(index) + (not self._is_settled(source))
            if not self._missing[index]:
                self._settle_aliases([index])
            return
        self._missing[index] = self._unsettled(index)
        if not self._missing[index]:
            self._make_ready(index)

    # ------------------------------------------------------------------------------- within

    def _make_ready(self, index: int) -> None:
        if self.status[index] != WAITING:
            raise self._wrong_move(index, READY)
        self.status[index] = READY
        if self._fetch is None:
            self._let_run(index)
        else:
            self.unjudged.append(index)

    def _let_run(self, index: int) -> None:
        state = self._states[index]
        # One number orders by priority, then by rank: numbers compare faster than tuples.
        entry = index - state.priority
        lane = self._ready.get(state.lane)
        if lane is None:
            lane = self._ready[state.lane] = []
        heapq.heappush(lane, entry)

    def _acquire(self, index: int) -> bool:
        """Hold the resources that a task needs; if one is short, it waits until that is freed."""
        state = self._states[index]
        return self._limits.acquire(state.function.policy.limit, index - state.priority)

    def _release(self, index: int) -> None:
        for entry in self._limits.release(self._states[index].function.policy.limit):
            lane = self._states[entry & _RANKS].lane
            heapq.heappush(self._ready.setdefault(lane, []), entry)

    def _let_go(self, index: int) -> None:
        for need in self.graph.dependencies[index]:
            self._drop_use(need)

    def take_targets(self) -> list[int]:
        """Return the targets that finished since the last call, each as often as it is one."""
        found, self.finished_targets = self.finished_targets or [], []
        return [index for index in found for _ in range(self._targets[index])]

    def drop_target(self, index: int) -> None:
        """Let go of a target's value, once it was handed over."""
        for _ in range(self._targets.pop(index, 0)):
            self._drop_use(index)

    def _drop_use(self, index: int) -> None:
        self._uses[index] -= 1
        if not self._uses[index]:
            self._drop([index])

    def _drop(self, unneeded: list[int]) -> None:
        """Let go of values that nothing can need any more, and of what only those could need."""
        for index in unneeded:
            self.values.pop(index, None)
        if self.sealed or self.sizes:
            for index in unneeded:
                self.sealed.pop(index, None)
                self.held_bytes -= self.sizes.pop(index, 0)
        stack = [index for index in unneeded if index in self._passed] if self._passed else []
        while stack:
            index = stack.pop()
            self._passed.discard(index)
            for need in self.graph.dependencies[index]:
                self._uses[need] -= 1
                if self._uses[need]:
                    continue
                self.values.pop(need, None)
                self.sealed.pop(need, None)
                self.held_bytes -= self.sizes.pop(need, 0)
                if need in self._passed:
                    stack.append(need)

    def _move(self, index: int, to: int) -> None:
        if (self.status[index], to) not in MOVES:
            raise self._wrong_move(index, to)
        self.status[index] = to

    def _wrong_move(self, index: int, to: int) -> InternalError:
        here = Status(self.status[index]).name.lower()
        return InternalError(
            f"{self.graph.key(index)} cannot go from {here} to {Status(to).name.lower()}"
        )

    def waiting(self) -> Iterator[int]:
        """Yield the tasks that wait for others; only a plan that is stuck is asked."""
        return (index for index, status in enumerate(self.status) if status == WAITING)


def _is_one_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Return whether an exception is of one of these types, or stands for one that is."""
    if isinstance(error, kinds):
        return True
    names = error.type_names if isinstance(error, TaskError) else ()
    return any(type_name(kind) in names for kind in kinds)
