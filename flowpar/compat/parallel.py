"""`Parallel`: joblib's, on flowpar's own pools."""

from __future__ import annotations

import ast
import numbers
import operator
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from flowpar.compat.chunks import Outcome
from flowpar.compat.dispatcher import Dispatcher
from flowpar.compat.inputs import Inputs, Mixed
from flowpar.compat.results import for_loops
from flowpar.compat.shelves import make_shelf
from flowpar.errors import OptionError
from flowpar.policy import DEFAULT_POLICY, check_choice, check_count, check_number
from flowpar.pools import shared, worker
from flowpar.pools.resources import cpu_count
from flowpar.pools.threads import ThreadPool
from flowpar.task import TASK_TYPES, Function, Task

BACKENDS: Final = {
    "loky": "processes",
    "multiprocessing": "processes",
    "processes": "processes",
    "flowpar": "processes",
    "threading": "threads",
    "threads": "threads",
    "sequential": "sequential",
}
"""What joblib's names, and ours, stand for."""

RETURNS: Final = ("list", "generator", "generator_unordered")

ELASTIC: Final = "2 * n_jobs"
"""How many calls are made ahead of the values that were taken, where nobody says; more if they are
so quick that workers would wait."""


class Parallel:
    """Makes calls in parallel, with the parameters of `joblib.Parallel`.

    What is better: a worker that dies or a call that takes too long costs that call an error and
    is named, ``return_as="generator"`` reads its input only as fast as values are taken, and
    ``timeout`` counts for each call from where it begins.

    Parameters
    ----------
    n_jobs
        How many workers; -1: as many as CPUs may be used, -2: one less, and so on; None: 1, which
        makes the calls here.
    backend
        "processes" (or joblib's "loky", "multiprocessing"), "threads" ("threading"), "sequential";
        None: as `prefer` and `require` say, else processes.
    return_as
        "list", "generator" or "generator_unordered": the values as they come.
    verbose
        Above 0: how far it is is written now and then, to standard error; above 50, to standard
        output.
    timeout
        Seconds that a call may take.
    pre_dispatch
        How many calls are made ahead of the values that were taken: a number, "all", or an
        expression of ``n_jobs``.
    batch_size
        How many calls travel together at least; "auto": as many as pays.
    temp_folder, max_nbytes, mmap_mode
        As joblib's; taken, and not needed: what is large is in shared memory anyway, and mapped
        copy-on-write.
    prefer
        "threads" or "processes"; `backend` wins.
    require
        "sharedmem": threads, whatever else is said.

    Examples
    --------
    >>> from flowpar import Parallel, delayed
    >>> Parallel(n_jobs=2)(delayed(pow)(n, 2) for n in range(4))
    [0, 1, 4, 9]
    """

    def __init__(
        self,
        n_jobs: int | None = None,
        backend: str | None = None,
        return_as: str = "list",
        verbose: int = 0,
        timeout: float | None = None,
        pre_dispatch: int | str = ELASTIC,
        batch_size: int | str = "auto",
        temp_folder: str | None = None,
        max_nbytes: int | str | None = "1M",
        mmap_mode: str | None = "r",
        prefer: str | None = None,
        require: str | None = None,
    ) -> None:
        del temp_folder, max_nbytes, mmap_mode
        self.n_jobs = effective_n_jobs(1 if n_jobs is None else n_jobs)
        self.return_as = check_choice("return_as", return_as, RETURNS)
        self.verbose = int(verbose)
        self.timeout = None if timeout is None else check_number("timeout", timeout)
        self._window = _window(pre_dispatch, self.n_jobs)
        self._chunksize = (
            None if batch_size == "auto" else check_count("batch_size", batch_size, least=1)
        )
        self._kind = _kind(backend, prefer, require) if self.n_jobs > 1 else "sequential"
        self._kept: Dispatcher | None = None
        self._is_kept = False

    def __call__(self, iterable: Iterable[Any]) -> Any:
        """Make calls, and return their values as `return_as` says.

        Parameters
        ----------
        iterable
            Gives calls: what ``delayed(f)(x)`` is, flowpar's or joblib's, or
            ``(f, args, kwargs)`` or ``(f, args)``.

        Raises
        ------
        Exception
            The first that a call raised; what still runs is stopped.
        """
        calls = map(self._timed, map(call_of, iter(iterable)))
        is_here = self._kind == "sequential" or worker.IN_PROCESS or worker.is_inside_task()
        # Between the calls of a list nothing runs that might write to what they take.
        is_still = self.return_as == "list" and type(iterable) in {list, tuple}
        values = _made_here(calls) if is_here else self._made(calls, is_still)
        if self.verbose > 0:
            values = _told(values, self.n_jobs, self.verbose)
        return list(values) if self.return_as == "list" else values

    def _timed(self, call: Call) -> Call:
        """Return a call with the timeout of all, if it has none of its own."""
        return call if call[3] is not None or self.timeout is None else (*call[:3], self.timeout)

    def __enter__(self) -> Parallel:
        self._is_kept = True
        return self

    def __exit__(self, *_: object) -> None:
        self._is_kept = False
        if self._kept is not None:
            self._kept.stop()
            self._kept = None

    def __repr__(self) -> str:
        return f"Parallel(n_jobs={self.n_jobs})"

    def _made(self, calls: Iterator[Call], is_still: bool) -> Iterator[Any]:  # noqa: FBT001 - ours
        dispatcher = self._dispatcher()
        inputs = Mixed(
            calls,
            make_shelf(is_ordered=self.return_as != "generator_unordered"),
            dispatcher,
            window=self._window,
            chunksize=self._chunksize,
            is_still=is_still,
        )
        dispatcher.add(inputs)
        is_kept = dispatcher is self._kept
        return Taken(dispatcher, inputs, is_kept=is_kept, takes_all=self._takes_all)

    @property
    def _takes_all(self) -> bool:
        """Whether nobody minds that values are taken before they are asked for."""
        return self.return_as == "list" or self._window is None

    def _dispatcher(self) -> Dispatcher:
        if self._kept is not None:
            return self._kept
        if self._kind == "threads":
            made = Dispatcher(ThreadPool(self.n_jobs), "flowpar feeds threads")
        else:
            pool = shared.process_pool(self.n_jobs, "forkserver")
            made = Dispatcher(pool, "flowpar feeds processes", owns_pool=False)
        if self._is_kept:
            self._kept = made
        return made


