"""Tasks by index: order, culling, keys, cycles, and the graph for analysis."""

from __future__ import annotations

import networkx as nx
import pytest

import flowpar
from flowpar import CycleError, delayed
from flowpar.graph import Graph


@delayed
def load(x):
    return x


@delayed
def merge(*xs):
    return xs


def keys(graph):
    return [graph.key(index) for index in range(len(graph))]


def test_each_task_comes_after_all_that_it_needs():
    a, b = load(1), load(2)
    graph = Graph([merge(merge(a, b), [b, {"k": a}])])
    for index, needs in enumerate(graph.dependencies):
        assert all(need < index for need in needs)
        for need in needs:
            assert index in graph.dependents[need]
    assert len(graph) == 4


def test_the_order_is_depth_first_so_that_results_are_used_soon():
    graph = Graph([merge(merge(load(1)), merge(load(2)))])
    assert [graph.function(i).name for i in range(5)] == [
        "load",
        "merge",
        "load",
        "merge",
        "merge",
    ]


def test_only_what_targets_need_is_in_it():
    a, b = load(1), load(2)
    unneeded = merge(a)
    graph = Graph([b])
    assert b in graph
    assert a not in graph
    assert unneeded not in graph
    assert len(graph) == 1


def test_targets_keep_their_order_and_may_come_twice():
    a, b = load(1), load(2)
    graph = Graph([b, a, b])
    assert [graph.tasks[i] for i in graph.targets] == [b, a, b]
    assert len(graph) == 2


def test_a_dependency_that_is_used_twice_is_one_edge():
    a = load(1)
    graph = Graph([merge(a, a, [a])])
    assert graph.dependencies == [(), (0,)]
    assert list(graph.dependents[0]) == [1]


def test_keys_number_only_names_that_come_more_than_once():
    graph = Graph([merge(load(1), load(2))])
    assert keys(graph) == ["load[0]", "load[1]", "merge"]


def test_keys_stay_when_the_graph_grows():
    graph = Graph([merge(load(1))])
    before = keys(graph)
    graph.grow([merge(load(2), load(3))])
    after = keys(graph)
    assert after[:2] == before
    assert len(set(after)) == len(after)


def test_after_is_a_dependency_without_a_value():
    first = load(1)
    graph = Graph([merge.options(after=[first])(2)])
    assert graph.dependencies == [(), (0,)]
    made = graph.to_networkx()
    assert made.edges[0, 1]["order_only"] is True


def cycle_of(size):
    tasks = [load.options(name=f"t{i}")(0) for i in range(size)]
    for i, task in enumerate(tasks):
        object.__setattr__(task, "_args", (tasks[(i + 1) % size],))
        if hasattr(type(task), "_needs"):
            object.__setattr__(task, "_needs", (tasks[(i + 1) % size],))
    return tasks


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_cycle_is_named_and_does_not_hang(size):
    with pytest.raises(CycleError) as caught:
        Graph([merge(cycle_of(size)[0])])
    assert caught.value.cycle[0] == caught.value.cycle[-1]
    assert set(caught.value.cycle) == {f"t{i}" for i in range(size)}
    assert len(caught.value.cycle) == size + 1
    assert len(str(caught.value)) < 2000


def test_attributes_for_analysis_and_drawing():
    x = load.options(pool="threads")(1)
    graph = Graph([merge(x)])
    made = graph.to_networkx({0: {"status": "done", "seconds": 2.0}})
    node = made.nodes[0]
    assert node["key"] == "load"
    assert node["function"] == "load"
    assert node["pool"] == "threads"
    assert node["is_target"] is False
    assert made.nodes[1]["is_target"] is True
    assert __file__ in node["site"]
    assert (node["status"], node["seconds"]) == ("done", 2.0)
    assert made.edges[0, 1]["order_only"] is False


def test_it_can_be_analysed():
    made = Graph([flowpar.reduce(merge, [load(i) for i in range(8)])]).to_networkx()
    assert nx.is_directed_acyclic_graph(made)
    assert [len(generation) for generation in nx.topological_generations(made)] == [
        8,
        4,
        2,
        1,
    ]
    assert len(nx.dag_longest_path(made)) == 4
    (target,) = [node for node, data in made.nodes.items() if data["is_target"]]
    assert len(nx.ancestors(made, target)) == 14


def test_an_empty_graph():
    graph = Graph([])
    assert (len(graph), graph.targets) == (0, [])
    assert len(graph.to_networkx()) == 0


def test_a_run_can_be_analysed_with_what_happened():
    run = flowpar.run(merge(load(1)), scheduler="sync")
    made = run.graph.to_networkx()
    assert [made.nodes[i]["key"] for i in made] == ["load", "merge"]
