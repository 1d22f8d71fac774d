"""Where workers come from: a nanny, or the parent itself; the parent's side of both."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import selectors
import socket
import subprocess
import sys
import warnings
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from flowpar.errors import PoolError
from flowpar.pools import nanny, process_worker
from flowpar.pools.groups import kill_group, kill_rest_of_group
from flowpar.pools.home import home
from flowpar.pools.remote import Files
from flowpar.pools.resources import thread_limits
from flowpar.pools.slate import memory_file
from flowpar.pools.surroundings import Context

_FAREWELL_SECONDS: Final = 2.0


MOST_MISSES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the workers of a pool are to be."""

    width: int
    """How many."""
    start_method: str
    """ "forkserver", "spawn" or "fork"."""
    initializer: bytes | None
    """Pickle of a function and its arguments, called first in each."""
    idle_timeout: float | None
    """Seconds without work after which they are ended."""
    max_tasks_per_worker: int | None
    """Calls after which each is replaced."""
    max_worker_memory: float | None
    """Bytes of resident memory above which each is replaced."""
    nice: int
    """Added to their niceness."""
    pin: bool
    """Whether each is bound to one CPU."""
    shares_globals: bool = False
    """Whether functions of ``__main__`` share what they set there."""
    most_misses: int = MOST_MISSES
    """Workers that die before they begin a batch, after which it is charged with that."""


class Notice(NamedTuple):
    """What a nursery has to say of a worker; `nanny` has the words."""

    what: int
    number: int
    pid: int
    value: int


class NurseryGoneError(Exception):
    """The nanny has gone, or does not answer."""


class Nursery(Protocol):
    """Starts, kills and reaps workers; for one thread."""

    def fileno(self) -> int:
        """Return a descriptor that can be read when there are notices."""

    def start(self, number: int, files: Files) -> int:
        """Start a worker; return its process id, or zero if a notice will tell.

        The caller closes the files.
        """

    def kill(self, number: int) -> None:
        """Kill a worker and its process group, if it lives."""

    def notices(self) -> list[Notice]:
        """Return what is new."""

    def close(self) -> None:
        """Kill all workers."""

    def abandon(self) -> None:
        """Let go of everything, in a process forked from this one."""


def make_nursery(settings: Settings) -> Nursery:
    """Return the nursery for a start method."""
    if settings.start_method == "fork":
        return ForkNursery()
    # Apple's libraries do not survive a fork.
    forks = settings.start_method == "forkserver" and sys.platform != "darwin"
    return NannyNursery(forks=forks)


def context_file(settings: Settings, cpu: int | None) -> int:
    """Return the descriptor of a file with what a worker takes over from this process.

    Parameters
    ----------
    settings
        How the workers are to be.
    cpu
        The one that this worker is bound to, if it is to one.
    """
    environ = dict(os.environ)
    environ.update(thread_limits(settings.width, environ))
    try:
        folder = os.getcwd()  # noqa: PTH109 - as `sys.path` has it
    except OSError:  # deleted
        folder = None
    context = Context(
        path=tuple(str(entry) or folder or "." for entry in sys.path),
        argv=tuple(sys.argv) if hasattr(sys, "argv") else (),
        folder=folder,
        environ=environ,
        initializer=settings.initializer,
        depot=home(),
        nice=settings.nice,
        cpu=cpu,
        shares_globals=settings.shares_globals,
    )
    return memory_file(pickle.dumps(context))


