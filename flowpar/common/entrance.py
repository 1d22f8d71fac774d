"""Where clients of a server come in, also when their process has no descriptor left for them."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
from typing import Final

from flowpar.common.wire import ERROR, REFUSED, address_of, dump_error
from flowpar.errors import PoolError
from flowpar.pools.channel import FrameWriter

RETRY_SECONDS: Final = 0.1
"""Between two looks whether there are descriptors again."""
PATIENCE_SECONDS: Final = 3.0
"""For so long clients are kept waiting for a descriptor; then they are refused."""

_FULL: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Entrance:
    """A listening socket that is watched by a selector, unless nobody can be let in.

    Parameters
    ----------
    path
        Of its file.
    selector
        What watches it.
    """

    def __init__(self, path: str, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._full_since: float | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with address_of(path) as address:
            self._listener.bind(address)
        self._listener.listen(128)
        self._listener.setblocking(False)
        # Given up for a moment, it is enough to tell a client that there are no more.
        self._spare = -1
        self._open_spare()
        selector.register(self, selectors.EVENT_READ)

    def fileno(self) -> int:
        """Return the descriptor of the listening socket."""
        return self._listener.fileno()

    @property
    def is_full(self) -> bool:
        """Whether somebody waits who could not be let in; then it is not watched."""
        return self._full_since is not None

    @property
    def pause(self) -> float | None:
        """After how many seconds to try again; None: whenever somebody comes."""
        return RETRY_SECONDS if self.is_full else None

    def accept(self) -> socket.socket | None:
        """Let somebody in who waits; None: nobody does any more, or nobody can be let in now."""
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _FULL:
                self._wait()
            else:
                self._open()
            return None
        self._open()
        return sock

    def close(self) -> None:
        """Close it."""
        self._listener.close()
        self._close_spare()

    def _wait(self) -> None:
        now = time.monotonic()
        if self._full_since is None:
            self._full_since = now
            self._selector.unregister(self)  # it would wake the server all the time
        elif now - self._full_since >= PATIENCE_SECONDS:
            self._refuse_all()

    def _open(self) -> None:
        if self._full_since is not None:
            self._full_since = None
            self._selector.register(self, selectors.EVENT_READ)

    def _refuse_all(self) -> None:
        """Tell all who wait that they wait in vain."""
        text = (
            "the process that made what is asked for has too many open files to answer: raise its "
            "limit (ulimit -n), or let fewer threads wait at the same time"
        )
        data = dump_error(PoolError(text))
        while self._refuse(data):
            continue
        self._open()

    def _refuse(self, data: bytes) -> bool:
        self._close_spare()
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return False
        else:
            with sock, contextlib.suppress(OSError):
                sock.setblocking(False)
                writer = FrameWriter(sock)
                writer.put(ERROR, REFUSED, data)
                writer.flush()
            return True
        finally:
            self._open_spare()

    def _open_spare(self) -> None:
        with contextlib.suppress(OSError):  # others were faster
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _close_spare(self) -> None:
        handle, self._spare = self._spare, -1
        if handle >= 0:
            os.close(handle)
