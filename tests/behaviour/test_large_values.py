"""Large values stay in files of shared memory: nothing is copied, spoilt or left behind."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from support.depots import files
from support.gates import hold

import flowpar
from flowpar import delayed, spilling
from flowpar.errors import FlowparWarning
from flowpar.pools import home, shared
from flowpar.pools.depot import SHARED_FROM, Deposit, Depot

LARGE = 200_000
"""Numbers in an array that is worth a file."""


@pytest.fixture(autouse=True)
def _nothing_left():
    yield
    gc.collect()
    assert files() == []


@pytest.fixture
def small_home():
    """Have the next processes started with another depot, and end them after."""

    def renew():
        shared.close_all()
        home.close_home()

    renew()
    yield renew
    renew()


@delayed
def make(n, size=LARGE):
    return np.full(size, float(n))


@delayed
def scale(values, by=2):
    values *= by  # copy-on-write: it is nobody else's
    return values


@delayed
def first(*arrays):
    return [float(array[0]) for array in arrays]


def run(*targets, **options):
    return flowpar.compute(*targets, scheduler="processes", workers=2, **options)


def test_what_a_task_writes_to_its_argument_nobody_else_sees():
    made = [make(n) for n in range(1, 9)]
    *scaled, seen = run(
        *[scale(each) for each in made], *[scale(each, 3) for each in made], first(*made)
    )
    assert [float(array[-1]) for array in scaled[:8]] == [2.0 * n for n in range(1, 9)]
    assert [float(array[-1]) for array in scaled[8:]] == [3.0 * n for n in range(1, 9)]
    assert seen == [float(n) for n in range(1, 9)]


@delayed
def listed(n):
    return [n]


@delayed
def grow(values):
    values.append("more")
    return values


def test_small_ones_neither_also_inside_a_batch():
    made = [listed(n) for n in range(200)]
    grown = [grow(each) for each in made]
    again = [grow(each) for each in made]
    found = run(*made, *grown, *again)
    assert found[:200] == tuple([n] for n in range(200))
    assert found[200:400] == found[400:] == tuple([n, "more"] for n in range(200))


@delayed
def pair(n):
    return {"a": [n], "b": np.full(LARGE, float(n))}


@delayed
def spoil(part):
    part[0] = -1
    return part[0]


def test_nor_what_is_done_to_an_item():
    found = []
    for n in range(20):
        both = pair(n)
        found += [
            spoil(both["a"]),
            spoil(both["a"]),
            spoil(both["b"]),
            both["a"],
            both["b"][3],
            both,
        ]
    values = run(*found)
    for n in range(20):
        *spoilt, a, b, both = values[6 * n : 6 * n + 6]
        assert spoilt == [-1, -1, -1]
        assert (a, float(b)) == ([n], n)
        assert both["a"] == [n]
        assert float(both["b"][0]) == n


def test_values_are_ordinary_arrays_that_outlive_everything():
    (array,) = run(make(7), make(8))[:1]
    small_again = run(make(3, 10), make(4, 10))[0]
    assert files() == []  # it is mapped, and has no name any more
    shared.close_all()
    home.close_home()
    array += 1
    array.sort()
    assert array.flags.writeable
    assert float(array.sum()) == 8.0 * LARGE
    assert small_again.flags.writeable


def test_values_of_this_process_are_sent_once_for_all(monkeypatch):
    written = []
    put = Depot.put
    monkeypatch.setattr(Depot, "put", lambda *args: written.append(args) or put(*args))
    given = delayed(np.arange(float(LARGE)))
    assert run(*[first(given, make(n)) for n in range(12)]) == tuple([0.0, n] for n in range(12))
    here = delayed(np.arange, pool="threads")(float(LARGE))
    assert run(*[first(here, make(n)) for n in range(12)]) == tuple([0.0, n] for n in range(12))
    assert len(written) == 2


@delayed
def broken(_):
    raise ValueError("no")


def test_nothing_is_left_of_a_run_that_fails():
    with pytest.raises(ValueError, match="no"):
        run(broken(first(*[make(n) for n in range(8)])), *[scale(make(n)) for n in range(8)])
    with pytest.raises(flowpar.RunFailed):
        run(broken(make(1)), scale(make(2)), on_error="continue")


def test_nothing_is_left_of_a_worker_that_is_killed_while_it_writes(tmp_path):
    path = str(tmp_path / "began")

    @delayed(timeout=60)
    def kill_self():
        # What is in a batch before it was written under the number of this sending.
        folder = home_of_worker().folders[0]
        Path(folder, f"{os.getpid()}-{current_number()}-77").write_bytes(b"x" * 100)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(flowpar.WorkerDied):
        run(kill_self())
    late = delayed(_late, timeout=0.5)
    with pytest.raises(flowpar.TaskTimeout):
        run(late(path))
    wait_for(lambda: files() == [])


def home_of_worker():
    return _worker()._depot


def current_number():
    return _worker()._slate.mark[1]


def _worker():
    from flowpar.pools.process_worker import ProcessWorker

    return next(each for each in gc.get_objects() if type(each) is ProcessWorker)


def _late(path):
    folder = home_of_worker().folders[0]
    Path(folder, f"{os.getpid()}-{current_number()}-77").write_bytes(b"x" * 100)
    hold(path)


def wait_for(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        gc.collect()


def test_a_cancelled_run_leaves_nothing(tmp_path):
    path = tmp_path / "gate"
    holding = delayed(hold)(str(path))
    done = flowpar.submit([*[make(n) for n in range(6)], holding], scheduler="processes", workers=2)
    wait_for(lambda: len(files()) >= 1)
    done.cancel()
    with pytest.raises(CancelledError):
        done.result(30)
    del done
    wait_for(lambda: files() == [])


SCRIPT = """
import os, sys, signal, time
import numpy as np
import flowpar
from flowpar import delayed, spilling
from flowpar.pools import home

