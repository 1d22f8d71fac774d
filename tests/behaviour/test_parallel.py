"""`flowpar.Parallel`: joblib's parameters and behaviour, on flowpar's pools."""

import gc
import itertools
import os
import signal
import threading
import time
import weakref

import pytest

import flowpar
from flowpar import Parallel, delayed
from flowpar.compat import lending
from flowpar.pools import home
from flowpar.pools.depot import Held

joblib = pytest.importorskip("joblib")

BACKENDS = pytest.mark.parametrize("backend", ["loky", "threading", "sequential", None])


def square(n):
    return n * n


def slow_first(n):
    time.sleep(0.3 if n == 0 else 0)
    return n


@BACKENDS
def test_calls_of_all_kinds(backend):
    parallel = Parallel(n_jobs=2, backend=backend)
    assert parallel(delayed(square)(n) for n in range(20)) == [n * n for n in range(20)]
    assert parallel(joblib.delayed(square)(n) for n in range(5)) == [0, 1, 4, 9, 16]
    assert parallel([(pow, (2, 3), {}), (pow, (2,), {"exp": 4}), (max, [1, 5])]) == [8, 16, 5]
    assert parallel([]) == []
    three = delayed(square)(delayed(abs)(-3))
    assert parallel([three, delayed(square)(2)]) == [9, 4]


@BACKENDS
@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_what_it_returns(backend, return_as):
    parallel = Parallel(n_jobs=2, backend=backend, return_as=return_as)
    values = parallel(delayed(square)(n) for n in range(200))
    assert isinstance(values, list) == (return_as == "list")
    found = list(values)
    assert (sorted(found) if return_as == "generator_unordered" else found) == [
        n * n for n in range(200)
    ]


def test_unordered_gives_what_is_there():
    parallel = Parallel(n_jobs=2, backend="threads", return_as="generator_unordered")
    found = list(parallel(delayed(slow_first)(n) for n in range(10)))
    assert found[-1] == 0 or found[0] != 0


@pytest.mark.parametrize("backend", ["threads", "processes", "sequential"])
def test_a_generator_reads_its_input_as_values_are_taken(backend):
    numbers = itertools.count()
    values = Parallel(n_jobs=2, backend=backend, return_as="generator", pre_dispatch=6)(
        delayed(square)(n) for n in numbers
    )
    assert list(itertools.islice(values, 10)) == [n * n for n in range(10)]
    values.close()
    gc.collect()
    assert next(numbers) <= 10 + 6 + 2


@BACKENDS
def test_the_first_error_ends_it(backend):
    with pytest.raises(ValueError, match="invalid literal"):
        Parallel(n_jobs=2, backend=backend)(delayed(int)(text) for text in ["1", "x", "2"])
    assert Parallel(n_jobs=2, backend=backend)([delayed(abs)(-1)]) == [1]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_input_that_raises(n_jobs):
    def calls():
        yield delayed(square)(1)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        Parallel(n_jobs=n_jobs)(calls())


def test_a_timeout_is_of_each_call():
    values = Parallel(n_jobs=2, timeout=2, return_as="generator")(
        delayed(time.sleep)(seconds) for seconds in (0.3, 0.3, 0.3, 60)
    )
    assert [next(values) for _ in range(3)] == [None] * 3
    with pytest.raises(TimeoutError):
        next(values)


def test_a_dead_worker_is_an_error_of_its_call():
    def die(n):
        if n == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    with pytest.raises(flowpar.WorkerDied):
        Parallel(n_jobs=2)(delayed(die)(n) for n in range(10))
    assert Parallel(n_jobs=2)(delayed(square)(n) for n in range(3)) == [0, 1, 4]


def test_a_context_keeps_its_workers():
    with Parallel(n_jobs=2) as parallel:
        first = set(parallel(delayed(os.getpid)() for _ in range(20)))
        second = set(parallel(delayed(os.getpid)() for _ in range(20)))
        assert first & second
        with pytest.raises(ZeroDivisionError):
            parallel([delayed(divmod)(1, 0)])
        assert parallel([delayed(square)(3)]) == [9]


def test_nested_calls_run_where_they_are():
    def inner(n):
        pids = Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(n))
        return set(pids) == {os.getpid()}

    assert Parallel(n_jobs=2)(delayed(inner)(n) for n in (2, 3)) == [True, True]


