"""The options of a run: resolved once, checked, frozen, passed down.

An option comes from the call, else from the innermost ``with flowpar.options(...)``, else from
the environment, else from its default. Nothing else in flowpar reads the environment for one.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final

from flowpar.errors import OptionError
from flowpar.events import HOOKS
from flowpar.policy import (
    check_bool,
    check_bytes,
    check_choice,
    check_count,
    check_nice,
    check_number,
    unknown_name,
)

SCHEDULERS: Final = ("auto", "sync", "threads", "processes")
START_METHODS: Final = ("forkserver", "spawn", "fork")
SAMPLE_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How one run is to be done."""

    scheduler: Any = "auto"
    """One of `SCHEDULERS`, or a pool: anything with ``apply_async``, or an ``Executor``."""
    workers: int | None = None
    """Processes, and threads, that run tasks; None: as many as CPUs may be used."""
    cache: Any = None
    """Where results are kept: the path of a directory, a `Cache`, True for ``.flowpar`` here."""
    progress: bool | None = None
    """None: a bar if the run lasts over a second and a person is watching."""
    on_error: str = "raise"
    """"raise": stop at the first failure; "continue": finish what does not depend on it."""
    limits: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """How much of each resource named by a ``limit`` policy there is."""
    observers: tuple[object, ...] = ()
    """Objects that hear the events of the run."""
    seed: int | None = None
    """Seeds the random generators before each task, by its key; for processes and inline."""
    start_method: str = "forkserver"
    """How worker processes are started."""
    memory_limit: float | None = None
    """Bytes that values may take while the run holds them, or a text such as "2 GB"; what is needed
    last goes to disk. Not the memory that tasks use themselves."""
    dashboard: bool = False
    """Whether a page of this computer shows the run while it goes on; its address is printed."""
    report: Any = None
    """Path of a page, ``.html``, that tells all there is to tell of the run; written at its end,
    also if it fails. Needs bokeh (extra "report")."""
    capture: str | None = None
    """"failed": what a task that fails has printed and logged is a note of its error; "all": that
    of every task is printed, each line after the name of its task. Both are in the records."""
    sample: float | None = None
    """Seconds between two looks at the CPU and the memory of each process; True: 0.1. Needs psutil
    (extra "resources")."""
    speculate: bool = False
    """Whether a pure call that takes twice as long as others of its function is started once more,
    in a worker process that has nothing to do. The first result counts; the other is stopped."""
    max_tasks_per_worker: int | None = None
    """Tasks after which a worker process is replaced by a fresh one, for code that leaks. Tasks
    then travel one by one."""
    max_worker_memory: float | None = None
    """Bytes of resident memory, or a text such as "2 GB": a worker process that has more when a
    task has ended is replaced by a fresh one. See the policy ``memory`` for a ceiling of a task."""
    nice: int = 0
    """Added to the niceness of worker processes, so that other programs go first; up to 19."""
    pin: bool = False
    """Whether each worker process is bound to one of the CPUs that this process may use."""

    @property
    def life(self) -> dict[str, Any]:
        """How worker processes live, as `ProcessPool` takes it."""
        names = ("max_tasks_per_worker", "max_worker_memory", "nice", "pin")
        return {name: getattr(self, name) for name in names}


_block: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar(
    "flowpar_options", default=MappingProxyType({})
)


def resolve(given: Mapping[str, Any]) -> Options:
    """Return the options of a run from what its caller gave.

    Raises
    ------
    OptionError
        If a name is not an option, naming the nearest that is; or if a value is not legal.
    """
    return Options(**{**_from_environment(), **_block.get(), **check(given)})