class Taken(Iterator[Any]):
    """The values of the calls of one `Parallel`; leaving it early stops what runs of them.

    Parameters
    ----------
    dispatcher, inputs
        What feeds the workers, and from where.
    is_kept
        Whether others use the dispatcher too.
    takes_all
        Whether nobody minds that values are taken before they are asked for.
    """

    def __init__(
        self, dispatcher: Dispatcher, inputs: Inputs, *, is_kept: bool, takes_all: bool
    ) -> None:
        self._inputs = inputs
        self._takes_all = takes_all
        self._there: list[Outcome] = []
        self._stop = weakref.finalize(self, _stop, dispatcher, inputs, is_kept=is_kept)

    def __next__(self) -> Any:
        if not self._there:
            self._there = self._take()
        if not self._there:
            self.close()
            raise StopIteration
        outcome = self._there.pop()
        if outcome.error is not None:
            self.close()
            raise for_loops(outcome.error)
        return outcome.value

    def close(self) -> None:
        """Stop what runs; may be called twice."""
        self._there = []
        self._stop()

    def _take(self) -> list[Outcome]:
        """Return what is there, the last first, once there is something; nothing at the end."""
        if not self._takes_all:
            outcome = self._inputs.next()
            return [] if outcome is None else [outcome]
        outcomes = self._inputs.shelf.take_some()
        self._inputs.make_room(len(outcomes))
        outcomes.reverse()
        return outcomes


def _stop(dispatcher: Dispatcher, inputs: Inputs, *, is_kept: bool) -> None:
    inputs.shelf.drop()
    inputs.stop()
    if is_kept:
        dispatcher.drop(inputs)
    else:
        dispatcher.stop()


Call = tuple[Callable[..., Any], tuple[Any, ...], "dict[str, Any]", "float | None"]
"""A function, its arguments and its keyword arguments, and the seconds that it may take."""


def call_of(given: Any) -> Call:
    """Return the call that an item of `Parallel` stands for.

    Raises
    ------
    TypeError
        If it is none.

    Examples
    --------
    >>> call_of((abs, (-1,)))
    (<built-in function abs>, (-1,), {}, None)
    """
    if type(given) in TASK_TYPES:
        return _call_of_task(given)
    if isinstance(given, tuple) and 0 < len(given) <= 3 and callable(given[0]):  # noqa: PLR2004 - as `Call` has
        function, args, kwargs = (*given, (), {})[:3] if len(given) == 1 else (*given, {})[:3]
        return function, tuple(args), dict(kwargs), None
    raise TypeError(
        f"Parallel takes calls such as delayed(f)(x), or (f, args, kwargs), and not {given!r}"
    )


def _call_of_task(task: Task) -> Call:
    function = task._function
    policy = function.policy
    if not _needs_graph(task, function):
        return function.call, tuple(task._args), dict(task._kwargs or {}), policy.timeout
    return _computed, (task,), {}, policy.timeout


