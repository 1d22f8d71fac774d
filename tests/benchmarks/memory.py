"""How many values a serial run holds at most: flowpar's order against ``dask.order``, on dask's graphs.

uv run --group peers python tests/benchmarks/memory.py
"""

from __future__ import annotations

from flowpar import delayed
from flowpar.graph import Graph
from flowpar.planner import Plan
from flowpar.pools.transport import Report


def dask_graphs():
    """Yield the graphs of some of dask's own examples, as needs by key, with what is asked for."""
    import dask.array as da
    import dask.bag as db

    x = da.ones((40, 40), chunks=(4, 4))
    y = da.ones((2000,), chunks=(10,))
    u, v = (da.ones((60, 20), chunks=(3, 20)) * n for n in (1, 2))
    yield "sum of 100 blocks", x.sum()
    yield "x - x.mean(), standard deviation", (x - x.mean()).std()
    yield "mean of the anomaly of 200 blocks", ((y - y.mean()) ** 2).mean()
    yield (
        "products of two fields and their means",
        [
            (u * v).mean(axis=0),
            (u * u).mean(axis=0),
            u.mean(axis=0),
            v.mean(axis=0),
        ],
    )
    yield "x @ x.T", x @ x.T
    yield "sums along both axes", [x.sum(axis=0), x.sum(axis=1)]
    yield (
        "overlapping blocks, three times",
        x.map_overlap(lambda a: a, depth=1).map_overlap(lambda a: a, depth=1).sum(),
    )
    yield "rechunked, then summed", x.rechunk((40, 1)).sum(axis=1)
    yield "singular values", da.linalg.svd(da.ones((100, 4), chunks=(5, 4)))[1]
    yield "foldby of a bag", db.range(1000, npartitions=50).map(lambda n: n % 7).frequencies()


def needs_of(collection):
    import dask
    from dask._task_spec import convert_legacy_graph

    many = collection if isinstance(collection, list) else [collection]
    many = dask.optimize(*many)
    graph = {}
    for each in many:
        graph.update(convert_legacy_graph(dict(each.__dask_graph__())))
    keys = [key for each in many for key in _flat(each.__dask_keys__())]
    return graph, {key: sorted(task.dependencies, key=str) for key, task in graph.items()}, keys


def _flat(keys):
    for key in keys:
        if isinstance(key, list):
            yield from _flat(key)
        else:
            yield key


def peak(order, needs, targets):
    """Return how many values are held at most if tasks run in this order."""
    uses = dict.fromkeys(needs, 0)
    for taken in needs.values():
        for need in taken:
            uses[need] += 1
    for key in targets:
        uses[key] += 1
    held, most = set(), 0
    for key in order:
        held.add(key)
        most = max(most, len(held))
        for need in needs[key]:
            uses[need] -= 1
            if not uses[need]:
                held.discard(need)
    return most


def together(*values):
    return values


def flow_order(needs, targets):
    """Return the order in which one worker of flowpar would run the tasks."""
    built = {}
    stack = list(reversed(targets))
    while stack:
        key = stack[-1]
        missing = [need for need in needs[key] if need not in built]
        if missing:
            stack += reversed(missing)
        else:
            built.setdefault(key, delayed(together, name=str(key))(*(built[n] for n in needs[key])))
            stack.pop()
    graph = Graph([built[key] for key in targets])
    keys = {id(task): key for key, task in built.items()}
    plan = Plan(graph, lane_of=lambda _: "one")
    found = []
    while plan.is_active:
        batch = plan.take("one")
        found += [keys[id(graph.tasks[index])] for index in batch]
        values = dict.fromkeys(plan.wanted(batch), 0)
        ends = [0.1 * (number + 1) for number in range(len(batch))]
        plan.finish(batch, Report(values, {}, {}, [], 0.0, ends, {}, "one"), 0.0)
    return found


def held():
    """Yield for each graph its name, its tasks, and the most values held in each order."""
    from dask.order import order

    for name, collection in dask_graphs():
        graph, needs, targets = needs_of(collection)
        ranks = order(graph)
        theirs = peak(sorted(ranks, key=ranks.get), needs, targets)
        yield [name, len(needs), peak(flow_order(needs, targets), needs, targets), theirs]


if __name__ == "__main__":
    print(*held(), sep="\n")
