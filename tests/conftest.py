"""Guards around every test: no hang, and nothing left behind."""

from __future__ import annotations

import concurrent.futures
import faulthandler
import fcntl
import gc
import multiprocessing
import multiprocessing.pool
import multiprocessing.resource_tracker
import os
import sys
import threading
import time
import warnings

import pytest

from flowpar.caching import store
from flowpar.pools import home, shared

# A process of multiprocessing's that lives as long as this one, once a pool has been spawned.
multiprocessing.resource_tracker.ensure_running()

# From Python 3.13 on, programs that tests start would colour what they say, and edit lines.
os.environ.update(PYTHON_COLORS="0", PYTHON_BASIC_REPL="1")

LIMIT = 120
"""Seconds that one test may take before the whole suite is stopped with all stacks."""


def pytest_configure(config):
    """Keep the real stderr: while a test runs, descriptor 2 is a file that dies with the process."""
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        config.real_stderr = os.dup(2)


@pytest.fixture(autouse=True)
def _no_hang(request):
    limit = request.node.get_closest_marker("limit")
    seconds = limit.args[0] if limit else LIMIT
    faulthandler.dump_traceback_later(seconds, exit=True, file=request.config.real_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


def children() -> set[int]:
    """Return the processes that this one started and that are alive, theirs included."""
    mine, found = {os.getpid()}, set()
    for entry in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            with open(f"/proc/{entry}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) in mine and fields[0] != "Z":
            mine.add(entry)
            found.add(entry)
    return found


def open_files() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # that of the folder itself
            continue
    # matplotlib keeps its fonts open.
    return {number: path for number, path in found.items() if not path.endswith(".ttf")}


def fork() -> int:
    """Fork, as users do who know that there are threads: newer Pythons warn of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def wait_until(condition, seconds: float = 5.0) -> bool:
    """Return whether the condition came true in time; asks again every few milliseconds."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        pause.wait(0.005)
    return bool(condition())


@pytest.fixture(scope="module", autouse=True)
def _nothing_left():
    """Count processes, files and names in shared memory around each module's tests."""
    before, files = children(), open_files()
    names = set(os.listdir("/dev/shm"))
    yield
    shared.close_all()
    home.close_home()
    store.close_all()
    gc.collect()  # pools of multiprocessing's close their pipes then
    assert wait_until(lambda: children() <= before), f"left running: {children() - before}"
    assert wait_until(lambda: len(open_files()) <= len(files)), (
        f"left open: {dict(open_files().items() - files.items())}"
    )
    new = set(os.listdir("/dev/shm")) - names
    left = {
        n
        for n in new
        if not n.startswith(("sem.", "psm_", "joblib_")) and not is_locked(f"/dev/shm/{n}")
    }
    assert not left, f"left in shared memory: {left}"


def is_locked(path: str) -> bool:
    """Return whether a folder is that of another program, which lives."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # it has gone since
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


POOLS = [
    "sync",
    "threads",
    "processes",
    "auto",
    "mp-pool",
    "thread-pool",
    "executor",
    "thread-executor",
]
OWN = POOLS[:4]


def _foreign(name: str):
    if name == "mp-pool":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return multiprocessing.get_context("spawn").Pool(2)
    if name == "thread-pool":
        return multiprocessing.pool.ThreadPool(2)
    if name == "executor":
        context = multiprocessing.get_context("spawn")
        return concurrent.futures.ProcessPoolExecutor(2, mp_context=context)
    return concurrent.futures.ThreadPoolExecutor(2)


def _close(pool) -> None:
    if hasattr(pool, "shutdown"):
        pool.shutdown()
    else:
        pool.terminate()
        pool.join()


@pytest.fixture(scope="module", params=POOLS)
def pool(request):
    """Everything that `scheduler=` takes, one after another."""
    if request.param in OWN:
        yield request.param
        return
    foreign = _foreign(request.param)
    yield foreign
    _close(foreign)


@pytest.fixture(params=OWN)
def own(request):
    """Flowpar's own schedulers, one after another."""
    return request.param


@pytest.fixture
def run_script(tmp_path):
    """Run a script of some lines in a new interpreter, and return how it ended."""
    import subprocess
    import textwrap

    def run(source, *args, how="file", timeout=60, **environment):
        text = textwrap.dedent(source)
        command, given = [sys.executable], None
        if how == "file":
            path = tmp_path / "script.py"
            path.write_text(text)
            command += [str(path), *args]
        elif how == "stdin":
            command += ["-"]
            given = text
        else:
            command += ["-c", text]
        return subprocess.run(
            command,
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )

    return run
