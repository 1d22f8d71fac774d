"""What is remembered of functions from one run of a program to the next: how they use a CPU.

How long their calls took only says how many are sent at first: it depends on what they are given,
and one call tells it.
"""

from __future__ import annotations

import collections
import threading
import types
from typing import Final

from flowpar.status import Timing
from flowpar.task import Function, code_object

MOST: Final = 10_000
"""Functions that are remembered; those that ran last."""

_known: collections.OrderedDict[int, tuple[object, Timing]] = collections.OrderedDict()
_lock = threading.Lock()


def recall(function: Function) -> Timing:
    """Return what is known of a function; nothing of its times."""
    code = code_object(function.call)
    with _lock:
        found = _known.get(id(code))
        return Timing() if found is None else found[1].habits()


def remember(function: Function, timing: Timing) -> None:
    """Keep for the next run what this one has shown of a function."""
    code = code_object(function.call)
    # With the code, or its number would be another's; but no object that may be large.
    if not isinstance(code, (types.CodeType, types.BuiltinFunctionType, type)):
        return
    with _lock:
        _known[id(code)] = code, timing.habits()
        _known.move_to_end(id(code))
        if len(_known) > MOST:
            _known.popitem(last=False)


def remember_times(function: Function, timing: Timing) -> None:
    """Keep only how long calls took, where they ran as the user said."""
    known = recall(function)
    known.earlier_seconds = timing.habits().earlier_seconds
    remember(function, known)


def forget() -> None:
    """Remember nothing."""
    with _lock:
        _known.clear()
