"""Delayed calls become a parallel, visible pipeline.

>>> from flowpar import delayed
>>> @delayed
... def square(x):
...     return x * x
>>> total = delayed(sum)([square(x) for x in range(4)])
>>> total.compute(scheduler="sync")
14
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowpar.background import as_completed as as_completed
    from flowpar.background import submit as submit
    from flowpar.caching.cache import Cache as Cache
    from flowpar.caching.code import untracked as untracked
    from flowpar.caching.digest import register_digest as register_digest
    from flowpar.caching.files import File as File
    from flowpar.common.arrays import share as share
    from flowpar.common.locks import Lock as Lock
    from flowpar.common.locks import RLock as RLock
    from flowpar.common.managed import Manager as Manager
    from flowpar.common.memory import Array as Array
    from flowpar.common.memory import Value as Value
    from flowpar.common.queues import Queue as Queue
    from flowpar.common.signals import Barrier as Barrier
    from flowpar.common.signals import BoundedSemaphore as BoundedSemaphore
    from flowpar.common.signals import Condition as Condition
    from flowpar.common.signals import Event as Event
    from flowpar.common.signals import Semaphore as Semaphore
    from flowpar.compat.executor import Executor as Executor
    from flowpar.compat.joblib_backend import register_joblib as register_joblib
    from flowpar.compat.parallel import Parallel as Parallel
    from flowpar.compat.pool import Pool as Pool
    from flowpar.compat.pool import ThreadPool as ThreadPool
    from flowpar.compat.spawning import spawn as spawn
    from flowpar.compat.streams import imap as imap
    from flowpar.compat.streams import imap_unordered as imap_unordered
    from flowpar.compat.streams import stream as stream
    from flowpar.dsl import Delayed as Delayed
    from flowpar.dsl import DelayedFunction as DelayedFunction
    from flowpar.dsl import delayed as delayed
    from flowpar.errors import ArgumentError as ArgumentError
    from flowpar.errors import Cancelled as Cancelled
    from flowpar.errors import CycleError as CycleError
    from flowpar.errors import FlowparError as FlowparError
    from flowpar.errors import FlowparWarning as FlowparWarning
    from flowpar.errors import GraphError as GraphError
    from flowpar.errors import InternalError as InternalError
    from flowpar.errors import MemoryExceeded as MemoryExceeded
    from flowpar.errors import MissingExtra as MissingExtra
    from flowpar.errors import NotPicklable as NotPicklable
    from flowpar.errors import OptionError as OptionError
    from flowpar.errors import PoolError as PoolError
    from flowpar.errors import RunFailed as RunFailed
    from flowpar.errors import TaskError as TaskError
    from flowpar.errors import TaskTimeout as TaskTimeout
    from flowpar.errors import WorkerDied as WorkerDied
    from flowpar.many import map as map
    from flowpar.many import reduce as reduce
    from flowpar.many import starmap as starmap
    from flowpar.memo import cached as cached
    from flowpar.pictures import visualize as visualize
    from flowpar.pools.steps import progress as progress
    from flowpar.preview import explain as explain
    from flowpar.preview import plan as plan
    from flowpar.record import Run as Run
    from flowpar.running import compute as compute
    from flowpar.running import run as run
    from flowpar.settings import options as options
    from flowpar.views.reports.live import Dashboard as Dashboard

__version__ = "0.1.0"

# Where each public name lives. A name is loaded when it is first used: importing the package
# costs nothing, and a worker never loads what only the parent needs.
_HOMES = {
    "ArgumentError": "errors",
    "Array": "common.memory",
    "Barrier": "common.signals",
    "BoundedSemaphore": "common.signals",
    "Cache": "caching.cache",
    "Cancelled": "errors",
    "Condition": "common.signals",
    "CycleError": "errors",
    "Dashboard": "views.reports.live",
    "Delayed": "dsl",
    "DelayedFunction": "dsl",
    "Event": "common.signals",
    "Executor": "compat.executor",
    "File": "caching.files",
    "FlowparError": "errors",
    "FlowparWarning": "errors",
    "GraphError": "errors",
    "InternalError": "errors",
    "Lock": "common.locks",
    "Manager": "common.managed",
    "MemoryExceeded": "errors",
    "MissingExtra": "errors",
    "NotPicklable": "errors",
    "OptionError": "errors",
    "Parallel": "compat.parallel",
    "Pool": "compat.pool",
    "PoolError": "errors",
    "Queue": "common.queues",
    "RLock": "common.locks",
    "Run": "record",
    "RunFailed": "errors",
    "Semaphore": "common.signals",
    "TaskError": "errors",
    "TaskTimeout": "errors",
    "ThreadPool": "compat.pool",
    "Value": "common.memory",
    "WorkerDied": "errors",
    "as_completed": "background",
    "cached": "memo",
    "compute": "running",
    "delayed": "dsl",
    "explain": "preview",
    "imap": "compat.streams",
    "imap_unordered": "compat.streams",
    "map": "many",
    "options": "settings",
    "plan": "preview",
    "progress": "pools.steps",
    "reduce": "many",
    "register_digest": "caching.digest",
    "register_joblib": "compat.joblib_backend",
    "run": "running",
    "share": "common.arrays",
    "spawn": "compat.spawning",
    "starmap": "many",
    "stream": "compat.streams",
    "submit": "background",
    "untracked": "caching.code",
    "visualize": "pictures",
}

__all__ = [  # noqa: PLE0604 - ruff sees no names that are loaded on first use
    "__version__",
    *sorted(_HOMES),
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"flowpar.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return list(__all__)
