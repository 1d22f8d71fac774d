"""Says of each task that is ready whether it has to run; the cache of one run.

A task's key is made of its function and of the digests of what it gets. Of what another task gives
that is the digest of the value: no value is loaded to judge, and where a rerun gives an equal one,
nothing after it runs::

    Plan.unjudged ──> key ──> Store.lookup ──> Plan.hit    (cached: frees its dependents)
                                         └───> Plan.miss ──> Plan.let_run
"""

from __future__ import annotations

import contextlib
import random
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import astuple, replace
from typing import Final

from flowpar.caching.cache import Cache
from flowpar.caching.files import facts_learned, is_unchanged, learn_facts
from flowpar.caching.keeping import Expected, Keeper, Kept, Small, digester, keep_expansion
from flowpar.caching.objects import INLINE_UP_TO, Stored
from flowpar.caching.reasons import in_words, undeclared_text
from flowpar.caching.store import Trace
from flowpar.errors import FlowparWarning
from flowpar.graph import Graph
from flowpar.likeness import Likeness
from flowpar.planner import Plan
from flowpar.pools.transport import Report
from flowpar.status import CACHED, READY, Timing
from flowpar.task import Function, Task
from flowpar.taskkeys import Kind, TaskKeys

EXPANSION: Final = "expansion"

OTHER_CODE: Final = (
    "a worker process has other code of it than this one, as if a file had been edited or a module "
    "reloaded meanwhile"
)

CHANGED: Final = "an argument of it was changed, or a file written to, while it ran"

NOT_PURE: Final = "it is not pure, and always runs"