def test_one_generator_that_is_left_does_not_end_another():
    with Parallel(n_jobs=2, return_as="generator") as parallel:
        first = parallel(delayed(square)(n) for n in range(500))
        second = parallel(delayed(square)(n) for n in range(500))
        assert next(first) == 0
        first.close()
        assert list(second) == [n * n for n in range(500)]


def test_generators_that_never_begin_leave_no_threads():
    before = threading.active_count()
    for _ in range(10):
        Parallel(n_jobs=2, return_as="generator")(delayed(square)(n) for n in range(50))
    gc.collect()
    pause = threading.Event()
    for _ in range(2_000):
        if threading.active_count() <= before + 1:  # that of the processes
            return
        pause.wait(0.005)
    pytest.fail(f"{threading.enumerate()}")


def test_policies_hold_or_are_refused():
    with pytest.raises(flowpar.TaskTimeout):
        Parallel(n_jobs=2)([delayed(timeout=0.3)(time.sleep)(60)])
    tries = []

    @delayed(retries=3, retry_delay=0.01)
    def flaky():
        tries.append(1)
        if len(tries) < 3:
            raise OSError("not yet")
        return len(tries)

    assert Parallel(n_jobs=2, backend="threads")([flaky()]) == [3]
    with pytest.raises(flowpar.OptionError, match="policy"):
        Parallel(n_jobs=2)([delayed(pool="threads")(abs)(-1)])


def test_a_batch_size_of_one_keeps_calls_apart():
    kept = []

    def reuse(n):
        kept[:] = [n]
        return kept

    found = Parallel(n_jobs=2, batch_size=1)(delayed(reuse)(n) for n in range(300))
    assert found == [[n] for n in range(300)]


def test_counts_of_workers():
    from flowpar.pools.resources import cpu_count

    assert Parallel(n_jobs=-1).n_jobs == cpu_count()
    assert Parallel(n_jobs=-cpu_count() - 5).n_jobs == 1
    assert Parallel().n_jobs == 1
    with pytest.raises(ValueError, match="no meaning"):
        Parallel(n_jobs=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"backend": "magic"},
        {"prefer": "magic"},
        {"require": "magic"},
        {"prefer": "processes", "require": "sharedmem"},
        {"return_as": "set"},
        {"pre_dispatch": 0},
        {"pre_dispatch": "0*n_jobs"},
        {"pre_dispatch": "__import__('os')"},
        {"batch_size": 0},
        {"timeout": -1},
        {"n_jobs": 1.5},
    ],
)
def test_what_is_wrong_is_refused(wrong):
    with pytest.raises(ValueError):
        Parallel(**{"n_jobs": 2, **wrong})


def test_what_is_no_call_is_refused():
    with pytest.raises(TypeError, match="delayed"):
        Parallel(n_jobs=2)([3])


def test_shared_memory_is_threads():
    here = []
    Parallel(n_jobs=2, require="sharedmem")(delayed(here.append)(n) for n in range(5))
    assert sorted(here) == list(range(5))
    Parallel(n_jobs=2, prefer="threads")(delayed(here.append)(n) for n in range(5))
    assert len(here) == 10


def test_verbose_says_how_far_it_is(capsys):
    Parallel(n_jobs=2, verbose=5)(delayed(square)(n) for n in range(20))
    Parallel(n_jobs=1, verbose=60)(delayed(square)(n) for n in range(3))
    out, err = capsys.readouterr()
    assert "Done  20 out of  20" in err
    assert "Done   3 out of   3" in out


def test_joblib_parameters_are_taken(tmp_path):
    parallel = Parallel(
        n_jobs=2,
        temp_folder=str(tmp_path),
        max_nbytes="1M",
        mmap_mode="r",
        batch_size=4,
        pre_dispatch="3*n_jobs",
    )
    assert parallel(delayed(square)(n) for n in range(50)) == [n * n for n in range(50)]