def check(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options with each value checked and made canonical."""
    names = {f.name: None for f in fields(Options)}
    for name in given:
        if name not in names:
            raise OptionError(unknown_name(name, names, "an option of a run"))
    return {name: _CHECKS[name](name, value) for name, value in given.items()}


@contextlib.contextmanager
def options(**given: Any) -> Iterator[None]:
    """Set the defaults of every run within a ``with`` block.

    Parameters
    ----------
    **given
        Options by name, as for `compute`. Blocks nest: the inner one wins.

    Raises
    ------
    OptionError
        If a name is not an option, or a value is not legal; on entry, before anything runs.

    Examples
    --------
    >>> import flowpar
    >>> with flowpar.options(scheduler="sync"):
    ...     flowpar.delayed(abs)(-3).compute()
    3
    """
    token = _block.set(MappingProxyType({**_block.get(), **check(given)}))
    try:
        yield
    finally:
        _block.reset(token)


def _from_environment() -> dict[str, Any]:
    found: dict[str, Any] = {}
    if scheduler := os.environ.get("FLOWPAR_SCHEDULER"):
        found["scheduler"] = check_choice("FLOWPAR_SCHEDULER", scheduler, SCHEDULERS)
    if workers := os.environ.get("FLOWPAR_WORKERS"):
        number = int(workers) if workers.strip().isdecimal() else workers
        found["workers"] = check_count("FLOWPAR_WORKERS", number, least=1)
    if path := os.environ.get("FLOWPAR_CACHE"):
        found["cache"] = _check_cache("FLOWPAR_CACHE", path)
    return found


def _check_cache(name: str, value: object) -> object:
    if value is None or value is False:
        return None
    from flowpar.caching.cache import cache_of  # noqa: PLC0415 - runs without one do not load it

    return cache_of(name, value)


def _check_scheduler(name: str, value: object) -> object:
    if isinstance(value, str):
        return check_choice(name, value, SCHEDULERS)
    if callable(getattr(value, "apply_async", None)) or callable(getattr(value, "submit", None)):
        return value
    raise OptionError(
        f"{name} takes one of {', '.join(SCHEDULERS)}, a pool with apply_async, or an executor "
        f"with submit, and not {value!r}"
    )


def _check_workers(name: str, value: object) -> int | None:
    return None if value is None else check_count(name, value, least=1)


def _check_progress(name: str, value: object) -> bool | None:
    return None if value is None else check_bool(name, value)


def _check_on_error(name: str, value: object) -> str:
    return check_choice(name, value, ("raise", "continue"))


def _check_limits(name: str, value: object) -> Mapping[str, float]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise OptionError(f"{name} takes {{name: amount}}, and not {value!r}")
    amounts = {key: check_number(f"{name}[{key!r}]", value[key], above=0) for key in value}
    return MappingProxyType(amounts)


def _check_observers(name: str, value: object) -> tuple[object, ...]:
    observers = tuple(value) if isinstance(value, (list, tuple, set)) else (value,)
    for observer in observers:
        if not any(callable(getattr(observer, hook, None)) for hook in HOOKS):
            raise OptionError(f"{name} takes objects with one of {', '.join(HOOKS)}: {observer!r}")
    return observers


def _check_seed(name: str, value: object) -> int | None:
    return None if value is None else check_count(name, value)


def _check_start_method(name: str, value: object) -> str:
    return check_choice(name, value, START_METHODS)


def _check_memory_limit(name: str, value: object) -> float | None:
    return None if value is None else check_bytes(name, value)


def _check_max_tasks(name: str, value: object) -> int | None:
    return None if value is None else check_count(name, value, least=1)


def _check_nice(name: str, value: object) -> int:
    return check_nice(name, value)


def _check_pin(name: str, value: object) -> bool:
    return check_bool(name, value)


def _check_dashboard(name: str, value: object) -> bool:
    return check_bool(name, value)


def _check_report(name: str, value: object) -> object:
    if value is None or isinstance(value, (str, os.PathLike)):
        return value
    raise OptionError(f"{name} takes the path of a file, and not {value!r}")


def _check_capture(name: str, value: object) -> str | None:
    return None if value is None else check_choice(name, value, ("failed", "all"))


def _check_sample(name: str, value: object) -> float | None:
    if value is None or value is False:
        return None
    return SAMPLE_SECONDS if value is True else check_number(name, value, above=0)


def _check_speculate(name: str, value: object) -> bool:
    return check_bool(name, value)


_CHECKS: Final = {
    "scheduler": _check_scheduler,
    "cache": _check_cache,
    "workers": _check_workers,
    "progress": _check_progress,
    "on_error": _check_on_error,
    "limits": _check_limits,
    "observers": _check_observers,
    "seed": _check_seed,
    "start_method": _check_start_method,
    "memory_limit": _check_memory_limit,
    "capture": _check_capture,
    "dashboard": _check_dashboard,
    "report": _check_report,
    "sample": _check_sample,
    "speculate": _check_speculate,
    "max_tasks_per_worker": _check_max_tasks,
    "max_worker_memory": _check_memory_limit,
    "nice": _check_nice,
    "pin": _check_pin,
}
