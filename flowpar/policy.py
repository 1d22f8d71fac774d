"""How one delayed function may be run, and checks for what users give us; imports only errors."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final

from flowpar.errors import OptionError

POOLS: Final = ("inline", "threads", "processes", "async")
MOST_NICE: Final = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How one delayed function may be run. Times are in seconds."""

    name: str | None = None
    """Shown instead of the function's own name."""
    nout: int | None = None
    """How many values the function returns, for unpacking."""
    retries: int = 0
    """Attempts after the first that failed."""
    retry_delay: float = 0.0
    """Wait before the first retry; doubles each time, with jitter."""
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    """Which exceptions are worth another attempt."""
    timeout: float | None = None
    """How long one attempt may run."""
    memory: float | None = None
    """Bytes that one attempt may come to hold; runs in a process, which is killed beyond."""
    pool: str | None = None
    """One of `POOLS`; None leaves the choice to flowpar."""
    limit: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Amounts of shared resources that the task holds while it runs."""
    priority: int = 0
    """Higher first, among tasks that are ready."""
    cache: bool | None = None
    """Whether results are kept, where the run has a cache; None: as the run says."""
    version: str | None = None
    """A string of the user's that is part of the cache key."""
    expires: float | None = None
    """Age at which a cached result is no longer used."""
    pure: bool = True
    """False: always run again, never in a batch with others."""
    ignore: tuple[str, ...] = ()
    """Parameters that are not part of the cache key."""
    deps: tuple[object, ...] = ()
    """What else a result depends on, and the code does not show: functions, values, modules."""
    traverse: bool = True
    """Whether containers among the arguments are searched for delayed values."""
    group: str | None = None
    """What it belongs to, in pictures; nothing else asks."""

    @property
    def runs_alone(self) -> bool:
        """Whether a task of this policy never shares a batch."""
        return (
            not self.pure or self.timeout is not None or self.memory is not None or bool(self.limit)
        )

    def __reduce__(self) -> tuple[object, ...]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return _policy, ({**values, "limit": dict(self.limit)},)


def _policy(values: dict[str, Any]) -> Policy:
    return Policy(**{**values, "limit": MappingProxyType(values["limit"])})


def policy_from(base: Policy, changes: Mapping[str, Any]) -> Policy:
    """Return `base` with the user's keywords applied, each checked.

    Raises
    ------
    OptionError
        If a name is not a policy, naming the nearest that is; or if a value is not legal, by
        itself or beside the others.
    """
    known = {f.name: getattr(base, f.name) for f in fields(base)}
    for name, value in changes.items():
        if name not in known:
            raise OptionError(unknown_name(name, known, "a policy of delayed"))
        known[name] = _CHECKS[name](name, value)
    if known["memory"] is not None and known["pool"] not in {None, "processes"}:
        raise OptionError(
            f"memory= needs a process, which can be watched and killed, and not "
            f'pool={known["pool"]!r}: leave pool= out, or let it be "processes"'
        )
    return Policy(**known)


def unknown_name(name: str, known: Mapping[str, object], what: str) -> str:
    """Return the message for a name that is not among the known ones."""
    import difflib  # noqa: PLC0415 - slow to import, and only an error needs it

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(known))}"
    return f"{name!r} is not {what}: {hint}"


def check_number(name: str, value: object, *, above: float | None = None) -> float:
    """Return `value` if it is a finite number of zero or more (or greater than `above`)."""
    legal = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if legal:
        amount = float(value)  # type: ignore[arg-type]
        legal = math.isfinite(amount) and (amount >= 0 if above is None else amount > above)
    if not legal:
        at_least = "zero or more" if above is None else f"more than {above:g}"
        raise OptionError(f"{name} takes a number, {at_least}, and not {value!r}")
    return float(value)  # type: ignore[arg-type]


