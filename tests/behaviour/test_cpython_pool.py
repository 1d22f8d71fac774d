"""CPython's own tests of pools, run against ours; they ship with most interpreters."""

import unittest

import pytest

import flowpar

cpython = pytest.importorskip("test._test_multiprocessing")

NOT_OURS = {
    "test_traceback": "an error has the worker's real traceback, and not its text as a cause",
    "test_make_pool": "looks at the private list of workers; ours start when they are needed",
    "test_unpickleable_result": "returns a lambda, which travels",
    "test_resource_warning": "sets a private state",
    "test_imap_handle_iterable_exception": "expects values to be lost that were read before the "
    "input failed, if they were to travel with what was not",
    "test_pool_worker_lifetime": "looks at the private list of workers",
    "test_worker_finalization_via_atexit_handler_of_multiprocessing": "of multiprocessing's own exit",
}
"""Tests that ours do not pass, with the reason."""

NOT_THREADS = {"test_terminate": "has three threads sleep on, which nobody can end"}


def adapted(base, kind, made):
    """Return a class of CPython's tests, for a pool of ours."""

    class Adapted(base, unittest.TestCase):
        TYPE = kind
        Pool = staticmethod(made)

        def setUp(self):
            reasons = NOT_OURS | (NOT_THREADS if kind == "threads" else {})
            if self._testMethodName in reasons:
                self.skipTest(reasons[self._testMethodName])

    return Adapted


class TestProcesses(adapted(cpython._TestPool, "processes", flowpar.Pool)):
    pass


class TestThreads(adapted(cpython._TestPool, "threads", flowpar.ThreadPool)):
    pass


@pytest.fixture
def _ours_in_multiprocessing(monkeypatch):
    monkeypatch.setattr(cpython.multiprocessing, "Pool", flowpar.Pool)


@pytest.mark.usefixtures("_ours_in_multiprocessing")
class TestErrors(adapted(cpython._TestPoolWorkerErrors, "processes", flowpar.Pool)):
    pass


@pytest.mark.usefixtures("_ours_in_multiprocessing")
class TestLifetime(adapted(cpython._TestPoolWorkerLifetime, "processes", flowpar.Pool)):
    pass
