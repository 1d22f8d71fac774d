"""Plain functions that remember what they returned."""

import asyncio
import concurrent.futures
import functools
import inspect
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import flowpar
from flowpar.caching import claims
from flowpar.memo import CachedFunction

CALLS = []


@flowpar.untracked
def note(what=1):
    CALLS.append(what)


@flowpar.untracked
def is_first():
    return len(CALLS) == 1


@pytest.fixture
def calls():
    CALLS.clear()
    return CALLS


@pytest.fixture
def cache(tmp_path):
    return flowpar.Cache(tmp_path / "cache")


def counted(cache, **options):
    @flowpar.cached(cache=cache, **options)
    def double(x):
        note(x)
        return 2 * x

    return double


def test_a_second_call_computes_nothing(cache, calls):
    double = counted(cache)
    assert [double(4), double(4), double(x=4), double(5)] == [8, 8, 8, 10]
    assert calls == [4, 5]


def test_a_call_can_be_looked_up_forgotten_and_made_anew(cache, calls):
    double = counted(cache)
    assert not double.check_call_in_cache(4)
    double(4)
    assert double.check_call_in_cache(4)
    assert double.call(4) == 8
    assert calls == [4, 4]
    double.clear()
    assert not double.check_call_in_cache(4)


def test_clearing_one_function_leaves_the_others(cache):
    double = flowpar.cached(lambda x: 2 * x, cache=cache)
    triple = flowpar.cached(lambda x: 3 * x, cache=cache)
    assert (double(2), triple(2)) == (4, 6)
    double.clear()
    assert (double.check_call_in_cache(2), triple.check_call_in_cache(2)) == (False, True)


def test_lambdas_on_one_line_are_told_apart(cache):
    first, second = (flowpar.cached(f, cache=cache) for f in (lambda x: x + 1, lambda x: x + 2))
    assert (first(1), second(1), first(1), second(1)) == (2, 3, 2, 3)


def test_a_shelved_value_is_there_until_it_is_cleared(cache):
    double = flowpar.cached(lambda x: np.full(100_000, x), cache=cache)
    shelved = double.call_and_shelve(4)
    assert shelved.get().sum() == 400_000
    assert pickle.loads(pickle.dumps(shelved)).get().sum() == 400_000
    shelved.clear()
    assert not double.check_call_in_cache(4)
    with pytest.raises(flowpar.FlowparError, match="call it again"):
        shelved.get()


def test_what_cannot_be_kept_is_computed_each_time_and_said_once(cache, calls):
    @flowpar.cached(cache=cache)
    def lock():
        note()
        return threading.Lock()

    with pytest.warns(flowpar.FlowparWarning, match="lock: what it returned cannot be kept"):
        lock()
    lock()
    assert calls == [1, 1]
    with pytest.raises(flowpar.FlowparError, match="cannot be kept"):
        lock.call_and_shelve()

    takes = flowpar.cached(lambda x: 1, cache=cache)
    with pytest.warns(flowpar.FlowparWarning, match="argument 0"):
        assert takes(threading.Lock()) == 1


def test_a_failure_is_not_remembered(cache, calls):
    @flowpar.cached(cache=cache)
    def fails_first():
        note()
        if is_first():
            raise ValueError("once")
        return "well"

    with pytest.raises(ValueError, match="once"):
        fails_first()
    assert fails_first() == "well"
    assert calls == [1, 1]


def test_none_is_a_value_like_any_other(cache, calls):
    @flowpar.cached(cache=cache)
    def nothing():
        note()

    assert (nothing(), nothing(), calls) == (None, None, [1])


class Scale:
    def __init__(self, factor):
        self.factor = factor

    @flowpar.cached
    def apply(self, x):
        note((self.factor, x))
        return self.factor * x

    @staticmethod
    @flowpar.cached
    def static(x):
        return x + 1


def test_a_method_depends_on_its_object(tmp_path, calls):
    with flowpar.options(cache=tmp_path):
        assert [Scale(2).apply(3), Scale(2).apply(3), Scale(5).apply(3)] == [6, 6, 15]
        assert Scale.static(1) == 2
    assert calls == [(2, 3), (5, 3)]


