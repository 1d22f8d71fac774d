"""However a program is started, it needs no ceremony to use every scheduler."""

from __future__ import annotations

import os
import sys

import pexpect
import pytest

SCRIPT = """
import flowpar
from flowpar import delayed

class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return self.x == other.x

@delayed
def make(x): return Point(x)

@delayed
def add(p, q): return Point(p.x + q.x)

print("once", flush=True)
total = flowpar.reduce(add, [make(i) for i in range(10)])
print(total.compute(scheduler={scheduler!r}, workers=2, **{options!r}).x, flush=True)
"""


def source(scheduler, **options):
    return SCRIPT.format(scheduler=scheduler, options=options)


@pytest.mark.parametrize("how", ["file", "stdin", "-c"])
def test_no_main_guard_is_needed(run_script, own, how):
    done = run_script(source(own), how=how)
    assert (done.stdout.split(), done.stderr, done.returncode) == (["once", "45"], "", 0)


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
@pytest.mark.parametrize("how", ["file", "stdin"])
def test_every_start_method(run_script, method, how):
    done = run_script(source("processes", start_method=method), how=how)
    assert (done.stdout.split(), done.stderr, done.returncode) == (["once", "45"], "", 0)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_at_the_prompt(scheduler):
    child = pexpect.spawn(sys.executable, ["-q", "-i"], encoding="utf-8", timeout=20)
    try:
        child.expect(">>> ")
        child.sendline("import flowpar")
        child.expect(">>> ")
        child.sendline("def twice(x): return 2 * x\n")
        child.expect(">>> ")
        child.sendline(f"flowpar.delayed(twice)(21).compute(scheduler={scheduler!r})")
        child.expect("42\r\n")
        child.expect(">>> ")
        child.sendline("exit()")
        child.expect(pexpect.EOF)
        assert child.before.strip() == "exit()"
    finally:
        child.close(force=True)


def test_a_module_that_the_script_imports(run_script, own, tmp_path):
    (tmp_path / "steps.py").write_text(
        "from flowpar import delayed\n"
        "FACTOR = 3\n"
        "class Thing:\n"
        "    def __init__(self, x): self.x = x * FACTOR\n"
        "@delayed\n"
        "def step(x): return Thing(x)\n"
        "def plain(thing): return thing.x\n"
    )
    done = run_script(
        f"""
        import steps, flowpar
        thing = steps.step(2)
        x = flowpar.delayed(steps.plain)(thing)
        print(x.compute(scheduler={own!r}))
        print(isinstance(thing.compute(scheduler={own!r}), steps.Thing))
        """
    )
    assert (done.stdout.split(), done.stderr) == (["6", "True"], "")