class NannyNursery:
    """A nanny, which is a process of its own."""

    def __init__(self, *, forks: bool) -> None:
        command = _command()
        self._sock, theirs = socket.socketpair()
        with contextlib.ExitStack() as undo, theirs:
            undo.enter_context(self._sock)
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [
                    *command,
                    "run_nanny",
                    str(theirs.fileno()),
                    str(os.getpid()),
                    str(int(forks)),
                    *home().folders,
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # The terminal's signals are for the parent alone.
                start_new_session=True,
            )
            undo.pop_all()
        self._sock.setblocking(False)  # noqa: FBT003 - no keyword there
        self._unread = b""

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def start(self, number: int, files: Files) -> int:
        """Ask for a worker."""
        self._ask(nanny.START, number, files)
        return 0

    def kill(self, number: int) -> None:
        """Ask for the end of a worker."""
        self._ask(nanny.KILL, number, ())

    def _ask(self, what: int, number: int, files: tuple[int, ...]) -> None:
        try:
            socket.send_fds(self._sock, [nanny.REQUEST.pack(what, number)], files)
        except (BlockingIOError, BrokenPipeError, ConnectionError) as error:
            raise NurseryGoneError from error

    def notices(self) -> list[Notice]:
        """Return what the nanny has said."""
        try:
            data = self._sock.recv(1 << 16)
        except BlockingIOError:
            return []
        except ConnectionError as error:
            raise NurseryGoneError from error
        if not data:
            raise NurseryGoneError
        data = self._unread + data
        whole = len(data) // nanny.NOTICE.size * nanny.NOTICE.size
        self._unread = data[whole:]
        return [Notice(*fields) for fields in nanny.NOTICE.iter_unpack(data[:whole])]

    def close(self) -> None:
        """Have the nanny kill all workers and end, and wait for that."""
        try:
            self._sock.send(nanny.REQUEST.pack(nanny.END, 0))
            self._sock.shutdown(socket.SHUT_WR)
            self._sock.settimeout(_FAREWELL_SECONDS)
            while self._sock.recv(1 << 16):  # the end of file is the nanny's end
                pass
        except OSError:  # it has gone already, or it hangs
            self._process.kill()
        self._sock.close()
        self._process.wait()

    def abandon(self) -> None:
        """Close the socket, in a process forked from this one."""
        self._sock.close()
        self._process.returncode = 0  # it is not our child; do not warn that it still runs


def _command() -> list[str]:
    """Return the head of the command line of a nanny."""
    places = [importlib.util.find_spec(name) for name in ("flowpar", "cloudpickle")]
    files = [place.origin for place in places if place is not None and place.origin]
    if not sys.executable or len(files) != len(places):
        raise PoolError(
            "processes cannot be started: this Python does not know its own executable, or "
            'flowpar and cloudpickle are not files. Use scheduler="threads"'
        )
    # As multiprocessing does, so that -O, -W, -X and the like hold in workers too.
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-c", nanny.BOOTSTRAP, *files]


class ForkNursery:
    """Workers forked from the memory of this process, at the user's own risk.

    They have all that the parent has, without pickling; also each lock that one of the parent's
    other threads held at that moment, for ever. No nanny watches over them: what a task has
    started in a session of its own outlives the pool.
    """

    def __init__(self) -> None:
        if not hasattr(os, "pidfd_open") or not hasattr(os, "fork"):
            raise PoolError(
                'start_method="fork" needs Linux 5.3 or newer; use "forkserver" or "spawn"'
            )
        self._selector = selectors.DefaultSelector()
        self._pids: dict[int, int] = {}
        self._files: dict[int, int] = {}

    def fileno(self) -> int:
        """Return what can be read when a worker has ended."""
        # An epoll object can itself be waited for.
        return self._selector.fileno()

    def start(self, number: int, files: Files) -> int:
        """Fork a worker; return its process id."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # or what is in its buffer would be written twice
        parent = os.getpid()
        pid = _fork()
        if pid == 0:
            process_worker.main(files, parent)
        with contextlib.suppress(OSError):  # it was faster, or has ended
            os.setpgid(pid, pid)
        self._pids[number] = pid
        self._files[number] = os.pidfd_open(pid)
        self._selector.register(self._files[number], selectors.EVENT_READ, number)
        return pid

    def kill(self, number: int) -> None:
        """Kill a worker and its group."""
        if number in self._pids:
            kill_group(self._pids[number])

    def notices(self) -> list[Notice]:
        """Return who has ended."""
        return [self._reap(key.data) for key, _ in self._selector.select(0)]

    def _reap(self, number: int) -> Notice:
        pid = self._pids.pop(number)
        self._selector.unregister(self._files[number])
        os.close(self._files.pop(number))
        kill_rest_of_group(pid)  # before its id is free
        try:
            _, status = os.waitpid(pid, 0)
        except ChildProcessError:  # somebody in this process waits for any child
            return Notice(nanny.EXITED, number, pid, 0)
        return Notice(nanny.EXITED, number, pid, os.waitstatus_to_exitcode(status))

    def close(self) -> None:
        """Kill and reap all workers."""
        for number in list(self._pids):
            self.kill(number)
        for number in list(self._pids):
            self._reap(number)
        self._selector.close()

    def abandon(self) -> None:
        """Close the descriptors, in a process forked from this one."""
        while self._files:  # only once, as the process may fork again
            os.close(self._files.popitem()[1])
        self._selector.close()


def _fork() -> int:
    if tuple(sys.version_info) < (3, 12):  # a tuple, which mypy does not see through
        return os.fork()
    with warnings.catch_warnings():
        # It warns of threads, but the user has asked for a fork by name.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()
