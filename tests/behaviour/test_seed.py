"""With a seed, random numbers are the same in every run, whatever the pool and the width."""

from __future__ import annotations

import random

import numpy as np
import pytest

import flowpar
from flowpar import delayed


def draw(n):
    return [random.random() for _ in range(n)], float(np.random.random())  # noqa: NPY002


def numbers(scheduler, seed, workers=2):
    tasks = [delayed(draw)(2) for _ in range(20)]
    return flowpar.compute(tasks, scheduler=scheduler, seed=seed, workers=workers)


@pytest.fixture(autouse=True)
def _own_generators():
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    yield
    random.setstate(state)
    np.random.set_state(numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("scheduler", ["sync", "processes"])
def test_the_same_seed_gives_the_same_numbers(scheduler):
    first = numbers(scheduler, 5, workers=1)
    assert numbers(scheduler, 5, workers=2) == first
    assert numbers(scheduler, 6) != first


def test_numpy_that_a_task_imports_itself_is_seeded_too(run_script):
    source = """
        import flowpar
        def f():
            import numpy
            return float(numpy.random.random())
        print(flowpar.delayed(f)().compute(scheduler="processes", workers=1, seed=5))
        print(flowpar.delayed(f)().compute(scheduler="sync", seed=5))
    """
    first, second = run_script(source).stdout.split()
    assert first == second


def test_the_pool_makes_no_difference():
    assert numbers("sync", 7) == numbers("processes", 7)


def test_each_task_draws_its_own_numbers():
    drawn = [tuple(pair[0]) for pair in numbers("processes", 1)]
    assert len(set(drawn)) == 20


@pytest.mark.parametrize("scheduler", ["sync", "processes"])
def test_a_retry_draws_the_same_numbers_again(scheduler, tmp_path):
    from support.gates import mark, marks

    path = str(tmp_path / "drawn")

    def f():
        mark(path, repr(random.random()))
        if len(marks(path)) < 3:
            raise ValueError

    delayed(f, retries=2)().compute(scheduler=scheduler, seed=3)
    assert len(marks(path)) == 3
    assert len(set(marks(path))) == 1


def test_without_a_seed_workers_draw_different_numbers():
    def slow_draw(i):
        return random.random()

    tasks = [delayed(slow_draw, pure=False)(i) for i in range(20)]
    drawn = flowpar.compute(tasks, scheduler="processes", workers=2)
    again = flowpar.compute(tasks, scheduler="processes", workers=2)
    assert len({*drawn, *again}) == 40
