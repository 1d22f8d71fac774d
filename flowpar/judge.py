"""Says of each task that is ready whether it has to run; the cache of one run.

A task's key is made of its function and of the digests of what it gets. Of what another task gives
that is the digest of the value: no value is loaded to judge, and where a rerun gives an equal one,
nothing after it runs::

    Plan.unjudged ──> key ──> Store.lookup ──> Plan.hit    (cached: frees its dependents)
                                         └───> Plan.miss ──> Plan.let_run
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from flowpar.caching.cache import Cache
from flowpar.caching.code import Code, short_text
from flowpar.caching.digest import NotDigestible, hashed
from flowpar.caching.files import File, FileMissing, facts_learned, is_unchanged, learn_facts
from flowpar.caching.keeping import (
    Expected,
    Keeper,
    Kept,
    Small,
    digester,
    imported_of,
    keep_expansion,
)
from flowpar.caching.keys import KeyMaker, Literals, Part
from flowpar.caching.objects import INLINE_UP_TO, Stored
from flowpar.caching.reasons import (
    CONTAINER,
    DEPENDENCY,
    NEVER_RAN,
    Shown,
    difference,
    in_words,
    nearest,
    undeclared_text,
)
from flowpar.caching.store import Trace
from flowpar.errors import FlowparWarning
from flowpar.graph import Graph
from flowpar.planner import Plan
from flowpar.pools.transport import Report
from flowpar.status import CACHED, READY
from flowpar.task import ALL_REFS, Function, Ref, Task, Template, value

EXPANSION: Final = "expansion"

OTHER_CODE: Final = (
    "a worker process has other code of it than this one, as if a file had been edited or a module "
    "reloaded meanwhile"
)

NOT_PURE: Final = "it is not pure, and always runs"

MOST_SHOWN: Final = 100
"""Tasks in a container among the arguments that are told apart where people are told of them."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the cache does with the tasks of one function."""

    maker: KeyMaker
    passes: bool
    """Whether its values are not kept, and what needs one goes by its key."""
    is_pure: bool
    keeps: bool
    """Whether its values are worth a place; items of others are made again as fast."""
    expires: float | None
    expected: Expected | None
    """The code that processes should have of it; None: nothing can be said of that."""


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

    Attributes
    ----------
    expansions
        Tasks that are known to have returned a delayed value, with it: to be expanded.
    whys
        By index: why a task runs, where that is not what its last trace differs in.
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
    ) -> None:
        self.cache = cache
        self.store = cache.store()
        self.began = time.time()
        self.expansions: list[tuple[int, Task]] = []
        self.whys: dict[int, str] = {}
        self.parts: dict[int, list[Part]] = {}
        self._graph = graph
        self._plan: Plan
        self._seed_of = seed_of
        self._is_nested = is_nested
        self._is_quiet = is_quiet
        self.missed: set[int] = set()
        self._kinds: dict[int, _Kind] = {}
        self._literals = Literals()
        self._digests: dict[int, bytes | None] = {}
        self._keys: dict[int, bytes | None] = {}
        self._traces: dict[int, Trace] = {}
        self._refused: dict[int, Trace] = {}
        self._small: dict[bytes, bytes] = {}
        self._forgotten: set[int] = set()
        self._current: set[bytes] = set()
        self._owners: dict[bytes, int] = {}
        self._parked: dict[bytes, list[int]] = {}
        self._held: set[bytes] = set()
        self._changes = 0
        self._version: object = None
        self._n_put = 0
        self._judged_at: dict[int, int] = {}
        self._audited: dict[int, Trace] = {}
        self._noted: set[bytes] = set()
        self._earlier: dict[str, list[Trace]] = {}
        self._told: set[str] = set()
        self._rng = random.Random()  # noqa: S311 - a sample is no secret
        learn_facts(self.store.file_facts())
        digester().new_epoch()

    def attend(self, plan: Plan) -> None:
        """Judge the tasks of this plan from now on."""
        self._plan = plan

    # ------------------------------------------------------------------------------ judging

    def judge(self) -> None:
        """Judge all that is ready, and what becomes ready by that."""
        plan = self._plan
        while plan.unjudged:
            indices, plan.unjudged = plan.unjudged, []
            self._count_changes()
            self._judged_at.update(dict.fromkeys(indices, self._changes))
            keys = {index: self._key(index) for index in indices}
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
        kind, plan = self._kind(index), self._plan
        if kind.passes and self._keys[index] is not None:
            self._digests[index] = _passed(self._keys[index])
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

    def _take(self, index: int, trace: Trace, kind: _Kind) -> None:
        """Take a trace for the value of a task, unless something speaks against it."""
        plan, known = self._plan, None
        why = self._objection(index, trace, kind)
        if not why and plan.must_have(index):
            known = self._load_from(trace)
            if known is None:
                why = self._loss(index, trace)
        if why:
            self._refuse(index, trace, why)
            return
        self._digests[index] = trace.value
        self._traces[index] = trace
        self._current.add(trace.key)
        plan.reasons.pop(index, None)
        plan.hit(index, known)

    def _loss(self, index: int, trace: Trace) -> str:
        if trace.object is None:
            return "its value is wanted, and was not kept"
        return self.whys.get(index) or "its value is gone from the cache"

    def _objection(self, index: int, trace: Trace, kind: _Kind) -> str:
        if not kind.is_pure:
            return NOT_PURE
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
        self.whys[index] = why
        self._refused[index] = trace
        self._miss(index)

    def _replay(self, index: int, trace: Trace) -> None:
        """Have the delayed value expanded that a task is known to have returned."""
        stored = self._load_from(trace) if self._kind(index).is_pure else None
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
        self.whys[index] = "the delayed value that it returned does not fit any more"
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
        kind = self._kind(index)
        return self._keys.get(index) if kind.is_pure and kind.keeps else None

    def unpark(self) -> bool:
        """Judge again what waited for a like task; return whether there was any."""
        parked, self._parked = self._parked, {}
        self._owners.clear()
        for indices in parked.values():
            self._plan.unjudged += indices
        return bool(parked)

    # --------------------------------------------------------------------------------- keys

    def _key(self, index: int) -> bytes | None:
        """Return the key of a task all of whose dependencies are known; None if it has none."""
        kind = self._kind(index)
        key = None
        if kind.maker.trouble:
            self._say_uncacheable(index, kind.maker.trouble)
        else:
            try:
                digests, names = self._argument_digests(index)
            except FileMissing as error:  # the task itself will say so
                self.whys[index] = str(error)
            except NotDigestible as error:
                self._say_uncacheable(index, str(error))
            else:
                if digests is not None:
                    self.parts[index] = parts = kind.maker.parts(digests, names)
                    seed = None if self._seed_of is None else self._seed_of(index)
                    key = kind.maker.key(parts, seed)
        self._keys[index] = key
        return key

    def _argument_digests(self, index: int) -> tuple[list[bytes] | None, tuple[str, ...]]:
        """Return the digests of the arguments of a call, and the names of the last of them."""
        _, _, shape, args, kwargs = self._graph.call(index)
        names = tuple(kwargs or ())
        given = (*args, *kwargs.values()) if kwargs else args
        ignored = self._kind(index).maker.ignored(len(given), names)
        if shape == ALL_REFS and not ignored:
            found = [self.digest_of(need) for need in given]
        else:
            name = self._graph.tasks[index]._function.name
            paths = [f"{name}: argument {each}" for each in (*range(len(args)), *names)]
            found = [
                b"" if at in ignored else self._argument(argument, shape, paths[at])
                for at, argument in enumerate(given)
            ]
        for digest in found:
            if digest is None:
                self.whys[index] = "what it depends on has no digest, so it always runs"
                return None, names
        return found, names  # type: ignore[return-value]

    def _argument(self, argument: object, shape: int, path: str) -> bytes | None:
        if shape == ALL_REFS and type(argument) is int:
            return self.digest_of(argument)
        if type(argument) is Ref:
            return self.digest_of(argument.index)
        if type(argument) is not Template:
            return self._literals.digest(argument, path)
        pieces = [b"container", self._literals.digest(argument.make, path)]
        for part in argument.parts:
            digest = self._argument(part, shape, path)
            if digest is None:
                return None
            pieces.append(digest)
        return hashed(*pieces)

    def digest_of(self, index: int) -> bytes | None:
        """Return the digest of the value of a task that is known; None if it has none."""
        became = self._plan.became
        while index in became and not self._kind(index).passes:
            index = became[index]
        if index not in self._digests:
            task = self._graph.tasks[index]
            if task._function.call is not value:
                return None
            try:
                self._digests[index] = self._literals.digest(task._args[0], "a delayed value")
            except NotDigestible as error:
                self._say(task._function.name, str(error))
                self._digests[index] = None
        return self._digests[index]

    def _kind(self, index: int) -> _Kind:
        function = self._graph.tasks[index]._function
        kind = self._kinds.get(function.number)
        if kind is None:
            kind = self._kinds[function.number] = _kind_of(function)
        return kind

    # ------------------------------------------------------------------------------ running

    def keeper(self, batch: Collection[int], *, is_local: bool) -> Keeper:
        """Return what has the values of a batch digested and kept where they are made."""
        kinds = {index: self._kind(index) for index in batch}
        digests = frozenset(index for index, kind in kinds.items() if not kind.passes)
        keeps = frozenset(
            index
            for index in digests
            if kinds[index].is_pure
            and (kinds[index].keeps or self._plan.must_have(index))
            and self._keys.get(index, b"") is not None
        )
        is_kept = self.store.is_usable and self.store.is_writable
        codes = {} if is_local or not is_kept else self._codes(keeps)
        return Keeper(self.store.folder, digests, keeps if is_kept else frozenset(), codes)

    def _codes(self, indices: Iterable[int]) -> dict[int, Expected]:
        """Return what the code of the functions of some tasks is, for who runs them elsewhere."""
        functions = {self._graph.tasks[index]._function for index in indices}
        found = {function.number: self._kinds[function.number].expected for function in functions}
        return {number: expected for number, expected in found.items() if expected is not None}

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
            self.store.free(key, at_once=False)

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
            if index not in self._keys:  # it rode with what it needs, and was never judged
                self._key(index)
            self._record(index, report.kept.get(index))
            self.release(index)

    def _record(self, index: int, kept: Kept | None) -> None:
        kind, key = self._kind(index), self._keys[index]
        if kind.passes and key is not None:
            self._digests[index] = _passed(key)
            return
        self._digests[index] = kept.digest if kept is not None else None
        if kept is None:
            return
        if kept.is_broken:
            self.store.give_up(kept.trouble)
        elif kept.trouble:
            self._say_uncacheable(index, kept.trouble)
        for path in kept.opened:
            self._say_opened(index, path)
        if kept.is_foreign:
            self._say_uncacheable(index, OTHER_CODE)
        elif key is not None and kept.digest is not None and kind.is_pure:
            self._check_audit(index, kept.digest)
            self._put(index, key, kept, "value")

    def _put(self, index: int, key: bytes, kept: Kept, what: str) -> None:
        function = self._graph.tasks[index]._function
        code = self._kind(index).maker.code
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
            parts=self.shown_parts(index),
            files=kept.files,
            kind=what,
        )
        self._traces[index] = trace
        self._refused.pop(index, None)
        self.store.put(trace, kept.data)
        self._n_put += 1

    def record_expansion(self, index: int, source: Task) -> None:
        """Remember the delayed value that a task returned."""
        kind, key = self._kind(index), self._keys.get(index)
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
            self.store.execute("insert into event values (?, ?)", (time.time(), f"audit: {text}"))
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
            self.whys[source] = "its value in the cache was damaged"
            self._small.pop(trace.object, None)
            if source in self._forgotten:
                # Else it would be made and lost for ever.
                self.store.give_up("a value was damaged, made again, and is damaged again")
            self._forgotten.add(source)
            self.store.forget_object(trace.object)

    # ------------------------------------------------------------------------------- ending

    def tend(self) -> float | None:
        """Write what has waited long enough; return in how many seconds to look again."""
        return self.store.tend()

    def close(self) -> None:
        """Write what waits, and let go of every key."""
        for key in list(self._held):
            self._free(key)
        self.store.put_file_facts(facts_learned())
        self.store.commit()
        if self.cache.max_bytes is not None or self.cache.max_age is not None:
            self.cache.prune()

    # -------------------------------------------------------------------------------- texts

    def reason(self, index: int) -> str | None:
        """Return why a task ran, or has to; None of one that was not judged."""
        if self._plan.status[index] == CACHED:
            return None
        if index in self.whys:
            return self.whys[index]
        if not self._kind(index).is_pure:
            return NOT_PURE
        if self._kind(index).passes:
            return "its value is not kept"
        return in_words(self.differences(index)) if index in self.parts else None

    def differences(self, index: int) -> list[str]:
        """Return what has changed since the last call that was like that of a task."""
        code = self._kind(index).maker.code
        trace = self.nearest(index)
        if trace is None or code is None:
            return [NEVER_RAN]
        return difference(self.shown_parts(index), code, trace, self.store.components) or [
            NEVER_RAN
        ]

    def accept(self, index: int) -> bool:
        """Keep the value of a task's last like call; False if more than its code has changed.

        That this was done is noted among the events of the cache.
        """
        key, trace = self._keys.get(index), self.nearest(index)
        code = self._kind(index).maker.code
        if key is None or trace is None or code is None or not self._kind(index).is_pure:
            return False
        parts = self.shown_parts(index)
        same = [part[:2] for part in parts] == [part[:2] for part in trace.parts]
        if not same or trace.function == code.digest:
            return False
        self.store.put_function(code.digest, code.components)
        self.store.put(
            replace(trace, key=key, function=code.digest, parts=parts, created=time.time()), None
        )
        text = f"accepted: {self._graph.key(index)} has the value that its former code gave"
        self.store.execute("insert into event values (?, ?)", (time.time(), text))
        return True

    def trace_of(self, index: int) -> Trace | None:
        """Return the trace of a task that is known."""
        while index in self._plan.became:
            index = self._plan.became[index]
        return self._traces.get(index)

    def reason_of(self, trace: Trace) -> str:
        """Return why the call that left a trace ran."""
        earlier = self.store.earlier(trace.name, before=trace.created)
        last = nearest(trace.parts, trace.function, trace.place, earlier)
        if last is None:
            return NEVER_RAN
        code = Code(trace.function, self.store.components(trace.function))
        found = difference(trace.parts, code, last, self.store.components)
        return in_words(found) or NEVER_RAN

    def nearest(self, index: int) -> Trace | None:
        """Return the last trace that was like a task; not of one that another task has now."""
        function = self._graph.tasks[index]._function
        earlier = self._earlier.get(function.name)
        if earlier is None:
            earlier = self._earlier[function.name] = self.store.earlier(
                function.name, before=self.began
            )
        code = self._kind(index).maker.code
        return nearest(
            self.shown_parts(index),
            code.digest if code is not None else b"",
            self._graph.key(index),
            [trace for trace in earlier if trace.key not in self._current],
        )

    def shown_parts(self, index: int) -> tuple[Shown, ...]:
        """Return of each argument of a task its name, its digest, and what people are shown."""
        _, _, shape, args, kwargs = self._graph.call(index)
        if shape == ALL_REFS:
            texts = [self._task_text(need) for need in args]
        else:
            texts = [self._text(each) for each in (*args, *(kwargs or {}).values())]
        names = tuple(kwargs or ())
        maker = self._kind(index).maker
        shown = maker.texts(texts, names)
        parts = [
            (name, digest, text)
            for (name, digest), text in zip(self.parts[index], shown, strict=True)
        ]
        parts += self._parts_inside(args, kwargs)
        policy = self._graph.tasks[index]._function.policy
        if policy.version is not None:
            parts.append((" version", policy.version.encode(), repr(policy.version)))
        if self._seed_of is not None:
            parts.append((" seed", b"%d" % self._seed_of(index), "of the run"))
        return tuple(parts)

    def _parts_inside(
        self, args: Iterable[object], kwargs: Mapping[str, object] | None
    ) -> Iterator[Shown]:
        """Yield each of the tasks, if not too many, in the containers among the arguments."""
        for at, argument in enumerate((*args, *(kwargs or {}).values())):
            if type(argument) is Template:
                for number, need in enumerate(argument.refs()[:MOST_SHOWN]):
                    digest = self.digest_of(need) or b""
                    yield f" {at}.{number}", digest, self._task_text(need)

    def _text(self, argument: object) -> str:
        if type(argument) is Ref:
            return self._task_text(argument.index)
        if type(argument) is Template:
            return CONTAINER
        return repr(argument) if isinstance(argument, File) else short_text(argument)

    def _task_text(self, index: int) -> str:
        task = self._graph.tasks[index]
        if task._function.call is value:
            return short_text(task._args[0])
        return DEPENDENCY + self._graph.key(index)

    def _say_uncacheable(self, index: int, why: str) -> None:
        self.whys[index] = f"it cannot be kept: {why}"
        name = self._graph.tasks[index]._function.name
        self._say(name, f"what {name} returns is not kept, and it always runs: {why}")

    def _say_opened(self, index: int, path: str) -> None:
        name = self._graph.tasks[index]._function.name
        self._say(f"{name} opened", undeclared_text(name, path))

    def _say(self, about: str, text: str) -> None:
        if about not in self._told and not self._is_quiet:
            self._told.add(about)
            warnings.warn(text, FlowparWarning, stacklevel=2)


def _passed(key: bytes | None) -> bytes:
    return hashed(b"passed", key or b"")


def _expected_of(function: Function) -> Expected | None:
    try:
        code = digester().code(function.call)
    except NotDigestible:
        return None
    travels = getattr(function.call, "__module__", "__main__") == "__main__"
    return Expected(code.digest, imported_of(code) if travels else None)


def _kind_of(function: Function) -> _Kind:
    policy = function.policy
    is_gathering = function.is_cheap and function.name == "gathered"
    return _Kind(
        maker=KeyMaker(
            function.call, version=policy.version, ignore=policy.ignore, deps=policy.deps
        ),
        passes=policy.pure and (policy.cache is False or is_gathering),
        is_pure=policy.pure,
        keeps=policy.cache is not False and not function.is_cheap,
        expires=policy.expires,
        expected=_expected_of(function),
    )