class TestLargeArguments:
    def test_what_comes_again_is_written_once(self, monkeypatch):
        np = pytest.importorskip("numpy")
        table = np.arange(1_000_000.0)
        written = []
        monkeypatch.setattr(lending, "seal", lambda value: written.append(1) or home.seal(value))
        values = Parallel(n_jobs=2)(delayed(lambda t, n: t.sum() + n)(table, n) for n in range(50))
        assert values == [table.sum() + n for n in range(50)]
        assert len(written) == 1

    def test_what_a_list_of_calls_takes_is_looked_at_once(self, monkeypatch):
        np = pytest.importorskip("numpy")
        table, looked = np.arange(100_000.0), []
        monkeypatch.setattr(Held, "holds", lambda *_: looked.append(1) or True)
        calls = [delayed(len)(table) for _ in range(20)]
        assert Parallel(n_jobs=2)(calls) == [100_000] * 20
        assert looked == []
        assert Parallel(n_jobs=2)(iter(calls)) == [100_000] * 20
        assert len(looked) == 19

    def test_each_call_has_a_copy_of_its_own(self):
        np = pytest.importorskip("numpy")
        table = np.zeros(100_000)

        def spoil(t, n):
            t += 1
            return t.max()

        assert Parallel(n_jobs=2)(delayed(spoil)(table, n) for n in range(20)) == [1.0] * 20
        assert table.max() == 0

    def test_all_kinds_and_nothing_is_kept(self):
        np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
        frame = pd.DataFrame({"a": np.arange(100_000)})
        text, data = "ä" * 100_000, bytes(200_000)
        with flowpar.Pool(2) as pool:
            found = pool.starmap(
                lambda *args: tuple(map(len, args)), [(frame, text, data, text)] * 3
            )
            assert found == [(100_000, 100_000, 200_000, 100_000)] * 3
            arrays = pool.imap(lambda n: np.full(50_000, n), range(20))
            assert [array[0] for array in pool.imap(np.negative, arrays)] == [-n for n in range(20)]
            array = np.ones(50_000)
            gone = weakref.ref(array)
            assert pool.apply(np.sum, (array,)) == 50_000
            del array
            pool.apply(abs, (1,))
            gc.collect()
            assert gone() is None


class TestJoblibBackend:
    @pytest.fixture(autouse=True)
    def _registered(self):
        flowpar.register_joblib()

    def test_joblib_runs_on_it(self):
        with joblib.parallel_config(backend="flowpar", n_jobs=2):
            values = joblib.Parallel()(joblib.delayed(square)(n) for n in range(50))
            pids = set(joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(50)))
        assert values == [n * n for n in range(50)]
        assert os.getpid() not in pids

    def test_generators_errors_and_contexts(self):
        with joblib.parallel_config(backend="flowpar", n_jobs=2):
            values = joblib.Parallel(return_as="generator")(
                joblib.delayed(square)(n) for n in range(10)
            )
            assert list(values) == [n * n for n in range(10)]
            with joblib.Parallel() as parallel:
                with pytest.raises(ZeroDivisionError):
                    parallel(joblib.delayed(divmod)(1, n) for n in (1, 0))
                assert parallel([joblib.delayed(square)(2)]) == [4]

    def test_scikit_learn_searches_a_grid(self):
        pytest.importorskip("sklearn")
        from sklearn.datasets import load_iris
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV

        data, classes = load_iris(return_X_y=True)
        found = {}
        for backend in ("sequential", "flowpar"):
            search = GridSearchCV(LogisticRegression(max_iter=500), {"C": [0.01, 1, 100]}, cv=3)
            with joblib.parallel_config(backend=backend, n_jobs=2):
                search.fit(data, classes)
            found[backend] = (search.best_params_, search.best_score_)
        assert found["flowpar"] == found["sequential"]


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_a_generator_that_has_ended_stays_so(return_as):
    failing = Parallel(n_jobs=2, return_as=return_as)(delayed(divmod)(1, n) for n in (1, 0, 1))
    with pytest.raises(ZeroDivisionError):
        list(failing)
    assert list(failing) == []
    left = Parallel(n_jobs=2, return_as=return_as)(delayed(abs)(n) for n in range(1_000))
    next(left)
    left.close()
    assert list(left) == []


def test_what_plain_calls_cannot_do_is_refused():
    for policy in ({"memory": "1 GB"}, {"limit": "disk"}, {"priority": 1}, {"pool": "threads"}):
        with pytest.raises(flowpar.OptionError, match="use compute"):
            Parallel(n_jobs=2)(delayed(abs, **policy)(n) for n in range(3))


def test_n_jobs_may_be_numpys():
    np = pytest.importorskip("numpy")
    assert Parallel(n_jobs=np.int64(2))(delayed(abs)(n) for n in range(3)) == [0, 1, 2]


def in_a_worker(n):
    with joblib.parallel_config(backend="flowpar", n_jobs=2):
        return joblib.Parallel()(joblib.delayed(square)(k) for k in range(n))


def test_our_name_is_known_in_joblibs_calls_too():
    flowpar.register_joblib()
    with joblib.parallel_config(backend="flowpar", n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(in_a_worker)(n) for n in range(4))
    assert found == [[k * k for k in range(n)] for n in range(4)]
