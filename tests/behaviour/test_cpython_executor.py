"""CPython's own tests of executors, run against ours; they ship with some interpreters."""

import functools
import importlib.util
import unittest

import pytest

import flowpar

if importlib.util.find_spec("test.test_concurrent_futures") is None:
    pytest.skip("CPython's tests of executors are not installed", allow_module_level=True)
if importlib.util.find_spec("test.test_concurrent_futures").submodule_search_locations:
    from test.test_concurrent_futures.executor import ExecutorTest
    from test.test_concurrent_futures.test_as_completed import AsCompletedTests
    from test.test_concurrent_futures.test_wait import WaitTests
else:
    from test.test_concurrent_futures import AsCompletedTests, ExecutorTest, WaitTests

KINDS = {
    "threads": functools.partial(flowpar.Executor, threads=True),
    "processes": flowpar.Executor,
}


def adapted(base, kind):
    """Return a class of CPython's tests, for an executor of ours."""

    class Adapted(base, unittest.TestCase):
        worker_count = 5
        executor_type = staticmethod(KINDS[kind])

        def setUp(self):
            self.executor = self.executor_type(max_workers=self.worker_count)

        def tearDown(self):
            self.executor.shutdown(wait=True)
            self.executor = None

    return Adapted


class TestThreads(adapted(ExecutorTest, "threads")):
    pass


class TestProcesses(adapted(ExecutorTest, "processes")):
    pass


class TestWaitThreads(adapted(WaitTests, "threads")):
    pass


class TestWaitProcesses(adapted(WaitTests, "processes")):
    pass


class TestAsCompletedThreads(adapted(AsCompletedTests, "threads")):
    pass


class TestAsCompletedProcesses(adapted(AsCompletedTests, "processes")):
    pass
