"""What tells a task from the last call that was like it: why it ran, or has to."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from flowpar.caching.code import Code, short_text
from flowpar.caching.files import File
from flowpar.caching.reasons import (
    CONTAINER,
    DEPENDENCY,
    NEVER_RAN,
    Earlier,
    Shown,
    difference,
    in_words,
)
from flowpar.caching.store import MOST_EARLIER, Store, Trace
from flowpar.graph import Graph
from flowpar.task import ALL_REFS, Ref, Template, value
from flowpar.taskkeys import TaskKeys

MOST_SHOWN: Final = 100
"""Tasks in a container among the arguments that are told apart where people are told of them."""

_MOST_SEARCHED: Final = 8
"""Tasks of one function for which all its traces are looked through; others have to do with
those of their places, and the newest."""


class _Past:
    """The earlier calls of the functions of one name.

    Parameters
    ----------
    store
        Where they are.
    name
        Of the functions.
    before
        A time: those that were made then or later are left out.
    places
        The keys of the tasks that are asked about.
    """

    def __init__(self, store: Store, name: str, before: float, places: set[str]) -> None:
        self.places = places
        self._store = store
        self._name = name
        self._before = before
        self._left = _MOST_SEARCHED
        limit = max(MOST_EARLIER, 2 * len(places))
        traces = store.earlier(name, before=before, limit=limit, places=places)
        self._earlier = Earlier(traces)
        self._is_whole = len(traces) < limit

    def nearest(
        self, parts: tuple[Shown, ...], function: bytes, place: str, taken: Collection[bytes] = ()
    ) -> Trace | None:
        """Return the trace that a call is like, as `Earlier.nearest` does."""
        found = self._earlier.nearest(parts, function, place, taken)
        own = [part[:2] for part in parts]
        if self._is_whole or (found is not None and own == [part[:2] for part in found.parts]):
            return found
        if not self._left:
            return found
        self._left -= 1
        digests = [digest for _, digest in own]
        traces = self._store.sharing(self._name, digests, before=self._before)
        if found is not None:
            traces = sorted([*traces, found], key=lambda trace: trace.created, reverse=True)
        return Earlier(traces).nearest(parts, function, place, taken)


class Likeness:
    """Finds the earlier calls that the tasks of one run are like, and what has changed since.

    Parameters
    ----------
    graph
        What runs.
    keys
        Of its tasks.
    store
        Where earlier calls are.
    current
        The keys of those calls that tasks of this run have taken; of the judge.
    """

    def __init__(
        self, graph: Graph, keys: TaskKeys, store: Store, current: Collection[bytes]
    ) -> None:
        self._graph = graph
        self._keys = keys
        self._store = store
        self._current = current
        self._began = time.time()
        self._pasts: dict[str, _Past] = {}

    def nearest(self, index: int) -> Trace | None:
        """Return the last trace that was like a task; not of one that another task has now."""
        name, place = self._graph.tasks[index]._function.name, self._graph.key(index)
        past = self._pasts.get(name)
        if past is None or place not in past.places:
            # Of all tasks of the function at one time; a graph may have grown since the last.
            tasks = enumerate(self._graph.tasks)
            places = {self._graph.key(i) for i, task in tasks if task._function.name == name}
            past = self._pasts[name] = _Past(self._store, name, self._began, places)
        code = self._keys.kind(index).maker.code
        digest = code.digest if code is not None else b""
        return past.nearest(self.shown_parts(index), digest, place, self._current)

    def differences(self, index: int) -> list[str]:
        """Return what has changed since the last call that was like that of a task."""
        code = self._keys.kind(index).maker.code
        trace = self.nearest(index)
        if trace is None or code is None:
            return [NEVER_RAN]
        found = difference(self.shown_parts(index), code, trace, self._store.components)
        return found or [NEVER_RAN]

    def renewed(self, index: int) -> Trace | None:
        """Return the trace of a task's last like call, as one that its code of now has left.

        None if more has changed than the code, or nothing.
        """
        key, trace = self._keys.get(index), self.nearest(index)
        code = self._keys.kind(index).maker.code
        if key is None or trace is None or code is None or trace.function == code.digest:
            return None
        parts = self.shown_parts(index)
        if [part[:2] for part in parts] != [part[:2] for part in trace.parts]:
            return None
        return replace(trace, key=key, function=code.digest, parts=parts, created=time.time())

    def reason_of(self, trace: Trace) -> str:
        """Return why the call that left a trace ran."""
        past = _Past(self._store, trace.name, trace.created, {trace.place})
        # What other tasks have now was not this one's before.
        last = past.nearest(trace.parts, trace.function, trace.place, self._current)
        if last is None:
            return NEVER_RAN
        code = Code(trace.function, self._store.components(trace.function))
        return in_words(difference(trace.parts, code, last, self._store.components)) or NEVER_RAN

    def unseen(self, index: int) -> tuple[str, ...]:
        """Return what a task's function uses and nobody looked into: names, with types."""
        code = self._keys.kind(index).maker.code
        return tuple(
            f"{each.name} ({each.text})" if each.text not in {"", each.name} else each.name
            for each in (code.components if code is not None else ())
            if each.kind in {"opaque", "untracked"}
        )

    def shown_parts(self, index: int) -> tuple[Shown, ...]:
        """Return of each argument of a task its name, its digest, and what people are shown."""
        _, _, shape, args, kwargs = self._graph.call(index)
        if shape == ALL_REFS:
            texts = [self._task_text(need) for need in args]
        else:
            texts = [self._text(each) for each in (*args, *(kwargs or {}).values())]
        shown = self._keys.kind(index).maker.texts(texts, tuple(kwargs or ()))
        parts = [
            (name, digest, text)
            for (name, digest), text in zip(self._keys.parts[index], shown, strict=True)
        ]
        parts += self._parts_inside(args, kwargs)
        policy = self._graph.tasks[index]._function.policy
        if policy.version is not None:
            parts.append((" version", policy.version.encode(), repr(policy.version)))
        if self._keys.seed_of is not None:
            parts.append((" seed", b"%d" % self._keys.seed_of(index), "of the run"))
        return tuple(parts)

    def _parts_inside(
        self, args: Iterable[object], kwargs: Mapping[str, object] | None
    ) -> Iterator[Shown]:
        """Yield each of the tasks, if not too many, in the containers among the arguments."""
        for at, argument in enumerate((*args, *(kwargs or {}).values())):
            if type(argument) is Template:
                for number, need in enumerate(argument.refs()[:MOST_SHOWN]):
                    digest = self._keys.digest_of(need) or b""
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
