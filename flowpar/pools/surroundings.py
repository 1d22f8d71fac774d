"""What a worker process is given to live in, and put back after each batch."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import random
import signal
import sys
from dataclasses import dataclass
from typing import Any, Final

from flowpar.pools import worker
from flowpar.pools.depot import Depot

OOM_SCORE: Final = 500
"""Added to a worker's, so that the kernel ends a worker before it ends the parent."""

_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>
_PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a worker takes over from the parent, as it is when the worker is started."""

    path: tuple[str, ...]
    """`sys.path`."""
    argv: tuple[str, ...]
    """`sys.argv`."""
    folder: str | None
    """The working directory, if there is one."""
    environ: dict[str, str]
    """Environment variables."""
    initializer: bytes | None
    """Pickle of a function and its arguments."""
    depot: Depot
    """Where it puts large results."""
    nice: int
    """Added to its niceness."""
    cpu: int | None
    """The CPU that it is bound to, if it is to one."""
    shares_globals: bool
    """Whether functions of ``__main__`` share what they set there."""

    @staticmethod
    def load(number: int) -> Context:
        """Read a context from the start of a file, and close it."""
        with open(number, "rb") as file:
            file.seek(0)
            context = pickle.load(file)  # noqa: S301 - made by the parent
        assert isinstance(context, Context)  # noqa: S101 - what we believe
        return context


def become_worker(context: Context, parent: int) -> None:
    """Turn this process, whose parent has the given id, into a worker."""
    die_with_parent(parent)
    _lead_own_group()
    _reset_signals()
    _close_stdin()
    _offer_to_oom_killer()
    if context.nice:
        os.nice(context.nice)
    if context.cpu is not None:
        os.sched_setaffinity(0, {context.cpu})
    _take_environ(context.environ)
    sys.path[:] = context.path
    sys.argv[:] = context.argv
    if context.folder is not None:
        _change_folder(context.folder)
    _reseed()
    _print_whole_lines()
    name_process()
    worker.IN_PROCESS = True


def name_process() -> None:
    """Have multiprocessing, and so logging, know that this is no main process."""
    from multiprocessing import process  # noqa: PLC0415 - the parent may do without

    process.current_process().name = f"FlowparWorker-{os.getpid()}"


def prctl(option: int, value: int) -> bool:
    """Return whether Linux took an order for this process; False on other systems."""
    if sys.platform != "linux":
        return False
    import ctypes  # noqa: PLC0415 - slow to import, and only Linux needs it

    try:
        return bool(_c_library().prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


@functools.cache
def _c_library() -> Any:
    """Return the library of C, which the nanny has loaded when it forks a worker."""
    import ctypes  # noqa: PLC0415 - as above

    return ctypes.CDLL(None)


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when the thread that forked it ends.

    The thread is the nanny's only one, or the transport thread of a pool, which ends its workers
    before itself.
    """
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before we asked
        os._exit(0)


def _lead_own_group() -> None:
    with contextlib.suppress(OSError):  # the parent was faster, and this is already so
        os.setpgid(0, 0)


def _reset_signals() -> None:
    """Let signals do what they do to any program; the parent's handlers are not for us."""
    signal.set_wakeup_fd(-1)
    # Also numbers that are no signals, which have no handler: to ask for those that are takes long.
    for number in range(1, signal.NSIG):
        handler = signal.getsignal(number)
        if callable(handler) or number in {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _close_stdin() -> None:
    """Put /dev/null on descriptor 0, so that no task or its child eats the terminal's input."""
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0)
        os.close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good


def _offer_to_oom_killer() -> None:
    try:
        # As bytes: no worker has to import a codec for it, which takes longer than all the rest.
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:  # noqa: PTH123
            score = min(1000, int(file.read()) + OOM_SCORE)
            file.seek(0)
            file.write(b"%d" % score)
    except (OSError, ValueError):  # not Linux, or not allowed
        return


def _take_environ(environ: dict[str, str]) -> None:
    """Make the environment that of the parent, which most of it is already."""
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    for name, value in environ.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _change_folder(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError:  # it is gone: so it is for the parent
        return


def _reseed() -> None:
    """Give this process random numbers of its own, also if it was forked."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _print_whole_lines() -> None:
    """Write each printed line at once: none is lost in a crash, and lines stay whole."""
    for stream in (sys.stdout, sys.stderr):
        # It may have been replaced by something else, or be closed.
        with contextlib.suppress(AttributeError, ValueError, OSError):
            # Also under PYTHONUNBUFFERED, which would write each piece of a line by itself.
            stream.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]


class Surroundings:
    """What a task may change for the whole process, as it should be between batches."""

    def __init__(self) -> None:
        self._folder = _folder()
        self._umask = _umask()
        # The bytes behind os.environ: comparing them costs a microsecond, decoding them twenty.
        self._environ = dict(_environ_bytes())

    def restore(self) -> None:
        """Put back the working directory, the umask and the environment."""
        os.umask(self._umask)
        if self._folder is not None and _folder() != self._folder:
            _change_folder(self._folder)
        if _environ_bytes() != self._environ:
            os.environ.clear()
            for name, value in self._environ.items():
                os.environ[os.fsdecode(name)] = os.fsdecode(value)


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - see read_text
    except OSError:  # deleted
        return None


def _umask() -> int:
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


def _environ_bytes() -> dict[bytes, bytes]:
    return os.environ._data  # type: ignore[attr-defined,no-any-return]
