"""Every exception and warning of flowpar; imports nothing of flowpar.

::

    FlowparError                        caught by "anything that flowpar says on purpose"
    ├─ GraphError                       wrong before running
    │  ├─ CycleError      (ValueError)  .cycle: keys, the first again at the end
    │  └─ ArgumentError   (TypeError)   .path: where in the arguments
    ├─ TaskError                        wrong while running; also stands in for an
    │  │                                exception that cannot travel: .type_name, .text
    │  ├─ TaskTimeout     (TimeoutError)  .timeout: seconds
    │  ├─ MemoryExceeded  (MemoryError)  .memory, .seen: bytes
    │  ├─ WorkerDied                    .pid, .exit_code, .signal, .position
    │  ├─ NotPicklable    (TypeError)   .path: where the culprit is
    │  └─ Cancelled                     the run ended before the task did
    ├─ RunFailed     (ExceptionGroup)   .exceptions, .run: what succeeded all the same
    ├─ PoolError                        .error: what broke it, if anything did
    ├─ OptionError   (TypeError, ValueError)  a name or a value that is not an option
    ├─ MissingExtra       (ImportError) .extra: what to install
    └─ InternalError                    our bug
    FlowparWarning   (UserWarning)

An exception that the user's own code raised is never rebuilt as one of these: it keeps its type,
and what flowpar knows about the task is a note on it.
"""

from __future__ import annotations

import sys

__all__ = [
    "ArgumentError",
    "Cancelled",
    "CycleError",
    "FlowparError",
    "FlowparWarning",
    "GraphError",
    "InternalError",
    "MemoryExceeded",
    "MissingExtra",
    "NotPicklable",
    "OptionError",
    "PoolError",
    "RunFailed",
    "TaskError",
    "TaskTimeout",
    "WorkerDied",
    "add_note",
]


class FlowparError(Exception):
    """Base of every error that flowpar raises on purpose.

    Parameters
    ----------
    message
        What happened, to which task, and what to do.
    **facts
        The same as attributes, for programs.
    """

    def __init__(self, message: str = "", **facts: object) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    def __str__(self) -> str:
        # KeyError and its like would show the message in quotes.
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, _facts_that_travel(self))


def _rebuild(
    kind: type[FlowparError], args: tuple[str, ...], facts: dict[str, object]
) -> FlowparError:
    error = kind(*args)
    error.__dict__.update(facts)
    return error


def _facts_that_travel(error: BaseException) -> dict[str, object]:
    # A run stays where it ran: it is as large as all its values.
    return {name: value for name, value in vars(error).items() if name != "run"}


class GraphError(FlowparError):
    """The graph is wrong, before anything ran."""


class CycleError(GraphError, ValueError):
    """Tasks that wait for one another."""

    cycle: tuple[str, ...] = ()


class ArgumentError(GraphError, TypeError):
    """An argument that cannot be searched for delayed values, or not be rebuilt."""

    path: str = ""


class TaskError(FlowparError):
    """A task failed, and not by an exception that could be handed on as it was."""

    type_name: str = ""
    type_names: tuple[str, ...] = ()
    """Of the class that could not travel, and of all that it inherits from."""
    text: str = ""
    is_final: bool = False
    """Whether another attempt would be no use, however many the policy allows."""


class TaskTimeout(TaskError, TimeoutError):
    """A task ran longer than its policy allows."""

    timeout: float = 0.0


class MemoryExceeded(TaskError, MemoryError):
    """A task held more memory than its policy allows."""

    memory: float = 0.0
    """Bytes that the policy allows."""
    seen: int = 0
    """Bytes that the task was seen to hold."""


class WorkerDied(TaskError):
    """The process that ran a task ended before the task did."""

    pid: int = 0
    exit_code: int | None = None
    signal: str | None = None
    position: int | None = None
    span: int = 1
    """How many calls from `position` on it may have been in."""


class NotPicklable(TaskError, TypeError):
    """Something cannot travel to another process, or back from it."""

    path: str = ""
    is_final: bool = True


class Cancelled(TaskError):
    """The run ended, or was cancelled, before the task did."""


class PoolError(FlowparError):
    """A pool that is closed, broken, or of another process."""


class OptionError(FlowparError, TypeError, ValueError):
    """A name or a value that is not one of the options."""


class MissingExtra(FlowparError, ImportError):
    """A part of flowpar whose library is not installed."""

    extra: str = ""


class InternalError(FlowparError):
    """A fault of flowpar itself: please report it."""


class FlowparWarning(UserWarning):
    """Something that went on all the same, and that the user should know."""


if sys.version_info >= (3, 11):

    class RunFailed(FlowparError, ExceptionGroup[Exception]):  # noqa: F821 - of 3.11
        """At least one task failed under ``on_error="continue"``.

        The exceptions are those that the tasks raised; ``run`` holds what succeeded.
        """

        run: object = None

        def __new__(cls, message: str, exceptions: list[Exception], **_: object) -> RunFailed:
            """Make a group; the facts are taken by ``__init__``."""
            return super().__new__(cls, message, exceptions)

        def __init__(self, message: str, exceptions: list[Exception], **facts: object) -> None:
            Exception.__init__(self, message, exceptions)
            self.__dict__.update(facts)

        def __str__(self) -> str:
            return f"{self.message}: {', '.join(type(e).__name__ for e in self.exceptions)}"

        def derive(self, exceptions: list[Exception]) -> RunFailed:  # type: ignore[override]
            """Return a group of some of the exceptions, with the same run."""
            return RunFailed(self.message, exceptions, run=self.run)

        def __reduce__(self) -> tuple[object, ...]:
            return RunFailed, (self.message, list(self.exceptions)), _facts_that_travel(self)

else:

    class RunFailed(FlowparError):
        """At least one task failed under ``on_error="continue"``."""

        run: object = None

        def __init__(self, message: str, exceptions: list[Exception], **facts: object) -> None:
            super().__init__(message, **facts)
            self.message = message
            self.exceptions = tuple(exceptions)

        def __str__(self) -> str:
            lines = [f"{self.message} ({len(self.exceptions)} errors)"]
            lines += [f"  {type(error).__name__}: {error}" for error in self.exceptions]
            return "\n".join(lines)

        def __reduce__(self) -> tuple[object, ...]:
            return RunFailed, (self.message, list(self.exceptions)), _facts_that_travel(self)


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception, once; also before Python 3.11, where nothing shows it."""
    try:
        notes = getattr(error, "__notes__", [])
        if note in notes:
            return
        if sys.version_info >= (3, 11):
            error.add_note(note)
        else:
            error.__notes__ = [*notes, note]
    except Exception:  # noqa: BLE001 - an exception class of the user's may refuse attributes
        return
