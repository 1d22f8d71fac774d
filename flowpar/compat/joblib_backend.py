"""`register_joblib`: joblib's own Parallel, and so scikit-learn's, on flowpar's processes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from flowpar.compat.executor import Executor
from flowpar.compat.parallel import effective_n_jobs
from flowpar.errors import MissingExtra


def register_joblib() -> None:
    """Let ``joblib.parallel_config(backend="flowpar")`` name flowpar's processes.

    What uses joblib, as scikit-learn does, then runs there; workers that die are replaced.

    Raises
    ------
    MissingExtra
        If joblib is not installed.

    Examples
    --------
    >>> import flowpar, joblib
    >>> flowpar.register_joblib()
    >>> with joblib.parallel_config(backend="flowpar", n_jobs=2):
    ...     joblib.Parallel()(joblib.delayed(abs)(n) for n in (-1, -2))
    [1, 2]
    """
    try:
        import joblib  # noqa: PLC0415 - not one of ours, and slow to import
    except ImportError as error:
        raise MissingExtra("joblib is not installed: pip install joblib", extra="joblib") from error
    joblib.register_parallel_backend("flowpar", _backend())


class _Registered:
    """Calls of joblib's for a worker, where what they call may name flowpar's processes too."""

    def __init__(self, calls: Callable[[], Any]) -> None:
        self.calls = calls

    def __call__(self) -> Any:
        _register_once()
        return self.calls()


@functools.cache
def _register_once() -> None:
    register_joblib()


@functools.cache
def _backend() -> type:
    from joblib._parallel_backends import (  # noqa: PLC0415 - as above
        AutoBatchingMixin,
        ParallelBackendBase,
    )

    class FlowparBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
        """joblib's calls on an executor of ours, made for each use and kept in a context."""

        supports_retrieve_callback = True
        supports_inner_max_num_threads = False

        def effective_n_jobs(self, n_jobs: int | None) -> int:
            return effective_n_jobs(1 if n_jobs is None else n_jobs)

        def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
            self.parallel = parallel
            number = self.effective_n_jobs(n_jobs)
            # Workers that were started before have imported what they need.
            self._executor = Executor.of_shared(number)
            return number

        def submit(
            self, func: Callable[[], Any], callback: Callable[[Future[Any]], Any] | None = None
        ) -> Future[Any]:
            future = self._executor.submit(_Registered(func))
            if callback is not None:
                future.add_done_callback(callback)
            return future

        def retrieve_result_callback(self, out: Future[Any]) -> Any:
            return out.result()

        def terminate(self) -> None:
            self._executor.shutdown(wait=False, cancel_futures=True)

        def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: FBT001, FBT002 - joblib's
            self._executor.abort()
            if ensure_ready:
                self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    return FlowparBackend