def test_a_decorator_above_classmethod_is_refused():
    with pytest.raises(flowpar.OptionError, match="below @staticmethod"):
        flowpar.cached(staticmethod(abs))
    with pytest.raises(flowpar.OptionError, match="no option of cached"):
        flowpar.cached(abs, retries=3)
    with pytest.raises(flowpar.OptionError, match="takes a function"):
        flowpar.cached(3)


def test_a_coroutine_function_is_awaited_once(cache, calls):
    @flowpar.cached(cache=cache)
    async def double(x):
        await asyncio.sleep(0)
        note(x)
        return 2 * x

    async def both():
        return await asyncio.gather(double(3), double(3)), await double(3)

    assert asyncio.run(both()) == ([6, 6], 6)
    assert calls == [3]


BEGUN, MAY_END = threading.Event(), threading.Event()


@flowpar.untracked
def meet():
    BEGUN.set()
    assert MAY_END.wait(60)


def test_many_coroutines_that_want_one_key_leave_threads_for_others(cache, calls):
    @flowpar.cached(cache=cache)
    async def slow(x):
        note(x)
        return await asyncio.to_thread(abs, x)

    async def all_of_them():
        return await asyncio.gather(*(slow(-(n % 2)) for n in range(200)))

    assert sum(asyncio.run(all_of_them())) == 100
    assert sorted(calls) == [-1, 0]


def test_threads_that_want_one_key_compute_it_once(cache, calls):
    BEGUN.clear()
    MAY_END.clear()

    @flowpar.cached(cache=cache)
    def slow():
        note()
        meet()
        return "value"

    found = []
    threads = [threading.Thread(target=lambda: found.append(slow())) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert BEGUN.wait(60)
    MAY_END.set()
    for thread in threads:
        thread.join(60)
    assert (found, calls) == (["value"] * 4, [1])


def test_recursion_does_not_wait_for_itself(cache):
    @flowpar.cached(cache=cache)
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(30) == 832_040


SCRIPT = """
import flowpar, sys
FACTOR = {factor}
def helper(x):
    return FACTOR * x
@flowpar.cached(cache={cache!r})
def scale(x):
    print("computing")
    return helper(x)
if __name__ == "__main__":
    print(scale(3))
"""


def run_script(folder, factor):
    path = Path(folder, "script.py")
    path.write_text(SCRIPT.format(factor=factor, cache=str(folder / "cache")))
    command = [sys.executable, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


def test_an_edited_constant_of_a_helper_is_noticed_in_a_new_interpreter(tmp_path):
    assert run_script(tmp_path, 2) == ["computing", "6"]
    assert run_script(tmp_path, 2) == ["6"]
    assert run_script(tmp_path, 3) == ["computing", "9"]
    assert run_script(tmp_path, 2) == ["6"]


FACTOR = 2


def test_a_global_that_changes_within_a_process_is_noticed(cache, monkeypatch):
    scale = flowpar.cached(scaled, cache=cache)
    assert scale(3) == 6
    monkeypatch.setitem(globals(), "FACTOR", 7)
    assert scale(3) == 21


def scaled(x):
    return FACTOR * x


def test_version_and_expires(cache, calls):
    assert counted(cache)(1) == counted(cache, version="2")(1) == 2
    assert calls == [1, 1]
    assert counted(cache, version="2", expires=0)(1) == 2
    assert calls == [1, 1, 1]


def test_it_can_be_a_task_and_travel_to_processes(tmp_path):
    scale = flowpar.delayed(flowpar.cached(scaled, cache=tmp_path / "cache"))
    tasks = [scale(n % 3) for n in range(9)]
    assert sum(flowpar.compute(tasks, scheduler="processes", workers=2)) == 18
    assert flowpar.cached(scaled, cache=tmp_path / "cache").check_call_in_cache(2)


@flowpar.cached(cache=".unused")
def module_level(x):
    return x


def test_it_pickles_and_keeps_its_name():
    assert pickle.loads(pickle.dumps(module_level)).__name__ == "module_level"
    assert isinstance(module_level, CachedFunction)
    assert module_level.__doc__ is None
    assert functools.partial(module_level, 1)


def test_a_file_argument_is_its_content(tmp_path, cache, calls):
    @flowpar.cached(cache=cache)
    def read(file):
        note()
        return Path(file).read_text()

    path = tmp_path / "in.txt"
    path.write_text("a")
    assert [read(flowpar.File(path)), read(flowpar.File(path))] == ["a", "a"]
    path.write_text("b")
    assert read(flowpar.File(path)) == "b"
    assert calls == [1, 1]
    with pytest.raises(FileNotFoundError):
        read(flowpar.File(tmp_path / "none"))


def test_a_file_that_was_not_declared_is_named_once(tmp_path, cache):
    path = tmp_path / "in.txt"
    path.write_text("a")
    read = flowpar.cached(lambda name: Path(name).read_text(), cache=cache)
    with pytest.warns(flowpar.FlowparWarning, match=r"in\.txt, which is not among"):
        read(str(path))


def test_what_a_worker_was_asked_for_is_kept_though_it_ends_at_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import flowpar, sys\n"
        f"memo = flowpar.cached(cache={str(tmp_path / 'cache')!r})\n"
        "@memo\n"
        "def double(x):\n"
        "    print('computing', x, flush=True)\n"
        "    return 2 * x\n"
        "calls = [flowpar.delayed(lambda x: double(x))(n) for n in range(4)]\n"
        "print(sum(flowpar.compute(calls, scheduler='processes', workers=2)))\n"
    )
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60
        )
        found.append(sorted(done.stdout.splitlines()))
    assert found == [["12", *(f"computing {n}" for n in range(4))], ["12"]]


