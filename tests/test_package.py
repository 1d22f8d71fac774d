"""What the package shows to its users, and what it does not do behind their backs."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flowpar

SOURCE = Path(flowpar.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

NAMES = [
    "ArgumentError",
    "Array",
    "Barrier",
    "BoundedSemaphore",
    "Cache",
    "Cancelled",
    "Condition",
    "CycleError",
    "Dashboard",
    "Delayed",
    "DelayedFunction",
    "Event",
    "Executor",
    "File",
    "FlowparError",
    "FlowparWarning",
    "GraphError",
    "InternalError",
    "Lock",
    "Manager",
    "MemoryExceeded",
    "MissingExtra",
    "NotPicklable",
    "OptionError",
    "Parallel",
    "Pool",
    "PoolError",
    "Queue",
    "RLock",
    "Run",
    "RunFailed",
    "Semaphore",
    "TaskError",
    "TaskTimeout",
    "ThreadPool",
    "Value",
    "WorkerDied",
    "as_completed",
    "cached",
    "compute",
    "delayed",
    "explain",
    "imap",
    "imap_unordered",
    "map",
    "options",
    "plan",
    "progress",
    "reduce",
    "register_digest",
    "register_joblib",
    "run",
    "share",
    "spawn",
    "starmap",
    "stream",
    "submit",
    "untracked",
    "visualize",
]
FUNCTIONS = [name for name in NAMES if name[0].islower()]


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


# ---------------------------------------------------------------------------------- names


def test_the_public_names_are_these_in_order():
    assert list(flowpar.__all__) == ["__version__", *NAMES]
    assert sorted(dir(flowpar)) == sorted(flowpar.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_alone_works_in_a_fresh_interpreter_and_is_not_a_module(name):
    """A submodule of the same name would take its place, depending on who was first."""
    kinds = python(
        f"import json, flowpar; first = flowpar.{name}; flowpar.compute, flowpar.Delayed\n"
        f"print(json.dumps([type(first).__name__, flowpar.{name} is first]))"
    )
    assert kinds[0] != "module"
    assert kinds[1] is True


@pytest.mark.parametrize("first", ["compute", "Delayed", "Run", "options", "delayed", "visualize"])
def test_the_order_in_which_names_are_used_makes_no_difference(first):
    kinds = python(
        f"import json, flowpar; flowpar.{first}\n"
        f"print(json.dumps([type(getattr(flowpar, n)).__name__ for n in {FUNCTIONS!r}]))"
    )
    assert set(kinds) == {"function"}


def test_a_star_import_gives_all_names_and_no_others():
    found = python(
        "import json; before = set(dir())\nfrom flowpar import *\n"
        "print(json.dumps(sorted(set(dir()) - before - {'before'})))"
    )
    assert found == sorted(["__version__", *NAMES])


def test_a_name_that_is_not_there_raises_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = flowpar.nothing


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_a_docstring(name):
    text = inspect.getdoc(getattr(flowpar, name))
    assert text
    assert re.match(r"[A-Z\"`].*?[.:]$", text.splitlines()[0]), text.splitlines()[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_parameters_and_an_example(name):
    function = getattr(flowpar, name)
    text = inspect.getdoc(function)
    headings = re.findall(r"^([A-Z][a-z]+)\n-+$", text, re.MULTILINE)
    if inspect.signature(function).parameters:
        assert headings[0] == "Parameters"
    order = ["Parameters", "Returns", "Yields", "Raises", "Notes", "Examples"]
    assert headings == [heading for heading in order if heading in headings]
    assert headings[-1] == "Examples" or "Examples" in headings
    assert ">>> " in text
    documented = re.split(r"^Parameters\n-+$", text, flags=re.MULTILINE)[-1]
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"\b{parameter}\b", documented), parameter


def test_the_version_is_that_of_the_project():
    project = (SOURCE.parent / "pyproject.toml").read_text()
    assert f'version = "{flowpar.__version__}"' in project


# -------------------------------------------------------------------------------- imports

SLOW = ["networkx", "graphviz", "numpy", "tqdm", "asyncio", "multiprocessing", "cloudpickle"]


def loaded(code):
    return set(python(f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"))


def test_importing_the_package_loads_next_to_nothing():
    new = loaded("import flowpar") - loaded("")
    assert not new & set(SLOW)
    ours = {name for name in new if name.startswith("flowpar")}
    assert ours <= {"flowpar"}
    assert len(new) < 15


def test_a_serial_run_loads_nothing_slow():
    code = "import flowpar; flowpar.delayed(abs)(-1).compute(scheduler='sync')"
    assert not loaded(code) & (set(SLOW) - {"asyncio"})


def test_a_worker_loads_only_what_it_needs():
    new = loaded("import flowpar.pools.worker")
    assert not new & {"flowpar.scheduler", "flowpar.planner", "flowpar.dsl", "networkx", "numpy"}


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name != "__init__.py"], ids=lambda p: str(p.relative_to(SOURCE))
)
def test_every_module_can_be_imported_first(path):
    name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    assert python(f"import {name}, json; print(json.dumps(1))") == 1


# ---------------------------------------------------------------------------------- style


def test_options_come_from_the_environment_in_one_place():
    readers = {
        str(path.relative_to(SOURCE))
        for path in FILES
        if re.search(r"os\.environ|os\.getenv|environb", path.read_text())
    }
    # What a worker process is given is made of the parent's environment, and set in the worker.
    workers = {
        "pools/surroundings.py",
        "pools/nursery.py",
        "pools/nanny.py",
        "pools/resources.py",
        "pools/shared.py",
    }
    assert readers - workers <= {"settings.py"}
    for path in FILES:
        if path.name != "settings.py" and str(path.relative_to(SOURCE)) not in workers:
            assert "FLOWPAR_" not in re.sub(r"#.*", "", path.read_text()), path


def classes_and_functions():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield path.name, node


def test_no_class_has_a_name_that_says_nothing():
    bad = re.compile(r"(Manager|Helper|Handler|Utils?|Info|Data|Base|Impl)$")
    found = [n.name for _, n in classes_and_functions() if isinstance(n, ast.ClassDef)]
    assert [name for name in found if bad.search(name)] == []


def test_a_task_is_never_called_otherwise():
    other = re.compile(r"(^|_)(jobs?|ops?)(_|$)")
    names = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "name", None) or getattr(node, "arg", None)
            if isinstance(node, ast.Attribute):
                name = "" if node.attr == "op" else node.attr  # what ast calls an operator
            if isinstance(node, ast.Name):
                name = node.id
            if isinstance(name, str) and name.endswith("n_jobs"):  # joblib's own word
                continue
            if isinstance(name, str) and (other.search(name.lower()) or name == "Job"):
                names.add(f"{path.name}: {name}")
    assert sorted(names) == []


def test_types_are_marked_as_complete():
    assert (SOURCE / "py.typed").exists()
