"""What a server of things and its clients say to each other, and where they meet."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator
from typing import Final

from flowpar.errors import PoolError

# What a client says; these are the numbers of frames, which know seven.
ASK: Final = 1
"""A pickled (method, arguments); the number is that of the thing."""
CANCEL: Final = 2
"""The answer is no longer waited for, unless it is on its way."""
TAKEN: Final = 3
"""The answer has arrived."""
HELLO: Final = 4
"""The key, and the session."""
LET_GO: Final = 7
"""The session does not have a thing any more that it had asked to `HOLD`; the number is its."""

# What the server says.
ANSWER: Final = 5
"""A pickled value; the number is `NOTHING` if it was cancelled, `TO_BE_TAKEN` if it can be undone,
else zero."""
ERROR: Final = 6
"""A pickled exception; the number is `REFUSED` if the socket is of no use any more, else zero."""

NOTHING: Final = 1
TO_BE_TAKEN: Final = 2
REFUSED: Final = 3

# What a client may ask for in place of a method.
HOLD: Final = "hold"
"""The session has the thing, which is to stay as long as it does."""
PIN: Final = "pin"
"""The thing is to stay for good: its name is on its way to whomever."""

KEY_BYTES: Final = 16

_LONGEST_ADDRESS: Final = 107
"""Bytes; the system's limit for the path of a socket."""


@contextlib.contextmanager
def address_of(path: str) -> Iterator[str]:
    """Give a name by which a socket's file can be bound or connected to, however long its path is.

    Parameters
    ----------
    path
        Of the file; its folder is there.

    Examples
    --------
    >>> with address_of("/tmp/server-1") as address:
    ...     address
    '/tmp/server-1'
    """
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        yield path
        return
    folder, name = os.path.split(path)
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{name}"
    finally:
        os.close(handle)


def dump_error(error: BaseException) -> bytes:
    """Return the pickle of an exception; of its text, if it does not pickle."""
    try:
        data = pickle.dumps(error, protocol=5)
        pickle.loads(data)  # noqa: S301 - our own: some exceptions only pickle one way
    except BaseException:  # noqa: BLE001 - an exception class of the user's may do anything
        return pickle.dumps(PoolError(f"{type(error).__name__}: {error}"), protocol=5)
    return data
