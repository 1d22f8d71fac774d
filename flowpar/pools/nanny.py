"""The nanny: a small process that starts workers, says how they ended, and outlives none of them.

It is a fresh interpreter with one thread, which knows nothing of the user's script, so that its
forks are clean: no lock is held in them by a thread that is not there. When the parent goes, by
whatever death, the nanny ends all workers, what they have started, and itself.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Final, NoReturn

from flowpar.pools import process_worker
from flowpar.pools.depot import Depot
from flowpar.pools.groups import children_of, is_tracker, kill_group, kill_rest_of_group
from flowpar.pools.surroundings import Context, adopt_orphans, name_process

REQUEST: Final = struct.Struct("=BQ")
"""(what, worker's number); the files of a worker to be started come with it."""
START: Final = 1
KILL: Final = 2
END: Final = 3
"""Said before the parent closes the socket; it has gone if it did not say so."""

NOTICE: Final = struct.Struct("=BQqq")
"""(what, worker's number, its process id, a number)."""
STARTED: Final = 1
EXITED: Final = 2
"""The number is the exit code; below zero, the signal."""
STOPPED: Final = 3
"""The number is the signal."""
FAILED: Final = 4
"""The worker could not be started; the number is the errno."""

BOOTSTRAP: Final = """\
import sys
sys.path[:] = [entry for entry in sys.path if entry]
from importlib.util import module_from_spec, spec_from_file_location
def load(name, file):
    spec = spec_from_file_location(name, file)
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
load("flowpar", sys.argv[1])
load("cloudpickle", sys.argv[2])
from flowpar.pools import nanny
getattr(nanny, sys.argv[3])(*sys.argv[4:])
"""
"""Loads what we need from where the parent has it, and nothing from the current directory."""

_FILES_A_WORKER: Final = 4
_PARENT_CHECK_SECONDS: Final = 0.5
_FAREWELL_SECONDS: Final = 1.5


def run_nanny(sock: str, parent: str, forks: str, *folders: str) -> NoReturn:
    """Be the nanny; the arguments are those of a command line.

    Parameters
    ----------
    sock
        Descriptor of the socket to the parent.
    parent
        Process id of the parent.
    forks
        "1" if workers are forked, "0" if each is a fresh interpreter.
    *folders
        Those of the parent's depot, to be taken away if it ends without a word.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    adopt_orphans()
    name_process()  # whose module the workers then have
    nanny = Nanny(socket.socket(fileno=int(sock)), int(parent), Depot(folders), forks=forks == "1")
    try:
        nanny.serve()
    finally:
        nanny.end()


def run_worker(*arguments: str) -> NoReturn:
    """Be a worker in a fresh interpreter; the arguments are those of a command line."""
    *files, parent = map(int, arguments)
    process_worker.main((files[0], files[1], files[2], files[3]), parent)


class Nanny:
    """Starts, kills and reaps workers as the parent asks."""

    def __init__(self, sock: socket.socket, parent: int, depot: Depot, *, forks: bool) -> None:
        self._sock = sock
        self._parent = parent
        self._depot = depot
        self._is_told = False
        self._forks = forks
        self._numbers: dict[int, int] = {}  # by process id
        self._pids: dict[int, int] = {}  # by number
        self._unread = b""
        self._files: list[int] = []
        self._wake_read, self._wake_write = _pipe_for_signals()
        # What is alive now is alive in all workers: do not let them copy it by looking for rubbish.
        gc.collect()
        gc.freeze()

    def serve(self) -> None:
        """Do what the parent asks until it goes."""
        while os.getppid() == self._parent:
            # The timeout is for a parent that died while a process forked from it holds its socket.
            ready, _, _ = select.select(
                [self._sock.fileno(), self._wake_read], [], [], _PARENT_CHECK_SECONDS
            )
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
                self._reap()
            if self._sock.fileno() in ready:
                self._obey()

    def end(self) -> NoReturn:
        """End every worker and what it has started, and then this process."""
        try:
            for pid in self._numbers:
                kill_group(pid)
            _end_children()
            if not self._is_told:
                self._depot.remove()
        finally:
            os._exit(0)

    def _obey(self) -> None:
        for what, number in self._requests():
            if what == START:
                self._start(number)
            elif what == END:
                self._is_told = True
            elif number in self._pids:
                kill_group(self._pids[number])

    def _requests(self) -> Iterator[tuple[int, int]]:
        try:
            data, files, _, _ = socket.recv_fds(
                self._sock, 4096, 16 * _FILES_A_WORKER, _CLOSE_ON_EXEC
            )
        except OSError:
            data, files = b"", []
        if not data:
            self.end()
        self._files += files
        self._unread += data
        whole = len(self._unread) // REQUEST.size * REQUEST.size
        requests, self._unread = self._unread[:whole], self._unread[whole:]
        yield from REQUEST.iter_unpack(requests)

    def _start(self, number: int) -> None:
        files, self._files = self._files[:_FILES_A_WORKER], self._files[_FILES_A_WORKER:]
        try:
            pid = self._fork(files) if self._forks else _spawn(files)
        except OSError as error:
            self._say(FAILED, number, 0, error.errno or 0)
            return
        finally:
            for file in files:
                os.close(file)
        with contextlib.suppress(OSError):  # it was faster, or has ended
            os.setpgid(pid, pid)
        self._numbers[pid], self._pids[number] = number, pid
        self._say(STARTED, number, pid, 0)

    def _fork(self, files: list[int]) -> int:
        nanny = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.set_wakeup_fd(-1)
            self._sock.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            process_worker.main((files[0], files[1], files[2], files[3]), nanny)
        finally:
            os._exit(1)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if not pid:
                return
            number = self._numbers.get(pid)
            if number is None:  # adopted
                continue
            if os.WIFSTOPPED(status):
                self._say(STOPPED, number, pid, os.WSTOPSIG(status))
                continue
            kill_rest_of_group(pid)
            del self._numbers[pid], self._pids[number]
            self._say(EXITED, number, pid, os.waitstatus_to_exitcode(status))

    def _say(self, what: int, number: int, pid: int, value: int) -> None:
        try:
            self._sock.sendall(NOTICE.pack(what, number, pid, value))
        except OSError:
            self.end()


_CLOSE_ON_EXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def _spawn(files: list[int]) -> int:
    """Start a worker as a fresh interpreter, and return its process id."""
    context = Context.load(os.dup(files[3]))
    # The interpreter and its options are those that this process was started with.
    head = sys.orig_argv[: sys.orig_argv.index("-c")]
    command = [*head, "-c", BOOTSTRAP, *sys.argv[1:3], "run_worker", *map(str, files)]
    for file in files:
        os.set_inheritable(file, True)  # noqa: FBT003 - no keyword there
    return os.posix_spawn(
        sys.executable,
        [*command, str(os.getpid())],
        context.environ,
        setpgroup=0,
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
    )


def _pipe_for_signals() -> tuple[int, int]:
    """Return a pipe that can be read when a child has ended or was stopped."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return read, write


def _end_children() -> None:
    deadline = time.monotonic() + _FAREWELL_SECONDS
    while time.monotonic() < deadline:
        # Those whose parent has ended are our children now, and so on.
        for pid in children_of(os.getpid()):
            if not is_tracker(pid):
                kill_group(pid)
        if not _reap_anything():
            break


def _reap_anything() -> bool:
    """Wait a moment for children to end; return whether there are any left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    select.select([], [], [], 0.002)
    return True