def test_a_module_from_a_folder_that_the_script_added_to_its_path(run_script, own, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.py").write_text("def f(x): return x + 1\n")
    done = run_script(
        f"""
        import sys; sys.path.insert(0, "elsewhere")
        import far, flowpar
        print(flowpar.delayed(far.f)(1).compute(scheduler={own!r}))
        """
    )
    assert (done.stdout.split(), done.stderr) == (["2"], "")


def test_the_working_directory_and_the_environment_reach_the_tasks(run_script, own, tmp_path):
    (tmp_path / "sub").mkdir()
    done = run_script(
        f"""
        import os, flowpar
        os.chdir("sub")
        os.environ["SET_LATE"] = "yes"
        where, what = flowpar.compute(
            flowpar.delayed(os.getcwd)(), flowpar.delayed(os.getenv)("SET_LATE"), scheduler={own!r}
        )
        print(os.path.basename(where), what)
        """
    )
    assert done.stdout.split() == ["sub", "yes"], done.stderr


def test_the_environment_gives_the_defaults(run_script):
    script = """
        import os, threading, flowpar
        def where(): return os.getpid(), threading.current_thread().name
        pid, thread = flowpar.delayed(where)().compute()
        print(pid == os.getpid(), thread)
    """
    assert run_script(script, FLOWPAR_SCHEDULER="sync").stdout.split() == ["True", "MainThread"]
    assert run_script(script, FLOWPAR_SCHEDULER="threads").stdout.split()[:2] == ["True", "thread"]
    assert run_script(script, FLOWPAR_SCHEDULER="processes").stdout.split()[0] == "False"


@pytest.mark.parametrize(
    ("name", "value"), [("FLOWPAR_SCHEDULER", "proceses"), ("FLOWPAR_WORKERS", "many")]
)
def test_a_wrong_environment_ends_with_one_clear_error(run_script, name, value):
    done = run_script("import flowpar; flowpar.compute(1)", **{name: value})
    assert done.returncode == 1
    assert "OptionError" in done.stderr.splitlines()[-1]
    assert name in done.stderr.splitlines()[-1]
    assert value in done.stderr.splitlines()[-1]


def test_a_forked_child_of_the_users_computes_too(run_script, own):
    done = run_script(
        f"""
        import os, sys, warnings, flowpar
        warnings.simplefilter("ignore", DeprecationWarning)
        x = flowpar.delayed(sum)([flowpar.delayed(abs)(-i) for i in range(10)])
        print(x.compute(scheduler={own!r}), flush=True)
        pid = os.fork()
        os.write(1, f"{{x.compute(scheduler={own!r})}}\\n".encode())
        if not pid:
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    assert (done.stdout.split(), done.stderr) == (["45", "45", "45", "7"], "")


def test_a_forked_child_that_ends_abruptly_leaves_the_parents_workers_alone(run_script):
    done = run_script(
        """
        import os, flowpar
        x = flowpar.delayed(abs)(-1)
        x.compute(scheduler="processes")
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        print(x.compute(scheduler="processes"))
        """,
        PYTHONWARNINGS="ignore::DeprecationWarning",  # of os.fork beside a thread, from 3.12 on
    )
    assert (done.stdout.split(), done.stderr) == (["1"], "")


def test_multiprocessing_in_the_users_program_computes_in_its_children(run_script):
    done = run_script(
        """
        import multiprocessing, flowpar
        def work(n):
            return flowpar.delayed(abs)(-n).compute(scheduler="processes", workers=1)
        if __name__ == "__main__":
            with multiprocessing.get_context("fork").Pool(2) as pool:
                print(pool.map(work, [1, 2]))
        """
    )
    assert done.stdout == "[1, 2]\n", done.stderr


def test_the_program_ends_at_once_with_pools_still_warm(run_script, own):
    done = run_script(
        f"""
        import flowpar, atexit
        atexit.register(lambda: print("last"))
        print(flowpar.delayed(abs)(-1).compute(scheduler={own!r}))
        """,
        timeout=20,
    )
    assert (done.stdout.split(), done.stderr, done.returncode) == (["1", "last"], "", 0)


def test_a_run_at_the_end_of_the_program(run_script):
    done = run_script(
        """
        import flowpar, atexit
        atexit.register(lambda: print(flowpar.delayed(abs)(-2).compute(scheduler="sync")))
        """
    )
    assert (done.stdout.split(), done.returncode) == (["2"], 0)


def test_a_program_that_ends_while_a_background_run_goes_on(run_script):
    done = run_script(
        """
        import flowpar, threading
        from flowpar import delayed
        future = delayed(threading.Event().wait)(60).submit(scheduler="threads")
        print("end", flush=True)
        """,
        timeout=20,
    )
    assert (done.stdout.split(), done.stderr, done.returncode) == (["end"], "", 0)


def test_an_uncaught_failure_ends_the_program_with_exit_code_1(run_script, own):
    done = run_script(
        f"""
        from flowpar import delayed
        delayed(int)("x").compute(scheduler={own!r})
        """
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert "ValueError: invalid literal" in done.stderr
    assert os.path.basename(sys.executable) not in done.stdout


def test_closed_standard_streams_are_no_matter(run_script, own):
    done = run_script(
        f"""
        import os, sys, flowpar
        result = os.dup(1)
        for number in (0, 1, 2):
            os.close(number)
        x = flowpar.delayed(abs)(-3).compute(scheduler={own!r})
        os.write(result, str(x).encode())
        os._exit(0)
        """
    )
    assert done.stdout == "3"
