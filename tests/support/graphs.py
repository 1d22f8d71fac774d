"""Random graphs with failures and retries, and what naive evaluation makes of them."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from hypothesis import strategies as st

from flowpar import delayed

POOLS = ("inline", "threads", "async", None)


@dataclass(frozen=True)
class Node:
    """One call: which earlier ones it takes, how often it fails, how often it may."""

    needs: tuple[int, ...]
    shape: str
    fails: int
    retries: int
    pool: str | None
    gives_delayed: bool


@st.composite
def graphs(draw, most=12, pools=(None,), failures=True, dynamic=True, stateless=False):
    nodes = []
    for i in range(draw(st.integers(1, most))):
        needs = draw(st.lists(st.integers(0, i - 1), max_size=4)) if i else []
        nodes.append(
            Node(
                needs=tuple(needs),
                shape=draw(st.sampled_from(["flat", "list", "dict", "keyword", "after"])),
                # Where calls share no memory, a call fails always or never.
                fails=draw(
                    st.sampled_from([0, 0, 0, 0, 99] if stateless else [0, 0, 0, 0, 1, 2, 99])
                )
                if failures
                else 0,
                retries=draw(st.integers(0, 2)) if failures else 0,
                pool=draw(st.sampled_from(pools)),
                gives_delayed=dynamic and draw(st.integers(0, 4)) == 0,
            )
        )
    return tuple(nodes)


class Log:
    """Counts calls, from any thread of this process."""

    def __init__(self):
        self.calls = []
        self.lock = threading.Lock()

    def __call__(self, name, left):
        with self.lock:
            self.calls.append(name)
            if left[0] > 0:
                left[0] -= 1
                raise ValueError(name)


def build(nodes, log=None):
    """Return the graph as delayed values, one per node."""
    tasks = []
    for number, node in enumerate(nodes):
        call = delayed(
            _make(number, node, log), name=f"t{number}", retries=node.retries, pool=node.pool
        )
        tasks.append(_call(call, node, [tasks[i] for i in node.needs]))
    return tasks


def _call(call, node, needs):
    if node.shape == "after":
        return call.options(after=needs)() if needs else call()
    if node.shape == "list":
        return call([*needs, "x"])
    if node.shape == "dict":
        return call({"k": needs, "t": (1, *needs)})
    if node.shape == "keyword":
        return call(k=needs[0]) if needs else call()
    return call(*needs)


def _make(number, node, log):
    left = [node.fails]
    gives_delayed = node.gives_delayed

    def run(*args, **kwargs):
        if log is not None:
            log(number, left)
        elif left[0]:
            raise ValueError(number)
        result = (number, args, tuple(sorted(kwargs.items())))
        return delayed(_same, name="inner")(result) if gives_delayed else result

    return run


def _same(x):
    return x


def naive(nodes):
    """Return what each node gives, in order; None where it or what it needs fails for good."""
    values = []
    for number, node in enumerate(nodes):
        needs = [values[i] for i in node.needs]
        if node.shape == "keyword":
            needs = needs[:1]
        if any(value is None for value in needs) or node.fails > node.retries:
            values.append(None)
            continue
        args, kwargs = (), {}
        if node.shape == "list":
            args = ([*needs, "x"],)
        elif node.shape == "dict":
            args = ({"k": needs, "t": (1, *needs)},)
        elif node.shape == "keyword":
            kwargs = {"k": needs[0]} if needs else {}
        elif node.shape == "flat":
            args = tuple(needs)
        values.append((number, args, tuple(sorted(kwargs.items()))))
    return values


def used_needs(node):
    return node.needs[:1] if node.shape == "keyword" else node.needs