# ---------------------------------------------------------------------------- within itself


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes", "auto"])
def test_a_cached_function_may_be_a_task_with_the_same_cache(cache, scheduler):
    square = flowpar.cached(_square, cache=cache)
    tasks = [flowpar.delayed(square)(n) for n in range(6)]
    assert flowpar.compute(*tasks, cache=cache, scheduler=scheduler) == (0, 1, 4, 9, 16, 25)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_may_call_what_is_another_task_of_its_run(cache, scheduler, workers):
    square = flowpar.cached(_square, cache=cache)

    def outer(n):
        return square(n) + 1

    tasks = [make(n) for n in range(20) for make in map(flowpar.delayed, (outer, _square))]
    values = flowpar.compute(*tasks, cache=cache, scheduler=scheduler, workers=workers)
    assert values == tuple(value for n in range(20) for value in (n * n + 1, n * n))


def _square(n):
    return n * n


def test_a_coroutine_may_call_itself_with_the_same_arguments(cache, tmp_path):
    path = tmp_path / "up"

    @flowpar.cached(cache=cache)
    async def fetch(url):
        if path.exists():
            return f"page of {url}"
        path.touch()
        return await fetch(url)

    assert asyncio.run(asyncio.wait_for(fetch("u"), 30)) == "page of u"


def test_a_function_may_call_itself_where_what_differs_does_not_count(cache):
    @flowpar.cached(cache=cache, ignore=["depth"])
    def count(n, depth=3):
        return n if not depth else count(n, depth - 1) + 1

    assert count(1) == 4

    @flowpar.cached(cache=cache, ignore=["depth"])
    async def count_slowly(n, depth=3):
        return n if not depth else await asyncio.create_task(count_slowly(n, depth - 1)) + 1

    assert asyncio.run(asyncio.wait_for(count_slowly(1), 30)) == 4


def test_a_thread_is_not_waited_for_for_ever(cache, monkeypatch):
    monkeypatch.setattr(claims, "PATIENCE", 0.2)

    @flowpar.cached(cache=cache, ignore=["depth"])
    def count(n, depth=1):
        if not depth:
            return n
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(count, n, 0).result() + 1

    assert count(1) == 2


def test_coroutines_have_the_methods_of_functions(cache):
    @flowpar.cached(cache=cache)
    async def double(n):
        return 2 * n

    assert asyncio.iscoroutinefunction(double)
    if sys.version_info >= (3, 12):
        assert inspect.iscoroutinefunction(double)
    assert asyncio.run(double.call_and_shelve(4)).get() == 8
    assert asyncio.run(double.call(5)) == 10
    assert double.check_call_in_cache(5)