class Judge:
    """Judges the tasks of one run, and has the cache keep what they gave.

    Used by the thread that runs the scheduler only.

    Parameters
    ----------
    cache
        Where.
    graph
        What runs.
    seed_of
        Gives the seed of a task; None: the run has none.
    is_nested
        Whether a task waits for this run: it then waits for nobody.
    is_quiet
        Whether nobody is warned of anything: nothing runs, it is only asked.
    replays
        Whether what tasks wrote when they ran is wanted of those that are known.

    Attributes
    ----------
    expansions
        Tasks that are known to have returned a delayed value, with it: to be expanded.
    likeness
        Tells why its tasks run.
    missed
        Tasks that have to run, as far as is known.
    """

    def __init__(
        self,
        cache: Cache,
        graph: Graph,
        *,
        seed_of: Callable[[int], int] | None = None,
        is_nested: bool = False,
        is_quiet: bool = False,
        replays: bool = False,
    ) -> None:
        self.cache = cache
        self.store = cache.store()
        self.expansions: list[tuple[int, Task]] = []
        self.missed: set[int] = set()
        self._graph = graph
        self._plan: Plan
        self._is_nested = is_nested
        self._is_quiet = is_quiet
        self._replays = replays
        self._hits: list[int] = []
        self._told: set[str] = set()
        self._keys = TaskKeys(graph, seed_of, self._say)
        self._whys = self._keys.whys
        self._traces: dict[int, Trace] = {}
        self._refused: dict[int, Trace] = {}
        self._small: dict[bytes, bytes] = {}
        self._forgotten: set[int] = set()
        self._current: set[bytes] = set()
        self._made: set[int] = set()
        self._habits: dict[bytes, tuple[float | str, ...]] | None = None
        self._new_habits: dict[bytes, tuple[float | str, ...]] = {}
        self._codes_now: dict[tuple[str, str], bytes | None] = {}
        self.likeness = Likeness(graph, self._keys, self.store, self._current)
        self._owners: dict[bytes, int] = {}
        self._parked: dict[bytes, list[int]] = {}
        self._held: set[bytes] = set()
        self._changes = 0
        self._version: object = None
        self._n_put = 0
        self._judged_at: dict[int, int] = {}
        self._audited: dict[int, Trace] = {}
        self._noted: set[bytes] = set()
        self._rng = random.Random()  # noqa: S311 - a sample is no secret
        learn_facts(self.store.file_facts())
        digester().new_epoch()

    def attend(self, plan: Plan) -> None:
        """Judge the tasks of this plan from now on."""
        self._plan = plan
        self._keys.became = plan.became

    # ------------------------------------------------------------------------------ judging

    def judge(self) -> None:
        """Judge all that is ready, and what becomes ready by that."""
        plan = self._plan
        while plan.unjudged:
            indices, plan.unjudged = plan.unjudged, []
            self._count_changes()
            self._judged_at.update(dict.fromkeys(indices, self._changes))
            keys = {index: self._keys.make(index) for index in indices}
            found = self.store.lookup([key for key in keys.values() if key is not None])
            self._small = self._wanted_objects(keys, found)
            for index, key in keys.items():
                if plan.status[index] == READY:
                    self._decide(index, found.get(key) if key is not None else None)

    def _wanted_objects(
        self, keys: Mapping[int, bytes | None], found: Mapping[bytes, Trace]
    ) -> dict[bytes, bytes]:
        """Return the small objects of tasks whose values are needed, read at one time."""
        traces = [
            found[key]
            for index, key in keys.items()
            if key is not None and key in found and self._plan.must_have(index)
        ]
        return self.store.small(
            [trace.object for trace in traces if trace.object and trace.size <= INLINE_UP_TO]
        )

    def _decide(self, index: int, trace: Trace | None) -> None:
        kind, plan = self._keys.kind(index), self._plan
        if kind.passes and self._keys.pass_on(index):
            if plan.must_have(index):
                self._miss(index)
            else:
                plan.reasons[index] = "its value is not kept, and nothing that runs needs it"
                plan.pass_over(index)
            return
        if trace is None:
            self._miss(index)
        elif trace.kind == EXPANSION:
            self._replay(index, trace)
        else:
            self._take(index, trace, kind)

    def _take(self, index: int, trace: Trace, kind: Kind) -> None:
        """Take a trace for the value of a task, unless something speaks against it."""
        plan, known = self._plan, None
        if trace.codes and kind.is_pure:
            trace = self._with_code_of_now(trace)
        why = self._objection(index, trace, kind)
        if not why and plan.must_have(index):
            known = self._load_from(trace)
            if known is None:
                why = self._loss(index, trace)
        if why:
            self._refuse(index, trace, why)
            return
        self._keys.know(index, trace.value)
        self._traces[index] = trace
        self._current.add(trace.key)
        plan.reasons.pop(index, None)
        if self._replays:
            self._hits.append(index)
        plan.hit(index, known)

    def _with_code_of_now(self, trace: Trace) -> Trace:
        """Return a trace with the digest that its value has now, if classes in it were edited.

        Their methods count with the value, for whoever calls them.
        """
        now = self._codes_now
        for place in ((module, name) for module, name, _ in trace.codes):
            if place not in now:
                now[place] = digester().part_at(*place)
        if all(now[module, name] == digest for module, name, digest in trace.codes):
            return trace
        kept = self._load_from(trace)
        if kept is not None:
            # Loading runs the user's code; if that fails it is made again.
            with contextlib.suppress(Exception), digester().noting() as codes:
                digest = digester().values.digest(kept.load(), "result")
                named = tuple((*place, code) for place, code in codes.items())
                renewed = replace(trace, value=digest, codes=named)
                self.store.put(renewed, None)
                return renewed
        return replace(trace, object=None, value=b"")

    def _loss(self, index: int, trace: Trace) -> str:
        if trace.object is None:
            return "its value is wanted, and was not kept"
        return self._whys.get(index) or "its value is gone from the cache"

    def _objection(self, index: int, trace: Trace, kind: Kind) -> str:
        if not kind.is_pure:
            return NOT_PURE
        if not trace.value:
            return "the code of a class in its value was edited"
        age = time.time() - trace.created
        if kind.expires is not None and not 0 <= age <= kind.expires:
            return f"expired: it is {age:,.0f} s old, and stays {kind.expires:g} s"
        for path, digest in trace.files:
            if not is_unchanged(path, digest):
                return f"the file {path} that it returned is gone or was changed"
        if self.cache.audit > self._rng.random():
            self._audited.setdefault(index, trace)
        return "audited: it is up to date, and runs to see" if index in self._audited else ""

    def _refuse(self, index: int, trace: Trace, why: str) -> None:
        self._whys[index] = why
        self._refused[index] = trace
        self._miss(index)

    def _replay(self, index: int, trace: Trace) -> None:
        """Have the delayed value expanded that a task is known to have returned."""
        stored = self._load_from(trace) if self._keys.kind(index).is_pure else None
        try:
            task = stored.load() if stored is not None else None
        except Exception:  # noqa: BLE001 - a damaged object, or code that is no more: it runs again
            task = None
        if isinstance(task, Task):
            self.expansions.append((index, task))
        else:
            self._refuse(index, trace, "the delayed value that it returned cannot be read")

    def doubt(self, index: int) -> None:
        """Let a task run whose delayed value is known, and does not fit."""
        self._whys[index] = "the delayed value that it returned does not fit any more"
        self._miss(index)

    def _miss(self, index: int) -> None:
        self._plan.reasons.pop(index, None)
        self.missed.add(index)
        if not self._plan.miss(index):
            return  # it is judged again when what it needs is there
        key = self._claimable(index)
        if key is not None:
            owner = self._owners.setdefault(key, index)
            if owner != index:
                self._parked.setdefault(key, []).append(index)
                return
        self._plan.let_run(index)

    def _claimable(self, index: int) -> bytes | None:
        """Return the key of a task whose value one may take from another that has the same key."""
        kind = self._keys.kind(index)
        return self._keys.get(index) if kind.is_pure and kind.keeps else None

    def unpark(self) -> bool:
        """Judge again what waited for a like task; return whether there was any."""
        parked, self._parked = self._parked, {}
        self._owners.clear()
        for indices in parked.values():
            self._plan.unjudged += indices
        return bool(parked)

    # ------------------------------------------------------------------------------ running

    def keeper(self, batch: Collection[int], *, is_local: bool) -> Keeper:
        """Return what has the values of a batch digested and kept where they are made."""
        kinds = {index: self._keys.kind(index) for index in batch}
        digests = frozenset(index for index, kind in kinds.items() if not kind.passes)
        keeps = frozenset(
            index
            for index in digests
            if kinds[index].is_pure
            and (kinds[index].keeps or self._plan.must_have(index))
            and (not self._keys.is_made(index) or self._keys.get(index) is not None)
        )
        is_kept = self.store.is_usable and self.store.is_writable
        codes = {} if is_local or not is_kept else self._codes(keeps)
        return Keeper(self.store.folder, digests, keeps if is_kept else frozenset(), codes)

    def _codes(self, indices: Iterable[int]) -> dict[int, Expected]:
        """Return what the code of the functions of some tasks is, for who runs them elsewhere."""
        found: dict[int, Expected] = {}
        for index in indices:
            expected = self._keys.kind(index).expected
            if expected is not None:
                found[self._graph.tasks[index]._function.number] = expected
        return found

    def held_up(self, batch: list[int]) -> set[int]:
        """Return those of a batch that another process is computing, or has computed by now."""
        if self._is_nested or not self.store.is_usable:
            return set()
        keys = {index: self._claimable(index) for index in batch}
        aside = {index for index, key in keys.items() if key is not None and not self._claim(key)}
        self._count_changes()
        # What was judged before another wrote, even if that was seen for another batch.
        since = [index for index in batch if self._judged_at.pop(index, -1) != self._changes]
        if since:
            found = self.store.lookup([key for index in since if (key := keys[index]) is not None])
            for index, key in keys.items():
                trace = found.get(key) if key is not None else None
                if trace is not None and index not in aside and self._is_news(index, trace):
                    self._free(trace.key)
                    aside.add(index)
        for index in aside:
            self._owners.pop(keys[index] or b"", None)
        return aside

    def _count_changes(self) -> None:
        # Another run of this process uses the same store, and its commits are none of another's.
        version = self.store.version(), self.store.n_put - self._n_put
        self._changes += version != self._version
        self._version = version

    def _claim(self, key: bytes) -> bool:
        if key not in self._held and not self.store.claim(key):
            return False
        self._held.add(key)
        return True

    def _free(self, key: bytes) -> None:
        if key in self._held:
            self._held.discard(key)
            self.store.free(key, after=key)

    def _is_news(self, index: int, trace: Trace) -> bool:
        refused = self._refused.get(index)
        return refused is None or refused.created != trace.created

    # ---------------------------------------------------------------------------- recording

    def record(self, batch: Iterable[int], report: Report) -> None:
        """Take in how a batch ended, before the plan does."""
        for index in report.damaged:
            self.forget(index)
        aside = {*report.failed, *report.unstarted, *report.expanded}
        for index in batch:
            if index in aside:
                if index not in report.expanded:
                    self.release(index)
                continue
            if not self._keys.is_made(index):  # it rode with what it needs, and was never judged
                self._keys.make(index)
            self._record(index, report.kept.get(index))
            if index in report.output and index in self._made:
                self.store.put_output(self._traces[index], report.output[index])
            self.release(index)

    def _record(self, index: int, kept: Kept | None) -> None:
        kind, key = self._keys.kind(index), self._keys.get(index)
        if kind.passes and self._keys.pass_on(index):
            return
        self._keys.know(index, kept.digest if kept is not None else None)
        if kept is None:
            return
        if kept.is_broken:
            self.store.give_up(kept.trouble)
        elif kept.trouble:
            self._keys.say_uncacheable(index, kept.trouble)
        for path in kind.maker.undeclared(kept.opened):
            self._say_opened(index, path)
        if kept.is_foreign:
            self._keys.say_uncacheable(index, OTHER_CODE)
        elif key is not None and not self._keys.are_as_before(index):
            self._keys.say_uncacheable(index, CHANGED)
        elif key is not None and kept.digest is not None and kind.is_pure:
            self._check_audit(index, kept.digest)
            self._put(index, key, kept, "value")

    def _put(self, index: int, key: bytes, kept: Kept, what: str) -> None:
        function = self._graph.tasks[index]._function
        code = self._keys.kind(index).maker.code
        if code is None or kept.digest is None:
            return
        if code.digest not in self._noted:
            self._noted.add(code.digest)
            self.store.put_function(code.digest, code.components)
        trace = Trace(
            key=key,
            value=kept.digest,
            object=kept.object_digest,
            size=kept.size,
            seconds=kept.seconds,
            created=time.time(),
            function=code.digest,
            name=function.name,
            place=self._graph.key(index),
            parts=self.likeness.shown_parts(index),
            files=kept.files,
            codes=kept.codes,
            kind=what,
        )
        self._traces[index] = trace
        self._made.add(index)
        self._refused.pop(index, None)
        self.store.put(trace, kept.data)
        self._n_put += 1

    def record_expansion(self, index: int, source: Task) -> None:
        """Remember the delayed value that a task returned."""
        kind, key = self._keys.kind(index), self._keys.get(index)
        is_kept = self.store.is_usable and self.store.is_writable
        if key is not None and kind.is_pure and not kind.passes and is_kept:
            kept = keep_expansion(self.store.folder, source)
            if kept.is_broken:
                self.store.give_up(kept.trouble)
            elif not kept.trouble:
                self._put(index, key, kept, EXPANSION)
                del self._traces[index]  # it stands for no value
        self.release(index)

    def release(self, index: int) -> None:
        """Let go of the key of a task that ended, and judge those again that waited for it."""
        key = self._keys.get(index)
        if key is None:
            return
        self._free(key)
        if self._owners.get(key) == index:
            del self._owners[key]
            self._plan.unjudged += self._parked.pop(key, [])

    def _check_audit(self, index: int, digest: bytes) -> None:
        trace = self._audited.get(index)
        if trace is not None and trace.value != digest:
            place = self._graph.key(index)
            text = f"{place} gave another value than it did before, and nothing known had changed"
            self.store.note_event(f"audit: {text}")
            self._say(place, f"{text}: it depends on something that is not in its key")

    # ------------------------------------------------------------------------------- values

    def fetch(self, index: int) -> Stored | Small | None:
        """Return what stands for the value of a task that is known; None if it is not kept."""
        trace = self._traces.get(index)
        return None if trace is None else self._load_from(trace)

    def _load_from(self, trace: Trace) -> Stored | Small | None:
        if trace.object is None:
            return None
        found: Stored | bytes | None = self._small.get(trace.object)
        if found is None:
            found = self.store.fetch(trace.object, trace.size)
        return Small(found, trace.object) if isinstance(found, bytes) else found

    def forget(self, index: int) -> None:
        """Take away the object of a task's value, which cannot be read; the task runs again."""
        source = index
        while source in self._plan.became:
            source = self._plan.became[source]
        self._plan.values.pop(index, None)
        self._plan.values.pop(source, None)
        trace = self._traces.get(source)
        if trace is not None and trace.object is not None:
            self._whys[source] = "its value in the cache was damaged"
            self._small.pop(trace.object, None)
            if source in self._forgotten:
                # Else it would be made and lost for ever.
                self.store.give_up("a value was damaged, made again, and is damaged again")
            self._forgotten.add(source)
            self.store.forget_object(trace.object)

    def take_output(self) -> dict[int, str]:
        """Return what tasks wrote when they ran that were found since the last time."""
        hits, self._hits = self._hits, []
        keys = {index: self._traces[index].key for index in hits if index in self._traces}
        output = self.store.outputs([self._traces[index] for index in keys]) if keys else {}
        return {index: output[key] for index, key in keys.items() if key in output}

    # ------------------------------------------------------------------------------- habits

    def recall(self, function: Function) -> Timing | None:
        """Return what the cache remembers of how a function uses a CPU."""
        code = self._keys.kind_of(function).maker.code
        if self._habits is None:
            self._habits = self.store.habits()
        known = None if code is None else self._habits.get(code.digest)
        try:
            return None if known is None else Timing(*known)  # type: ignore[arg-type]
        except TypeError:  # of another version
            return None

    def remember(self, function: Function, habits: Timing) -> None:
        """Have the cache remember how a function uses a CPU."""
        code = self._keys.kind_of(function).maker.code
        if code is not None and (habits.looks or habits.placed or habits.earlier_seconds):
            if not habits.looks and (known := self.recall(function)) is not None:
                habits = replace(known, earlier_seconds=habits.earlier_seconds)
            numbers = astuple(habits)
            if (self._habits or {}).get(code.digest) != numbers:
                self._new_habits[code.digest] = numbers

    # ------------------------------------------------------------------------------- ending

    def tend(self) -> float | None:
        """Write what has waited long enough; return in how many seconds to look again."""
        return self.store.tend()

    def close(self) -> None:
        """Write what waits, and let go of every key."""
        for key in list(self._held):
            self._free(key)
        self._take_back()
        self.store.put_file_facts(facts_learned())
        self.store.put_habits(self._new_habits)
        self.store.commit()
        if self.cache.max_bytes is not None or self.cache.max_age is not None:
            self.cache.prune()

    def _take_back(self) -> None:
        """Forget what was made of large arguments that were changed meanwhile."""
        for index in self._keys.changed_meanwhile():
            key = self._keys.get(index)
            if key is not None and index in self._made:
                self.store.forget_call(key)
                self._keys.say_uncacheable(index, CHANGED)

    # -------------------------------------------------------------------------------- texts

    def reason(self, index: int) -> str | None:
        """Return why a task ran, or has to; None of one that was not judged."""
        if self._plan.status[index] == CACHED:
            return None
        if index in self._whys:
            return self._whys[index]
        if not self._keys.kind(index).is_pure:
            return NOT_PURE
        if self._keys.kind(index).passes:
            return "its value is not kept"
        return in_words(self.likeness.differences(index)) if index in self._keys.parts else None

    def accept(self, index: int) -> bool:
        """Keep the value of a task's last like call; False if more than its code has changed.

        That this was done is noted among the events of the cache.
        """
        kind = self._keys.kind(index)
        trace = self.likeness.renewed(index) if kind.is_pure else None
        if trace is None or kind.maker.code is None:
            return False
        self.store.put_function(kind.maker.code.digest, kind.maker.code.components)
        self.store.put(trace, None)
        text = f"accepted: {self._graph.key(index)} has the value that its former code gave"
        self.store.note_event(text)
        return True

    def trace_of(self, index: int) -> Trace | None:
        """Return the trace of a task that is known."""
        while index in self._plan.became:
            index = self._plan.became[index]
        return self._traces.get(index)

    def _say_uncacheable(self, index: int, why: str) -> None:
        self._whys[index] = f"it cannot be kept: {why}"
        name = self._graph.tasks[index]._function.name
        self._say(name, f"what {name} returns is not kept, and it always runs: {why}")

    def _say_opened(self, index: int, path: str) -> None:
        name = self._graph.tasks[index]._function.name
        self._say(f"{name} opened", undeclared_text(name, path))

    def _say(self, about: str, text: str) -> None:
        if about not in self._told and not self._is_quiet:
            self._told.add(about)
            warnings.warn(text, FlowparWarning, stacklevel=2)
