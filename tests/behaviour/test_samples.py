"""Under ``sample=`` a run notes what CPU and memory its processes use."""

import os
import subprocess
import sys
import threading

import pytest

import flowpar
from flowpar import delayed

BYTES = 60_000_000


@delayed
def hold(size):
    """Hold so much memory until it was surely seen."""
    import time

    held = bytearray(size)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(0.3)
    return len(held)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_records_tell_the_memory_of_tasks(scheduler):
    done = flowpar.run(
        [hold(1000), hold(BYTES), hold(2000)], scheduler=scheduler, workers=1, sample=0.02
    )
    small, large, _ = (task.peak_memory for task in done.tasks)
    assert large > BYTES
    if scheduler == "processes":
        assert small < large - BYTES / 2
    pids = {sample.pid for sample in done.samples}
    assert os.getpid() in pids
    assert (len(pids) > 1) == (scheduler == "processes")
    times = [sample.time for sample in done.samples]
    assert times == sorted(times)
    assert "flowpar samples" not in [thread.name for thread in threading.enumerate()]


def test_nobody_looks_unless_asked():
    done = flowpar.run(hold(10), scheduler="processes", workers=1)
    assert done.samples == []
    assert done.tasks[0].peak_memory is None


def test_it_ends_with_a_run_that_fails():
    @delayed(pool="processes")
    def fail():
        raise ValueError("as it should")

    with pytest.raises(ValueError, match="as it should") as caught:
        fail().compute(sample=True)
    assert isinstance(caught.value.run.samples, list)
    assert "flowpar samples" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("wrong", [0, -1, "often", float("nan")])
def test_wrong_values(wrong):
    with pytest.raises(flowpar.OptionError):
        flowpar.run(hold(1), sample=wrong)


def test_without_psutil_the_extra_is_named():
    source = (
        "import sys; sys.modules['psutil'] = None\n"
        "import flowpar\n"
        "try: flowpar.delayed(abs)(-1).compute(sample=True)\n"
        "except flowpar.MissingExtra as error: print(error.extra, error)\n"
        "print(flowpar.delayed(abs)(-1).compute())"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split()[0] == "resources", done.stderr
    assert "flowpar[resources]" in done.stdout
    assert done.stdout.endswith("1\n")
