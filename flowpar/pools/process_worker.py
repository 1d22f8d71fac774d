"""The main loop of a worker process. It never imports the user's script."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import socket
import sys
from typing import Any, Final, NoReturn

from flowpar.errors import NotPicklable, TaskError
from flowpar.pools import channel, home, standins
from flowpar.pools.channel import FrameReader, FrameWriter
from flowpar.pools.depot import Depot
from flowpar.pools.failures import pack_error
from flowpar.pools.mainglobals import MainGlobals
from flowpar.pools.parcel import Shelf
from flowpar.pools.runqueue import account_for_this_thread
from flowpar.pools.slate import BARS, NOWHERE, POSITION, SENDING, Claims, Slate
from flowpar.pools.surroundings import Context, Surroundings, become_worker
from flowpar.pools.transport import Batch, dump_report
from flowpar.pools.values import Isolation
from flowpar.pools.worker import execute, settle

_LOWEST_DESCRIPTOR: Final = 100
"""Ours are moved up to here, out of the way of tasks that close or use low ones blindly."""
_BROKEN_EXIT_CODE: Final = 70  # EX_SOFTWARE of <sysexits.h>


def main(files: tuple[int, int, int, int], parent: int) -> NoReturn:
    """Run a worker in this process, to its end.

    Parameters
    ----------
    files
        Descriptors: the channel, the slate, the claims, the context.
    parent
        Id of the process that started this one.
    """
    code = _BROKEN_EXIT_CODE
    words = files[1]
    try:
        *kept, context_file = files
        channel_file, slate_file, claims_file = map(_move_up, kept)
        words = Slate.open_for_words(slate_file)
        faulthandler.enable(words)
        context = Context.load(context_file)
        become_worker(context, parent)
        worker = ProcessWorker(
            socket.socket(fileno=channel_file), Slate(slate_file), Claims(claims_file)
        )
        os.register_at_fork(after_in_child=worker.abandon)
        worker.serve(context)
        code = 0
    except (EOFError, ConnectionError):  # the parent has gone, or no longer wants us
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it was, the parent hears of it
        import traceback  # noqa: PLC0415 - slow to import, and this is the end

        os.write(words, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        # No exit functions, and no waiting for threads that tasks have left.
        os._exit(code)


def _move_up(number: int) -> int:
    import fcntl  # noqa: PLC0415 - not on Windows, where this file can at least be imported

    try:
        higher = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _LOWEST_DESCRIPTOR)
    except OSError:  # the limit of descriptors is lower than that
        os.set_inheritable(number, False)  # noqa: FBT003 - no keyword there
        return number
    os.close(number)
    return higher


class ProcessWorker:
    """Takes batches from the parent, runs them and sends reports, in one thread."""

    def __init__(self, sock: socket.socket, slate: Slate, claims: Claims) -> None:
        self._sock = sock
        self._slate = slate
        self._claims = claims
        self._claimed: int | None = None
        # The only reference to it, so that it goes when it was loaded: it may be large.
        self._body: bytes | bytearray = b""
        self._reader = FrameReader(sock)
        self._writer = FrameWriter(sock)
        self._shelf = Shelf()
        self._shelf.load = _load_function
        self._pid = os.getpid()
        self._depot: Depot | None = None
        self._globals: MainGlobals | None = None

    def serve(self, context: Context) -> None:
        """Set up, and serve until the parent goes; return if the initializer raises.

        Raises
        ------
        EOFError
            When the parent has gone.
        """
        home.use_parents(context.depot)
        if context.shares_globals:
            self._globals = MainGlobals()
            self._shelf.adopt = self._globals.adopt
        if not self._initialize(context.initializer):
            return
        self._mind_bars()
        surroundings = Surroundings()
        account_for_this_thread()
        self._depot = context.depot
        self._send(channel.READY, 0)
        while True:
            kind, number, self._body = self._reader.receive()
            if kind == channel.BATCH:
                self._serve_batch(number, surroundings)
            elif kind == channel.FUNCTION:
                self._shelf.put(number, self._body)
            elif kind == channel.FORGET:
                self._shelf.clear()

    def abandon(self) -> None:
        """Let go of what is the worker's alone, in a process that a task has forked.

        Without the mark, `execute` ends at the next call; so a child that returns from its call
        runs none of the others.
        """
        self._sock.close()
        self._claims.close()
        self._slate.mark.release()

    def _mind_bars(self) -> None:
        """Have what is written on a terminal appear above the bars that may be on it."""
        if any(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr)):
            mark = self._slate.mark
            standins.bars.are_shown = lambda: mark[BARS]
            standins.install()

    def _initialize(self, initializer: bytes | None) -> bool:
        if initializer is None:
            return True
        try:
            function, args = pickle.loads(initializer)  # noqa: S301 - made by the parent
            if self._globals is not None:
                self._globals.adopt(function)
            function(*args)
            if self._globals is not None:
                self._globals.collect(function)
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
            self._send(channel.BROKEN, 0, pickle.dumps(pack_error(error)))
            return False
        return True

    def _serve_batch(self, number: int, surroundings: Surroundings) -> None:
        mark = self._slate.mark
        if not self._claim(number):
            return
        mark[SENDING] = number
        try:
            kind, payload = self._run(number)
        finally:
            if os.getpid() != self._pid:  # a child of the task's own has come back out of it
                os._exit(0)
        surroundings.restore()
        _flush()
        self._send(kind, number, payload)
        mark[POSITION] = NOWHERE

    def _claim(self, number: int) -> bool:
        """Return whether the batch is still ours: the parent may have taken it back."""
        if self._claimed is None:
            self._claimed = self._claims.take()
        # The token of a later batch is kept until that comes.
        if self._claimed != number:
            return False
        self._claimed = None
        return True

    def _run(self, number: int) -> tuple[int, bytes]:
        try:
            batch = self._load()
        except BaseException as error:  # noqa: BLE001 - loading runs the user's code
            return channel.REFUSED, pickle.dumps(pack_error(_unloadable(error)))
        isolation = Isolation(batch, self._depot, number)
        report = execute(batch, self._slate.mark, isolation)  # type: ignore[arg-type]  # all that it needs
        isolation.close(report)
        if self._globals is not None:
            for function in batch.functions.values():
                self._globals.collect(function)
        memo = sys.modules.get("flowpar.memo")
        if memo is not None:  # a task may have called cached functions
            memo.commit_all()
        settle()
        del batch, isolation
        remote = _remote()
        if remote is not None:  # a task may have kept what came with its arguments
            remote.hold_all()
        try:
            return channel.REPORT, dump_report(report, self._depot, number)
        except BaseException as error:  # noqa: BLE001 - pickling runs the user's code
            if self._depot is not None:
                self._depot.sweep(self._pid, [number])
            return channel.REFUSED, pickle.dumps(pack_error(_unsendable(error)))

    def _load(self) -> Batch:
        body, self._body = self._body, b""
        return self._shelf.open(body)

    def _send(self, kind: int, number: int, payload: bytes = b"") -> None:
        self._writer.put(kind, number, payload)
        self._writer.flush()


def _remote() -> Any:
    """Return the module by which tasks use what other processes serve; None: none does."""
    return sys.modules.get("flowpar.common.remote")


def _load_function(data: bytes | bytearray) -> Any:
    remote = _remote()
    before = remote.known() if remote is not None else frozenset()
    function = pickle.loads(data)  # noqa: S301 - made by the parent
    remote = _remote()
    if remote is not None:
        remote.note_captured(before)
    return function


def _unloadable(error: BaseException) -> NotPicklable:
    refusal = NotPicklable(
        "the function or arguments could not be loaded in the worker: "
        f"{type(error).__name__}: {error}"
    )
    refusal.__cause__ = error
    return refusal


def _unsendable(error: BaseException) -> TaskError:
    failure = TaskError(
        f"the results of the batch could not be sent back: {type(error).__name__}: {error}"
    )
    failure.__cause__ = error
    return failure


def _flush() -> None:
    with contextlib.suppress(ValueError, OSError):
        standins.drain()
    for stream in (sys.stdout, sys.stderr):
        # It may have been replaced, or be closed, or nobody may read it.
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.flush()