def _needs_graph(task: Task, function: Function) -> bool:
    """Return whether a delayed call is more than a function and its arguments.

    Raises
    ------
    OptionError
        If its policy says what plain calls cannot do.
    """
    return not _is_plain(function) or bool(task._needs or function.after)


def _is_plain(function: Function) -> bool:
    policy = function.policy
    if policy is DEFAULT_POLICY:  # to compare them takes longer than all the rest
        return True
    if policy.pool or policy.limit or policy.priority or policy.memory:
        raise OptionError(
            f"{function.name}: Parallel makes plain calls, and its policy says pool=, limit=, "
            "priority= or memory=: use compute"
        )
    plain = replace(policy, timeout=None, name=DEFAULT_POLICY.name, nout=DEFAULT_POLICY.nout)
    return plain == DEFAULT_POLICY


def _computed(task: Any) -> Any:
    """Compute a delayed value that needs others, in a worker."""
    return task.compute(scheduler="sync", progress=False)


def effective_n_jobs(n_jobs: Any) -> int:
    """Return how many workers a number stands for; negative ones count from all CPUs down.

    Raises
    ------
    ValueError
        For zero.

    Examples
    --------
    >>> effective_n_jobs(3)
    3
    """
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, numbers.Integral):
        raise OptionError(f"n_jobs takes a whole number, and not {n_jobs!r}")
    number = int(n_jobs)
    if number == 0:
        raise ValueError("n_jobs == 0 in Parallel has no meaning")
    return number if number > 0 else max(1, cpu_count() + 1 + number)


def _kind(backend: str | None, prefer: str | None, require: str | None) -> str:
    if require not in {None, "sharedmem"}:
        raise ValueError(f"require={require!r} is not a valid constraint: there is 'sharedmem'")
    if prefer not in {None, "threads", "processes"}:
        raise ValueError(
            f"prefer={prefer!r} is not a valid hint: there are 'threads' and 'processes'"
        )
    if prefer == "processes" and require == "sharedmem":
        raise ValueError("prefer == 'processes' and require == 'sharedmem' are inconsistent")
    if backend is None:
        return "threads" if require or prefer == "threads" else "processes"
    if backend not in BACKENDS:
        raise ValueError(f"Invalid backend: {backend!r}, expected one of {sorted(BACKENDS)}")
    kind = BACKENDS[backend]
    return "threads" if require and kind == "processes" else kind


def _window(pre_dispatch: int | str, n_jobs: int) -> int | None:
    """Return how many calls may be ahead; None: as many as keep the workers busy."""
    if pre_dispatch == ELASTIC or pre_dispatch == ELASTIC.replace(" ", ""):
        return None
    if pre_dispatch == "all":
        return sys.maxsize
    if isinstance(pre_dispatch, str):
        try:
            pre_dispatch = int(_evaluated(ast.parse(pre_dispatch, mode="eval").body, n_jobs))
        except (SyntaxError, KeyError, TypeError, ValueError) as error:
            raise OptionError(
                f"pre_dispatch takes a number, 'all', or such as '2 * n_jobs', and not "
                f"{pre_dispatch!r}"
            ) from error
    return check_count("pre_dispatch", pre_dispatch, least=1)


_OPERATORS: Final[dict[type, Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def _evaluated(node: ast.expr, n_jobs: int) -> float:
    """Return the value of a sum or product of numbers and n_jobs."""
    if isinstance(node, ast.BinOp):
        left, right = _evaluated(node.left, n_jobs), _evaluated(node.right, n_jobs)
        return float(_OPERATORS[type(node.op)](left, right))
    if isinstance(node, ast.Name):
        return {"n_jobs": n_jobs}[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    raise ValueError(ast.dump(node))


def _made_here(calls: Iterator[Call]) -> Iterator[Any]:
    return (function(*args, **kwargs) for function, args, kwargs, _ in calls)


def _told(values: Iterator[Any], n_jobs: int, verbose: int) -> Iterator[Any]:
    """Pass values on, and write now and then how many there were."""
    stream = sys.stdout if verbose > 50 else sys.stderr  # noqa: PLR2004 - joblib's
    begun, done, due = time.monotonic(), 0, 1
    for value in values:
        done += 1
        if verbose > 10 or done == due:  # noqa: PLR2004 - joblib's
            due = done * 2
            _write(stream, n_jobs, f"Done {done:3d} tasks", begun)
        yield value
    _write(stream, n_jobs, f"Done {done:3d} out of {done:3d}", begun)


def _write(stream: Any, n_jobs: int, text: str, begun: float) -> None:
    elapsed = time.monotonic() - begun
    if stream is not None:
        stream.write(f"[Parallel(n_jobs={n_jobs})]: {text} | elapsed: {elapsed:.1f}s\n")
        stream.flush()