@delayed
def make(n):
    return np.full(200_000, float(n))

@delayed
def wait(*arrays):
    print(*home.__dict__.get("nothing", []), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    print(*home.home().folders, flush=True)
    flowpar.compute(wait(*[make(n) for n in range(5)]), scheduler="processes", workers=2,
                    start_method=sys.argv[1])
"""


@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_a_killed_program_leaves_nothing_for_long(tmp_path, start_method):
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, "script.py", start_method], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as program:
        folders = [Path(name) for name in program.stdout.readline().split()]
        assert len(folders) == 2
        assert program.stdout.readline() == "\n"  # the last task has begun
        assert len(list(folders[0].iterdir())) >= 2
        program.send_signal(signal.SIGKILL)
        program.wait()
    if start_method == "fork":  # it has no nanny: the next program sweeps
        code = "from flowpar.pools import home; home.home()"
        wait_for(
            lambda: subprocess.call([sys.executable, "-c", code]) == 0 and not folders[0].exists()
        )
    wait_for(lambda: not any(folder.exists() for folder in folders))


def test_an_interrupted_program_leaves_nothing(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, "script.py", "forkserver"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        folders = [Path(name) for name in program.stdout.readline().split()]
        program.stdout.readline()
        program.send_signal(signal.SIGINT)
        assert program.wait(20) != 0
    assert not any(folder.exists() for folder in folders)


def test_a_fork_of_this_process_takes_nothing_away():
    held = home.seal(np.zeros(LARGE))
    child = os.fork()
    if not child:
        del held
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert Path(held.path).exists()
    assert float(held.load().sum()) == 0


def test_without_shared_memory_the_disk_serves_and_people_are_told_once(
    small_home, monkeypatch, tmp_path
):
    monkeypatch.setattr(home, "MEMORY", str(tmp_path / "none"))
    with pytest.warns(FlowparWarning, match="on disk") as caught:
        found = run(*[scale(make(n)) for n in range(6)], first(make(3), make(4)))
    assert [float(array[0]) for array in found[:6]] == [2.0 * n for n in range(6)]
    assert len(caught) == 1
    assert len(home.home().folders) == 1
    del found
    small_home()


FULL = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from flowpar.pools.depot import Depot, Deposit

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
depot = Depot((sys.argv[1], sys.argv[2]))
put = depot.put(np.zeros(1_000_000))
assert isinstance(put, bytes), put
assert len(put) > 8_000_000
assert isinstance(depot.put(np.zeros(100_000)), Deposit)
"""


def test_a_full_memory_leaves_no_half_of_a_file(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    subprocess.run([sys.executable, "-c", FULL, *map(str, folders)], check=True, timeout=60)
    assert [len(list(folder.iterdir())) for folder in folders] == [1, 0]


def test_the_second_folder_serves_when_the_first_is_full(tmp_path):
    depot = Depot((str(tmp_path / "gone"), str(tmp_path)))
    put = depot.put({"a": np.arange(LARGE), "b": "c" * 10})
    assert isinstance(put, Deposit)
    assert Path(put.path).parent == tmp_path
    assert put.load()["b"] == "c" * 10
    assert np.array_equal(put.load()["a"], np.arange(LARGE))
    depot.remove()
    assert not tmp_path.exists()


@pytest.mark.parametrize(
    "value",
    [
        b"x" * (2 * SHARED_FROM),
        "é" * SHARED_FROM,
        list(range(SHARED_FROM)),
        np.asfortranarray(np.arange(400_000.0).reshape(400, 1000)),
        np.arange(400_000)[::2],
        np.array([None, "a"] * SHARED_FROM, dtype=object),
        np.zeros(SHARED_FROM, dtype=[("a", "<i4"), ("b", "O")]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_large_comes_back_as_it_was(value):
    (back,) = flowpar.compute(
        delayed(lambda v: v)(value), delayed(lambda v: [v])(value), scheduler="processes"
    )[:1]
    assert type(back) is type(value)
    if isinstance(value, np.ndarray):
        assert np.array_equal(back, value)
        assert back.dtype == value.dtype
        if value.flags.forc:
            assert back.flags.f_contiguous == value.flags.f_contiguous
    else:
        assert back == value


def test_the_record_tells_the_size():
    done = flowpar.run(scale(make(1)), scheduler="processes", workers=2)
    assert done.tasks[-1].bytes > 8 * LARGE


# ---------------------------------------------------------------------------- little memory


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_more_than_may_be_held_goes_to_disk_and_comes_back(scheduler):
    size = 10 * LARGE  # so that each is a batch of its own
    made = [make(n, size) for n in range(12)]
    options = {"scheduler": scheduler, "workers": 2}
    done = flowpar.run([first(*made), *made], memory_limit=4 * 8 * size, **options)
    values = done.values[0]
    assert values[0] == [float(n) for n in range(12)]
    assert [float(array.sum()) for array in values[1:]] == [float(n) * size for n in range(12)]
    assert all(array.flags.writeable for array in values[1:])
    # What is being made when the limit is reached is held as well.
    assert 4 * 8 * size <= done.peak_bytes < 9 * 8 * size
    assert flowpar.run([first(*made), *made], **options).peak_bytes >= 12 * 8 * size


def test_what_is_needed_last_goes_first(monkeypatch):
    moved = []
    put = spilling.put_on_disk
    monkeypatch.setattr(
        spilling, "put_on_disk", lambda value: moved.append(int(value[0])) or put(value)
    )
    size = 10 * LARGE
    soon, late = make(1, size), make(2, size)
    between = [first(soon, make(10 + n, size)) for n in range(4)]
    pause = delayed(lambda array, _: float(array[0]))
    flowpar.run(
        [late, between, pause(soon, between)], scheduler="sync", memory_limit=1.5 * 8 * size
    )
    assert moved[0] == 2  # it is asked for, so it is needed at the end


def test_what_does_not_pickle_stays():
    locked = delayed(lambda n: [threading.Lock(), bytearray(8 * LARGE)])
    kept = [locked(n) for n in range(4)]
    counts = flowpar.compute(
        [delayed(len)(each) for each in kept], scheduler="sync", memory_limit=1
    )
    assert counts == [2] * 4


class Fussy(Exception):
    def __init__(self, one, other):
        super().__init__("one text")


def test_what_does_not_come_back_stays():
    made = [delayed(lambda n: [Fussy(1, 2), bytearray(LARGE)])(n) for n in range(4)]
    found = flowpar.compute(made, scheduler="sync", memory_limit=1)
    assert [type(each[0]) for each in found] == [Fussy] * 4


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_what_is_inside_of_containers_counts_too(scheduler):
    size = 8 * LARGE
    made = [delayed(lambda n: {"image": [np.full(LARGE, n)]})(n) for n in range(12)]
    total = delayed(lambda *all_: sum(int(each["image"][0][-1]) for each in all_))(*made)
    done = flowpar.run(total, scheduler=scheduler, workers=2, memory_limit=4 * size)
    assert done.value == sum(range(12))
    assert size < done.peak_bytes < 9 * size


def test_so_do_values_that_came_of_a_returned_delayed_value():
    made = [delayed(lambda n: make(n))(n) for n in range(12)]
    done = flowpar.run(first(*made), scheduler="sync", memory_limit=4 * 8 * LARGE)
    assert done.value == [float(n) for n in range(12)]
    assert done.peak_bytes < 9 * 8 * LARGE


def test_values_too_small_for_a_file_are_not_tried_again_and_again(monkeypatch):
    tried = []
    monkeypatch.setattr(spilling, "put_on_disk", lambda value: tried.append(len(value)))
    made = [delayed(bytes)(10_000) for _ in range(50)] + [delayed(bytes)(100_000)]
    flowpar.compute(made, scheduler="sync", memory_limit=1)
    assert tried == [100_000]
