"""How an exception travels: itself where it can, its words in any case, and the lines it passed."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flowpar.errors import InternalError, PoolError, TaskError, add_note

Frame = tuple[str, int, str]
"""(file name, line, function name)."""


MOST_ERRORS: Final = 50
"""Causes and contexts that travel with an exception, nearest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedError:
    """An exception on its way: itself if it survives pickling, and what it said in any case."""

    data: bytes | None
    type_name: str
    type_names: tuple[str, ...]
    """Of its class and all that it inherits from."""
    text: str
    frames: list[Frame]
    notes: list[str]
    cause: int | None
    """Where its cause is in the list that it is in."""
    context: int | None
    suppress_context: bool


def pack_error(error: BaseException) -> list[PackedError]:
    """Return an exception, with its causes and the frames it passed, in a form that travels.

    Returns
    -------
    list of PackedError
        The exception, then those that it leads to, each once: they may lead to one another.
    """
    found = [error]
    numbers = {id(error): 0}
    for known in found:
        for other in (known.__cause__, known.__context__):
            if other is not None and id(other) not in numbers and len(found) < MOST_ERRORS:
                numbers[id(other)] = len(found)
                found.append(other)
    return [_pack_one(known, numbers) for known in found]


def type_name(kind: type) -> str:
    """Return the full name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _pack_one(error: BaseException, numbers: Mapping[int, int]) -> PackedError:
    return PackedError(
        data=_round_trip(error),
        type_name=type_name(type(error)),
        type_names=tuple(type_name(kind) for kind in type(error).__mro__),
        text=text_of(error),
        frames=user_frames(error.__traceback__),
        notes=[str(note) for note in getattr(error, "__notes__", ())],
        cause=numbers.get(id(error.__cause__)),
        context=numbers.get(id(error.__context__)),
        suppress_context=error.__suppress_context__,
    )


def unpack_error(packed: list[PackedError]) -> BaseException:
    """Return the exception; a `TaskError` with its text where it could not travel."""
    errors = [_load_error(each) for each in packed]
    for error, each in zip(errors, packed, strict=True):
        for note in each.notes:  # a __reduce__ of the user's may have left them behind
            add_note(error, note)
        error.__cause__ = None if each.cause is None else errors[each.cause]
        error.__context__ = None if each.context is None else errors[each.context]
        error.__suppress_context__ = each.suppress_context
        error.__traceback__ = make_traceback(each.frames)
    return errors[0]


def _load_error(packed: PackedError) -> BaseException:
    if packed.data is not None:
        try:
            error = pickle.loads(packed.data)  # noqa: S301 - made by our own worker
        except (Exception, SystemExit):  # noqa: BLE001 - loading runs the user's code
            error = None
        if isinstance(error, BaseException):
            return error
    text = TaskError(
        f"{packed.type_name}: {packed.text}",
        type_name=packed.type_name,
        type_names=packed.type_names,
        text=packed.text,
    )
    add_note(text, "The exception itself cannot be pickled, so it is shown by its text.")
    return text


def _round_trip(error: BaseException) -> bytes | None:
    """Return a pickle that gives the same exception, if there is any.

    Many classes cannot be called with what they keep in ``args``, or would change it once more:
    then the exception is taken apart, and made without a call of its class.
    """
    import cloudpickle  # noqa: PLC0415 - slow to import, and a serial run needs none of it

    for form in (error, _Apart(type(error), error.args, dict(vars(error)))):
        try:
            data: bytes = cloudpickle.dumps(form, protocol=5)
            arrived = pickle.loads(data)  # noqa: S301 - our own pickle
        except BaseException:  # noqa: BLE001, S112 - whatever its pickling raises: not this way
            continue
        if type(arrived) is type(error) and text_of(arrived) == text_of(error):
            return data
    return None


class _Apart:
    """An exception as its class, its arguments and its attributes; it arrives as the exception."""

    def __init__(
        self, kind: type[BaseException], args: tuple[object, ...], facts: dict[str, object]
    ) -> None:
        self.kind, self.args, self.facts = kind, args, facts

    def __reduce__(self) -> tuple[object, ...]:
        return _put_together, (self.kind, self.args, self.facts)


def _put_together(
    kind: type[BaseException], args: tuple[object, ...], facts: dict[str, object]
) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


def text_of(error: BaseException) -> str:
    """Return what an exception says, even if its own way of saying it fails."""
    try:
        return str(error)
    except (Exception, SystemExit) as trouble:  # noqa: BLE001 - a __str__ of the user's
        return f"<its str() raised {type(trouble).__name__}>"


_OUR_FOLDER: Final = __file__.rsplit("pools", 1)[0]


def user_frames(passed: types.TracebackType | None) -> list[Frame]:
    """Return where an exception passed, outermost first, without flowpar's own frames."""
    frames = []
    while passed is not None:
        code = passed.tb_frame.f_code
        if not code.co_filename.startswith(_OUR_FOLDER):
            frames.append((code.co_filename, passed.tb_lineno, code.co_name))
        passed = passed.tb_next
    return frames


def make_traceback(frames: list[Frame]) -> types.TracebackType | None:
    """Return a traceback that shows the frames, as if the exception had passed them here.

    Frames cannot be made, so each is taken from a tiny piece of code that carries the name and
    the file of the original, run up to where it raises.
    """
    made: types.TracebackType | None = None
    for filename, line, function in reversed(frames):
        frame = _frame(filename, line, function)
        made = types.TracebackType(made, frame, frame.f_lasti, line)
    return made


def _frame(filename: str, line: int, function: str) -> types.FrameType:
    source = compile("raise StopAsyncIteration", filename, "exec")
    code = source.replace(co_name=function, co_firstlineno=line)
    if sys.version_info >= (3, 11):
        code = code.replace(co_qualname=function)
    try:
        exec(code, {"__name__": "flowpar.traceback", "__file__": filename})  # noqa: S102
    except StopAsyncIteration as stop:
        last = stop.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        if last is not None:
            return last.tb_frame
    raise InternalError("a statement that raises did not")


def initializer_failed(error: BaseException) -> PoolError:
    """Return the error of every call of a pool whose initializer raised.

    Examples
    --------
    >>> str(initializer_failed(KeyError("db")))
    "the initializer of the pool raised KeyError: 'db'"
    """
    broken = PoolError(
        f"the initializer of the pool raised {type(error).__name__}: {text_of(error)}", error=error
    )
    broken.__cause__ = error
    return broken
