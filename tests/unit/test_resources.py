"""CPUs are counted as this process may use them."""

import os

import pytest

from flowpar.pools import resources
from flowpar.pools.resources import THREAD_VARIABLES, cgroup_quota, cpu_count, thread_limits


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def quota(tmp_path):
    def quota(membership, **files):
        write(tmp_path / "membership", membership)
        return cgroup_quota(str(tmp_path / "membership"), str(tmp_path / "mount"))

    return quota


def test_no_quota(quota, tmp_path):
    assert quota("0::/") is None
    assert quota("") is None
    assert quota("nonsense\n\n:") is None
    assert cgroup_quota(str(tmp_path / "absent"), str(tmp_path)) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000\n", None), ("150000 100000\n", 1.5), ("0 0", None), ("", None), ("x y", None)],
)
def test_version_two(quota, tmp_path, text, expected):
    write(tmp_path / "mount/a/b/cpu.max", text)
    assert quota("0::/a/b\n") == expected


def test_the_smallest_on_the_way_up_counts(quota, tmp_path):
    write(tmp_path / "mount/a/b/cpu.max", "400000 100000")
    write(tmp_path / "mount/a/cpu.max", "250000 100000")
    write(tmp_path / "mount/cpu.max", "max 100000")
    assert quota("0::/a/b") == 2.5


def test_a_path_as_it_is_outside_of_the_container(quota, tmp_path):
    write(tmp_path / "mount/cpu.max", "200000 100000")
    assert quota("0::/docker/0123/../456") == 2


def test_version_one(quota, tmp_path):
    folder = tmp_path / "mount/cpu,cpuacct/a"
    write(folder / "cpu.cfs_quota_us", "50000\n")
    write(folder / "cpu.cfs_period_us", "100000\n")
    write(tmp_path / "mount/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "mount/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert quota("3:memory:/x\n2:cpu,cpuacct:/a\n1:cpuset:/\n") == 0.5
    assert quota("3:memory:/a\n") is None


@pytest.mark.parametrize(
    ("affinity", "limit", "expected"),
    [(8, None, 8), (8, 2.0, 2), (8, 2.1, 3), (2, 16.0, 2), (4, 0.1, 1)],
)
def test_cpu_count(monkeypatch, affinity, limit, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(resources, "cgroup_quota", lambda: limit)
    assert cpu_count() == expected


def test_cpu_count_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(resources, "cgroup_quota", lambda: None)
    assert cpu_count() == os.cpu_count()


def test_thread_limits(monkeypatch):
    monkeypatch.setattr(resources, "cpu_count", lambda: 8)
    assert thread_limits(2, {}) == dict.fromkeys(THREAD_VARIABLES, "4")
    assert thread_limits(100, {})["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in thread_limits(2, {"OMP_NUM_THREADS": "7"})


def test_the_widest_of_several_runs_limits_the_threads_of_libraries(monkeypatch):
    import numpy as np
    import threadpoolctl

    from flowpar.pools import native

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(native, "cpu_count", lambda: 4)
    assert np.ones(3) @ np.ones(3) == 3

    def threads():
        return {info["num_threads"] for info in threadpoolctl.threadpool_info()}

    with threadpoolctl.threadpool_limits(3):
        before = threads()
        assert native.limit(1)
        assert native.limit(4)
        assert threads() == {1}
        native.release(1)
        assert threads() == {1}
        native.release(4)
        assert threads() == before
