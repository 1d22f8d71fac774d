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
    from flowpar.delayed import Delayed, DelayedFunction, delayed, map, reduce, starmap
    from flowpar.errors import (
        ArgumentError,
        Cancelled,
        CycleError,
        FlowparError,
        FlowparWarning,
        GraphError,
        InternalError,
        MissingExtra,
        NotPicklable,
        OptionError,
        PoolError,
        RunFailed,
        TaskError,
        TaskTimeout,
        WorkerDied,
    )
    from flowpar.options import options
    from flowpar.record import Run
    from flowpar.running import as_completed, compute, run, submit, visualize

__version__ = "0.1.0"

# Where each public name lives. A name is loaded when it is first used: importing the package
# costs nothing, and a worker never loads what only the parent needs.
_HOMES = {
    "ArgumentError": "errors",
    "Cancelled": "errors",
    "CycleError": "errors",
    "Delayed": "delayed",
    "DelayedFunction": "delayed",
    "FlowparError": "errors",
    "FlowparWarning": "errors",
    "GraphError": "errors",
    "InternalError": "errors",
    "MissingExtra": "errors",
    "NotPicklable": "errors",
    "OptionError": "errors",
    "PoolError": "errors",
    "Run": "record",
    "RunFailed": "errors",
    "TaskError": "errors",
    "TaskTimeout": "errors",
    "WorkerDied": "errors",
    "as_completed": "running",
    "compute": "running",
    "delayed": "delayed",
    "map": "delayed",
    "options": "options",
    "reduce": "delayed",
    "run": "running",
    "starmap": "delayed",
    "submit": "running",
    "visualize": "running",
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
