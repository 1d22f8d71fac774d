"""The loop: takes batches from the plan, hands them to pools, hears how they ended.

One thread, the caller's, owns all state. Pools call back from threads of their own, but a callback
only puts what it got on a queue::

    Plan.take ──> Batch ──> pool.apply_async(execute, (batch,)) ──> worker
      ^                                                               │
    Plan.finish <── queue <── callback(report), error_callback(error) ┘
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flowpar.arguments import gather
from flowpar.errors import (
    Cancelled,
    CycleError,
    InternalError,
    NotPicklable,
    TaskError,
    WorkerDied,
    add_note,
)
from flowpar.events import Observers
from flowpar.experience import recall
from flowpar.graph import Graph
from flowpar.lanes import Flight, Lane
from flowpar.ledger import Ledger
from flowpar.literals import Literals
from flowpar.notes import describe
from flowpar.pilot import Pilot
from flowpar.placement import THREADED, TRIAL, WAITING, Placement
from flowpar.planner import Plan
from flowpar.pools import native, shared, worker
from flowpar.pools.depot import Held
from flowpar.pools.failures import text_of
from flowpar.pools.home import seal, warn_of_disk
from flowpar.pools.resources import cpu_count
from flowpar.pools.serial import SerialPool
from flowpar.pools.threads import ThreadPool
from flowpar.pools.ticket import announce
from flowpar.pools.transport import (
    KEPT,
    SEALED,
    TINY_TYPES,
    Batch,
    Report,
    prepare_module,
    references,
)
from flowpar.pools.worker import execute
from flowpar.record import Run, failure_of
from flowpar.sampling import Samples
from flowpar.settings import Options
from flowpar.spilling import Guard
from flowpar.status import READY, FunctionState, Timing
from flowpar.task import LITERAL, Function, Task
from flowpar.telling import TICK, Teller
from flowpar.trial import LOOK_EVERY

if TYPE_CHECKING:
    from flowpar.judge import Judge
    from flowpar.stragglers import Stragglers

_LABELS: Final = {"threads": "thread", WAITING: "waiting thread", TRIAL: "trial thread"}
"""What the threads of each lane are called: they are others."""

PATIENCE: Final = 0.05
"""Seconds that a batch may take in this process where flowpar chose to make its calls here. They
were quick when it was sent; if the next are not, they may belong elsewhere."""

AGAIN: Final = 0.02
"""Seconds after which it is looked again whether another process has computed a value."""


class Scheduler:
    """Runs one graph once.

    Parameters
    ----------
    graph
        What to run.
    options
        How.
    observers
        Who hears of it, besides those in the options.
    clock
        Seconds, as `time.perf_counter`.
    """

    def __init__(
        self,
        graph: Graph,
        options: Options,
        *,
        observers: Iterable[object] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._options = options
        self._clock = clock
        self._report = None if options.report is None else _checked(options.report)
        self._nested = worker.is_inside_task() or worker.IN_PROCESS
        self._placement = Placement(
            self._scheduler_name(), workers=options.workers, is_seeded=options.seed is not None
        )
        self._graph = graph
        self._ledger = Ledger()
        self._judge = self._make_judge()
        self._plan = Plan(
            graph,
            lane_of=self._placement.lane_of,
            limits=options.limits,
            fetch=None if self._judge is None else self._judge.fetch,
            # Without a cache the plan holds nothing that does not pickle: it goes with errors.
            timing_of=recall if self._judge is None else self._recall,
        )
        if options.max_tasks_per_worker or getattr(options.scheduler, "max_tasks_per_worker", None):
            self._plan.part_all()
        limit = options.memory_limit
        self._guard = None if limit is None else Guard(self._plan, limit)
        self._lanes: dict[str, Lane] = {}
        self._literals = Literals()
        self._stragglers = self._make_stragglers()
        self._outcomes: queue.SimpleQueue[tuple[Flight, Report | BaseException]] = (
            queue.SimpleQueue()
        )
        self._cancelled = threading.Event()
        self.deliver: Callable[[Any], object] | None = None
        """Given the value of each target as it is there; the run then lets go of it."""
        self._native_width: int | None = None
        self._ledger.begin = clock()
        self._final: BaseException | None = None
        self.record = Run(graph, self._plan, self._ledger)
        heard = Observers([*observers, *options.observers], announce)
        self._teller = Teller(heard, self.record, self._plan, self._lanes, clock=clock)
        self._pilot = Pilot(self._plan, self._placement, self._has_processes)
        self.record.placement = self._pilot.choices
        if self._judge is not None:
            self._judge.attend(self._plan)
            self.record.tasks.reason_of = self._judge.reason

    def _make_judge(self) -> Judge | None:
        cache = self._options.cache
        if cache is None:
            return None
        from flowpar.judge import Judge  # noqa: PLC0415 - runs without a cache do not load it

        seed_of = None if self._options.seed is None else self._seed
        return Judge(
            cache,
            self._graph,
            seed_of=seed_of,
            is_nested=self._nested,
            replays=self._options.capture == "all",
        )

    def _make_stragglers(self) -> Stragglers | None:
        if not self._options.speculate:
            return None
        from flowpar.stragglers import Stragglers  # noqa: PLC0415 - few runs have them

        return Stragglers(self._plan)

    def _recall(self, function: Function) -> Timing:
        """Return what is remembered of how a function uses a CPU."""
        known = recall(function)
        if self._judge is None or known.looks:
            return known
        kept = self._judge.recall(function) or known
        if self._placement.is_free(function):
            return kept
        known.earlier_seconds = known.earlier_seconds or kept.earlier_seconds
        return known

    def _has_processes(self) -> bool:
        return "processes" in self._lanes or shared.has_processes(
            self._options.workers, self._options.start_method, **self._options.life
        )

    def _scheduler_name(self) -> str:
        # A task that computes has a CPU already: what it computes runs there.
        if self._nested:
            return "sync"
        scheduler = self._options.scheduler
        return scheduler if isinstance(scheduler, str) else "given"

    # ---------------------------------------------------------------------------- the loop

    def run(self) -> Run:
        """Run the graph to its end and return the record.

        Raises
        ------
        BaseException
            The first that a task raised, under ``on_error="raise"``; a `RunFailed` with all,
            under "continue". Either way its ``run`` is the record.
        """
        self._teller.tell_start()
        status = "interrupted"
        if self._options.sample is not None:
            self.record.tasks.samples = Samples(self._pids, self._options.sample)
        try:
            self._loop()
            while not self._load_targets():
                self._loop()
            status = "failed" if self._plan.errors else "done"
        except KeyboardInterrupt as interrupt:
            self._final = interrupt
            raise
        except BaseException as error:
            status = "failed"
            self._final = error
            raise
        finally:
            self._end(status)
        self._raise_failures()
        return self.record

    def cancel(self) -> None:
        """End the run from another thread, as soon as can be."""
        self._cancelled.set()
        self._outcomes.put((None, None))  # type: ignore[arg-type]

    def _pids(self) -> list[int]:
        pools = [lane.pool for lane in list(self._lanes.values())]
        return [pid for pool in pools if hasattr(pool, "pids") for pid in pool.pids()]

    def _loop(self) -> None:
        plan = self._plan
        if self.deliver is not None:
            plan.trusts_memory = False
            plan.finished_targets = [i for i in set(self._graph.targets) if i in plan.values]
            self._deliver(self.deliver)
        while plan.is_active:
            plan.wake(self._clock())
            if self._judge is not None:
                self._decide(self._judge)
            if self._pilot.is_watching:
                self._watch()
            self._fill()
            if plan.is_stuck and not (self._judge is not None and self._judge.unpark()):
                raise self._stuck()
            if plan.is_active:
                self._hear()
            self._teller.tick()
            if self._stops:
                break

    def _watch(self) -> None:
        """Look at what is tried; what is known well enough makes room for the next."""
        self._limit_native()
        for trial in self._pilot.watch():
            for flight in self._lanes[TRIAL].flights:
                if flight.trial is trial:
                    flight.lane.slots += 1

    def _decide(self, judge: Judge) -> None:
        """Have all judged that is ready, and expand what is known to be expanded."""
        while self._plan.unjudged or judge.expansions:
            judge.judge()
            self._teller.tell_output(judge.take_output())
            if judge.expansions:
                self._replay(judge, *judge.expansions.pop())
            else:
                self._pass_on()  # it may miss a value, which is then to be made again

    def _replay(self, judge: Judge, index: int, returned: Task) -> None:
        """Expand a task that is known to have returned this, without calling it."""
        size = len(self._graph)
        try:
            self._plan.expand(index, self._graph.grow([returned])[0])
        except Exception:  # noqa: BLE001 - what was kept may not fit any more: it is made anew
            self._graph.shrink(size)
            judge.doubt(index)

    def _fill(self) -> None:
        # Inline last: it keeps this thread busy, so the others should be at work by then.
        for name in sorted(self._plan.lanes(), key="inline".__eq__):
            lane = self._lanes.get(name) or self._open_lane(name)
            while len(lane.flights) < lane.slots:
                indices = self._take(lane)
                if not indices:
                    break
                self._send(lane, indices)
                if name == "inline":
                    return  # what it finished may be wanted elsewhere

    def _take(self, lane: Lane) -> list[int]:
        """Return a batch for a lane that has room; empty if there is nothing to do in it now."""
        while True:
            share = self._plan.n_ready(lane.name) // (2 * lane.slots)
            indices = self._plan.take(lane.name, max(1, share) if lane.slots > 1 else 1 << 30)
            if self._judge is not None and indices:
                indices = self._clear(self._judge, indices)
                if not indices:
                    continue
            return indices

    def _clear(self, judge: Judge, indices: list[int]) -> list[int]:
        """Return those of a batch that no other process is computing."""
        aside = judge.held_up(indices)
        return self._plan.postpone(indices, aside, self._clock() + AGAIN) if aside else indices

    def _hear(self) -> None:
        """Wait for an outcome, then take in all that have come."""
        outcomes = self._outcomes
        try:
            flight, outcome = outcomes.get(timeout=self._patience())
            while True:
                if self._cancelled.is_set():
                    raise Cancelled("the run was cancelled")
                del flight.lane.flights[flight]
                flight.lane.heard.append(self._clock())
                if flight.trial is not None:
                    flight.lane.slots -= flight.trial.is_known
                    self._pilot.end(flight.trial)
                self._take_in(flight, outcome)
                flight, outcome = outcomes.get_nowait()
        except queue.Empty:
            return

    def _patience(self) -> float | None:
        if not self._outcomes.empty():
            return 0.0
        limits = []
        retry = self._plan.next_retry()
        if retry is not None:
            limits.append(min(max(0.0, retry - self._clock()), 86_400.0))
        if self._teller.is_watched:
            limits.append(TICK)
        if self._judge is not None and (due := self._judge.tend()) is not None:
            limits.append(due)
        if self._pilot.is_watching:
            limits.append(LOOK_EVERY)
        if self._stragglers is not None:
            limits += self._tend(self._stragglers)
        if not self._plan.is_running and self._plan.lanes():
            limits.append(0.0)
        return min(limits, default=None)

    def _tend(self, stragglers: Stragglers) -> list[float]:
        """Have late calls made twice; return in how many seconds to look again."""
        lanes = [lane for lane in self._lanes.values() if hasattr(lane.pool, "repeat")]
        idle = [lane for lane in lanes if not self._plan.n_ready(lane.name)]
        dues = [stragglers.tend(each.pool, each.flights.items(), self._clock()) for each in idle]
        return [due for due in dues if due is not None]

    def _stuck(self) -> BaseException:
        keys = tuple(self._graph.key(index) for index in self._plan.waiting())[:20]
        return CycleError(
            "these tasks wait for one another, since one of them returned a delayed value that "
            f"needs it: {', '.join(keys)}",
            cycle=(*keys, *keys[:1]),
        )

    # ------------------------------------------------------------------------------ sending

    def _open_lane(self, name: str) -> Lane:
        pool = self._pool(name)
        is_local = name not in {"processes", "given"}
        if not is_local:
            for state in self._plan.functions.values():
                prepare_module(getattr(state.function.call, "__module__", None) or "__main__")
        if name == "processes":
            pool.renew_functions()  # what they capture may have changed since the last run
        if name in {"threads", WAITING}:
            self._limit_native()
        slots = 1 if name == TRIAL else getattr(pool, "slots", 1)
        lane = self._lanes[name] = Lane(name, pool, slots, is_local)
        return lane

    def _limit_native(self) -> None:
        """Have BLAS and its like start no more threads than ours leave CPUs for."""
        if self._native_width is None:
            width = self._options.workers or cpu_count()
            self._native_width = width if native.limit(width) else 0

    def _pool(self, name: str) -> Any:
        workers = self._options.workers
        if name == "inline":
            return SerialPool()
        if name == "async":
            return shared.coroutine_pool()
        if name in THREADED:
            # Of this run alone: threads that wait for a run, of whatever a task started, must not
            # be those that this run needs.
            width = THREADED[name] if workers is None or name == TRIAL else workers
            return ThreadPool(width, label=_LABELS[name])
        if name == "processes":
            return shared.process_pool(workers, self._options.start_method, **self._options.life)
        return _adapted(self._options.scheduler)

    def _send(self, lane: Lane, indices: list[int]) -> None:
        batch = self._batch(lane, indices)
        flight = Flight(lane, indices, batch, self._clock(), self._outcomes)
        lane.flights[flight] = None
        self._teller.tell_task_starts(lane, indices)
        function: Callable[..., Any] = execute
        if lane.name == TRIAL:
            flight.trial = self._pilot.begin(batch)
            function = flight.trial.run
        try:
            ticket = lane.pool.apply_async(
                function, (batch,), callback=flight.succeed, error_callback=flight.fail
            )
        except Exception as error:  # noqa: BLE001 - a pool of the user's may refuse in its own way
            flight.fail(error)
            return
        lane.flights[flight] = ticket

    def _batch(self, lane: Lane, indices: list[int]) -> Batch:
        graph, values, call_of = self._graph, self._plan.values, self._graph.call
        calls = [call_of(index) for index in indices]
        functions: dict[int, Callable[..., Any]] = {}
        for number in {call[1] for call in calls}:
            function = self._plan.functions[number].function
            functions[number] = function.call if lane.is_local else function.as_sent()
            if function.is_coroutine and lane.name != "async":
                from flowpar.pools.coroutines import Awaited  # noqa: PLC0415 - brings asyncio

                functions[number] = Awaited(functions[number])
        taken = {need for call in calls if call[2] != LITERAL for need in references(call)}
        inputs = {need: values[need] for need in taken.difference(indices)}
        first = graph.tasks[indices[0]]._function
        if lane.is_local and self._judge is None:
            self._load(inputs)
        elif lane.name == "processes":
            self._seal(inputs)
            calls = self._literals.lend(calls, inputs)
        batch = Batch(calls, functions, inputs, self._plan.wanted(indices))
        batch.readers = frozenset(
            number for number in functions if self._plan.functions[number].rides
        )
        if len(indices) == 1:
            batch.timeout = first.policy.timeout
            batch.memory = first.policy.memory
        elif lane.is_local and self._placement.scheduler == "auto":
            batch.patience = PATIENCE
        batch.stop_on_error = self._options.on_error == "raise"
        batch.capture = self._options.capture
        if self._options.seed is not None:
            batch.seeds = {index: self._seed(index) for index in indices}
        if self._judge is not None:
            batch.keeper = self._judge.keeper(indices, is_local=lane.is_local)
            if lane.is_local:
                batch.lent = frozenset(filter(self._plan.is_lent, batch.wanted))
        return batch

    def _load(self, inputs: dict[int, object]) -> None:
        """Load inputs that came as pickles, once for all who take them in this process."""
        for index, value in inputs.items():
            if type(value) in SEALED:
                try:
                    loaded = value.load()  # type: ignore[attr-defined]
                    inputs[index] = self._plan.values[index] = loaded
                    self._plan.sealed[index] = value
                except (Exception, SystemExit):  # noqa: BLE001, S112 - the worker will say so
                    continue

    def _seal(self, inputs: dict[int, object]) -> None:
        """Pickle inputs that are values of this process once for all who take them elsewhere."""
        for index, value in inputs.items():
            if type(value) in TINY_TYPES or type(value) in SEALED:
                continue
            if index not in self._plan.sealed:
                try:
                    self._plan.sealed[index] = seal(value)
                except (Exception, SystemExit):  # noqa: BLE001, S112 - who pickles the batch names it
                    continue
            inputs[index] = self._plan.sealed[index]

    def _seed(self, index: int) -> int:
        return seed_of(self._options.seed or 0, self._graph.key(index))

    # ------------------------------------------------------------------------------ hearing

    def _take_in(self, flight: Flight, outcome: Report | BaseException) -> None:
        if isinstance(outcome, Report):
            self._take_report(flight, outcome)
        else:
            self._take_error(flight, outcome)
        self._pass_on()

    def _pass_on(self) -> None:
        """Tell who listens what has ended."""
        self._teller.tell_task_ends()
        if self.deliver is not None:
            self._deliver(self.deliver)

    def _take_report(self, flight: Flight, report: Report) -> None:
        plan = self._plan
        pool, now = flight.lane.pool.name, self._clock()
        self._ledger.write(flight.indices, report, pool, sent=flight.begun, heard=now)
        if flight.lane.is_local:
            self._literals.distrust()
        for index, failure in report.failed.items():
            self._explain(failure.error, index, flight.lane, report.worker)
        self._teller.take_output(report)
        if self._judge is not None:
            self._judge.record(flight.indices, report)
        for index in plan.finish(flight.indices, report, now):
            self._expand(index, report.expanded[index], flight.lane)
        if self._guard is not None:
            self._guard.tend()
        if self._placement.scheduler == "auto":
            # All in a batch of another lane are much the same.
            self._pilot.consider(
                flight.indices if flight.trial else flight.indices[:1],
                is_surprised=flight.batch.patience is not None and bool(report.unstarted),
            )
        if flight.lane.name == "processes":
            for value in report.values.values():
                if type(value) is Held:
                    warn_of_disk(value.path)

    def _take_error(self, flight: Flight, error: BaseException) -> None:
        """Decide who of a batch is to blame for an error of its pool."""
        indices = flight.indices
        if isinstance(error, KeyboardInterrupt):
            self._note_unheard(flight)
            raise error
        if isinstance(error, WorkerDied) and error.position is not None:
            guilty = indices[error.position]
        elif len(indices) > 1:
            # One of them cannot be sent, or not be loaded: alone, each answers for itself.
            self._plan.lose(indices)
            return
        else:
            guilty = indices[0]
        state = self._plan.state(guilty)
        if isinstance(error, NotPicklable) and self._may_stay_here(state, error):
            self._placement.stay(state.function)
            self._plan.change_lane(state.function, "threads")
            self._plan.lose(indices)
            return
        self._plan.lose(indices, guilty)
        name = f"process {error.pid}" if isinstance(error, WorkerDied) else "?"
        place = (flight.lane.pool.name, name)
        self._ledger.write_lost(guilty, place, flight.begun, self._clock())
        self._explain(error, guilty, flight.lane, name)
        if self._judge is not None:
            self._judge.release(guilty)
        self._plan.fail(guilty, error, self._clock())

    def _may_stay_here(self, state: FunctionState, error: NotPicklable) -> bool:
        """Return whether a task whose arguments cannot be sent may run in a thread instead."""
        return (
            state.lane == "processes"
            and self._placement.is_free(state.function)
            and not error.path.startswith("result")
        )

    def _expand(self, index: int, returned: object, lane: Lane) -> None:
        """Let the delayed value that a task returned be computed in its place."""
        size = len(self._graph)
        try:
            if type(returned) in SEALED:
                returned = returned.load()  # type: ignore[attr-defined]
            source = returned if isinstance(returned, Task) else gather(returned)
            self._plan.expand(index, self._graph.grow([source])[0])
            if self._judge is not None:
                self._judge.record_expansion(index, source)
        except InternalError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - what came may hold anything
            self._graph.shrink(size)
            failure = worker.tame(error)
            add_note(failure, "This came of the delayed value that the task returned.")
            self._explain(failure, index, lane, "this process")
            self._plan.fail(index, failure, self._clock())

    # ------------------------------------------------------------------------------ telling

    def _load_targets(self) -> bool:
        """Load the values that were asked for; one that cannot be is a failure of its task.

        Returns
        -------
        bool
            False: a value that the cache had is damaged, and its task has to run.
        """
        for index in set(self._graph.targets):
            self._load_target(index)
        return not self._plan.is_active or self._stops

    @property
    def _stops(self) -> bool:
        return bool(self._plan.errors) and self._options.on_error == "raise"

    def _load_target(self, index: int) -> bool:
        value = self._plan.values.get(index)
        if type(value) not in SEALED:
            return index in self._plan.values
        try:
            self._plan.values[index] = value.load()  # type: ignore[union-attr]
        except (Exception, SystemExit) as error:  # noqa: BLE001 - loading runs the user's code
            if self._judge is not None and type(value) in KEPT:
                self._judge.forget(index)
                self._plan.recall(index)
                return False
            failure = TaskError(
                "the result arrived, and cannot be loaded: "
                f"{type(error).__name__}: {text_of(error)}",
                is_final=True,
            )
            failure.__cause__ = error
            lane = self._lanes[self._plan.state(index).lane]
            self._explain(failure, index, lane, "this process")
            self._plan.spoil(index, failure)
            return False
        return True

    def _deliver(self, deliver: Callable[[Any], object]) -> None:
        ended = self._plan.take_targets()
        for index in ended:
            if self._load_target(index):
                deliver(self._plan.values[index])
        for index in set(ended):
            if self._plan.status[index] > READY:  # else its value is to be made again
                self._plan.drop_target(index)

    def _explain(self, error: BaseException, index: int, lane: Lane, worker_name: str) -> None:
        """Add what is known of the task to what it raised."""
        task, attempt = self._graph.tasks[index], self._plan.attempts[index]
        site = f", built at {task._site}" if task._site else ""
        of = f" of {task._function.policy.retries + 1}" if task._function.policy.retries else ""
        add_note(
            error,
            f"flowpar: task {self._graph.key(index)} = {describe(task)}, attempt {attempt}{of} in "
            f"{lane.pool.name} ({worker_name}){site}",
        )
        if isinstance(error, TaskError) and "key" not in vars(error):
            error.key = self._graph.key(index)  # type: ignore[attr-defined]

    # ------------------------------------------------------------------------------- ending

    def _end(self, status: str) -> None:
        """Stop what still runs, and close the record."""
        self._pilot.close(None if self._judge is None else self._judge.remember)
        if self._judge is not None:
            self._judge.close()
        if self._native_width:
            native.release(self._native_width)
        for lane in self._lanes.values():
            for flight in lane.flights:
                self._note_unheard(flight)
            tickets = [ticket for ticket in lane.flights.values() if ticket is not None]
            _cancel(lane.pool, tickets)
            if lane.name in {*THREADED, "given"} and lane.pool is not self._options.scheduler:
                lane.pool.close()  # made for this run
        run = self.record
        if run.tasks.samples is not None:
            run.tasks.samples.close()
        run.seconds = self._clock() - self._ledger.begin
        run.status = status
        run.error = self._final
        if self._final is not None:
            attach_run(self._final, run)
        self._teller.tick(is_last=True)
        self._write_down(run)
        self._teller.tell_end()

    def _write_down(self, run: Run) -> None:
        """Write the report, and what the cache keeps of the run; neither may hurt it."""
        judge, report = self._judge, self._report
        if judge is not None and not self._nested:
            _attempt("remembered", lambda: _remember(judge, run))
        if report is not None:
            _attempt("written down", lambda: run.report(report))

    def _note_unheard(self, flight: Flight) -> None:
        name = flight.lane.pool.name
        self._ledger.write_unheard(flight.indices, name, flight.begun, self._clock())

    def _raise_failures(self) -> None:
        errors = self.record.errors
        if not errors:
            return
        if self._options.on_error == "raise":
            error = next(iter(self._plan.errors.values()))
        else:
            error = failure_of(errors, self.record.counts.total)
        self.record.error = error
        attach_run(error, self.record)
        raise error


def _checked(report: str | os.PathLike[str]) -> Path:
    """Return where the report of a run goes; or raise now, and not at its end."""
    from flowpar.views.reports import report as views  # noqa: PLC0415 - most runs have none

    file = views.check_report(report)
    # Beside the run: it takes a second, for which nobody who has pressed Ctrl-C waits.
    threading.Thread(target=views.load_charts, name="flowpar-report", daemon=True).start()
    return file


def seed_of(seed: int, key: str) -> int:
    """Return the seed of a task in a run that has one."""
    text = f"{seed}:{key}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def attach_run(error: BaseException, run: Run) -> None:
    """Let an exception lead to the record of the run that it ended."""
    if not isinstance(getattr(error, "run", None), (Run, type(None))):
        return  # an attribute of the user's
    try:
        error.run = run  # type: ignore[attr-defined]
    except AttributeError:  # a class with slots: then the record is lost, the error is not
        return


def _cancel(pool: Any, tickets: list[object]) -> None:
    if tickets and hasattr(pool, "cancel_many"):
        pool.cancel_many(tickets)
        return
    for ticket in tickets:
        pool.cancel(ticket)


def _adapted(pool: Any) -> Any:
    if all(hasattr(pool, name) for name in ("slots", "cancel", "apply_async", "name")):
        return pool
    from flowpar.pools.foreign import ForeignPool  # noqa: PLC0415 - few runs have one

    return ForeignPool(pool)


def _remember(judge: Judge, run: Run) -> None:
    from flowpar.past import remember  # noqa: PLC0415 - runs without a cache do not load it

    remember(judge.store, run)


def _attempt(what: str, do: Callable[[], object]) -> None:
    """Do something with a run that has ended: its values are there, and are what counts."""
    try:
        do()
    except Exception as error:  # noqa: BLE001 - told to people
        announce(f"the run was not {what}: {type(error).__name__}: {error}")