def check_bytes(name: str, value: object) -> float:
    """Return a size in bytes: a number greater than zero, or a text such as "500M" or "2 GB"."""
    found = re.fullmatch(r"([0-9.]+) *([kMGT]?)(i?)B?", value) if isinstance(value, str) else None
    if found is None:
        if isinstance(value, str):
            raise OptionError(f'{name} takes bytes, as a number or as in "2 GB", and not {value!r}')
        return check_number(name, value, above=0)
    try:
        amount = float(found[1])
    except ValueError:
        raise OptionError(f"{name}: {found[1]!r} is no number") from None
    base = 1024 if found[3] else 1000
    return check_number(name, amount * base ** " kMGT".index(found[2] or " "), above=0)


def check_count(name: str, value: object, *, least: int = 0) -> int:
    """Return `value` if it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise OptionError(f"{name} takes a whole number of {least} or more, and not {value!r}")
    return int(value)


def check_nice(name: str, value: object) -> int:
    """Return `value` if it is a whole number that may be added to the niceness of a process."""
    if check_count(name, value) > MOST_NICE:
        raise OptionError(f"{name} takes a whole number of 0 to {MOST_NICE}, and not {value!r}")
    return int(value)  # type: ignore[call-overload,no-any-return]


def check_bool(name: str, value: object) -> bool:
    """Return `value` if it is True or False."""
    if not isinstance(value, bool):
        raise OptionError(f"{name} takes True or False, and not {value!r}")
    return value


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        close = unknown_name(str(value), dict.fromkeys(choices), f"a choice for {name}")
        raise OptionError(close)
    return value


def _maybe(check: Callable[[str, Any], Any]) -> Callable[[str, object], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _check_text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise OptionError(f"{name} takes a string that is not empty, and not {value!r}")
    return value


def _check_priority(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise OptionError(f"{name} takes a whole number, and not {value!r}")
    return max(-(2**20), min(2**20, int(value)))


def _check_names(name: str, value: object) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, (list, tuple, set, frozenset)):
        raise OptionError(f"{name} takes names of parameters, and not {value!r}")
    return tuple(sorted(_check_text(name, each) for each in names))


def _check_deps(name: str, value: object) -> tuple[object, ...]:
    if not isinstance(value, (list, tuple)):
        raise OptionError(f"{name} takes a list of functions, values or modules, and not {value!r}")
    return tuple(value)


def _check_types(name: str, value: object) -> tuple[type[BaseException], ...]:
    kinds = value if isinstance(value, tuple) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise OptionError(
                f"{name} takes types of exceptions, of which SystemExit and KeyboardInterrupt are "
                f"none, and not {kind!r}"
            )
    return kinds


def check_limit(name: str, value: object) -> Mapping[str, float]:
    """Return a policy's `limit` as {resource: amount}; a name alone stands for one of it."""
    amounts = {value: 1} if isinstance(value, str) else value
    if value is None:
        amounts = {}
    if not isinstance(amounts, Mapping) or not all(isinstance(key, str) for key in amounts):
        raise OptionError(f"{name} takes a name, or {{name: amount}}, and not {value!r}")
    checked = {key: check_number(f"{name}[{key!r}]", amounts[key], above=0) for key in amounts}
    return MappingProxyType(checked)


_CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "name": _maybe(_check_text),
    "nout": _maybe(check_count),
    "retries": check_count,
    "retry_delay": check_number,
    "retry_on": _check_types,
    "timeout": _maybe(lambda name, value: check_number(name, value, above=0)),
    "memory": _maybe(check_bytes),
    "pool": _maybe(lambda name, value: check_choice(name, value, POOLS)),
    "limit": check_limit,
    "priority": _check_priority,
    "cache": _maybe(check_bool),
    "version": _maybe(_check_text),
    "expires": _maybe(check_number),
    "pure": check_bool,
    "ignore": _check_names,
    "deps": _check_deps,
    "traverse": check_bool,
    "group": _maybe(_check_text),
}

DEFAULT_POLICY: Final = Policy()
