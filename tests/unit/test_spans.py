"""Who made which call when, and how that becomes bars: without running anything."""

from __future__ import annotations

import itertools
import random

import pytest

import flowpar
from flowpar import delayed
from flowpar.graph import Graph
from flowpar.ledger import Ledger
from flowpar.planner import Plan
from flowpar.pools.transport import Report
from flowpar.status import Status
from flowpar.views.timelines.bars import MOST_FUNCTIONS, MOST_LANES, MOST_SINGLE, OTHERS, lay_out
from flowpar.views.timelines.spans import History, Row, Span, Trip, history_of, lanes_of, united


def report(start, ends, worker="thread 1", *, cpu=None, unstarted=()):
    return Report({}, {}, {}, list(unstarted), start, ends, cpu or {}, worker)


def graph_of(count):
    return Graph([delayed(abs)(number) for number in range(count)])


def told(ledger, graph, *, seconds=10.0):
    plan = Plan(graph, lane_of=lambda function: "threads")
    return history_of(graph, plan, ledger, seconds=seconds, headline="done")


def history(rows, *, functions=("f",), seconds=10.0):
    return History(rows, list(functions), 0.0, seconds, "done", str)


def span(start, end, task=0, function=0, status="done"):
    return Span(start, end, task, function, status, None)


# -------------------------------------------------------------------------------- history


def test_calls_of_a_batch_follow_one_another_and_times_are_since_the_begin():
    ledger = Ledger()
    ledger.begin = 100.0
    ledger.write(
        [0, 1], report(101.0, [102.0, 104.0], cpu={1: 0.5}), "threads", sent=100.5, heard=104.5
    )
    (row,) = told(ledger, graph_of(2)).rows
    assert (row.pool, row.worker) == ("threads", "thread 1")
    assert [each[:3] for each in row.spans] == [(1.0, 2.0, 0), (2.0, 4.0, 1)]
    assert [each.cpu_seconds for each in row.spans] == [None, 0.5]
    assert row.trips == [Trip(0.5, 1.0, 4.0, 4.5)]


def test_what_a_batch_did_not_begin_has_no_span():
    ledger = Ledger()
    ledger.write([0, 1, 2], report(1.0, [2.0], unstarted=[0, 2]), "threads", sent=1.0, heard=2.0)
    (row,) = told(ledger, graph_of(3)).rows
    assert [each.task for each in row.spans] == [1]


def test_an_earlier_attempt_is_kept_beside_the_last():
    ledger = Ledger()
    ledger.write_lost(0, ("processes", "process 7"), 1.0, 2.0)
    ledger.settle(1)
    ledger.write([0], report(3.0, [4.0], "process 8"), "processes", sent=2.5, heard=4.0)
    first, last = told(ledger, graph_of(1)).rows
    assert (first.worker, first.spans[0].status) == ("process 7", "repeated")
    assert (last.worker, last.spans[0].start) == ("process 8", 3.0)


def test_a_batch_that_was_never_heard_of_lasts_until_the_end():
    ledger = Ledger()
    ledger.write_unheard([1, 2], "threads", 3.0, 9.0)
    (row,) = told(ledger, graph_of(3)).rows
    assert row.worker == "?"
    assert row.spans == [Span(3.0, 9.0, 1, 0, "running", None)]


def test_times_from_the_clock_of_another_machine_are_moved_to_where_they_must_have_been():
    ledger = Ledger()
    ledger.write([0], report(5_000.0, [5_002.0]), "ray", sent=1.0, heard=4.0)
    (row,) = told(ledger, graph_of(1)).rows
    assert row.spans[0][:2] == pytest.approx((1.5, 3.5))


def test_rows_are_in_the_order_of_pools_and_of_numbers():
    ledger = Ledger()
    for index, worker in enumerate(("thread 10", "thread 9", "MainThread")):
        pool = "inline" if worker == "MainThread" else "threads"
        ledger.write([index], report(1.0, [2.0], worker), pool, sent=1.0, heard=2.0)
    rows = told(ledger, graph_of(3)).rows
    assert [row.worker for row in rows] == ["MainThread", "thread 9", "thread 10"]


def test_statuses_are_those_of_the_plan():
    graph = graph_of(1)
    plan = Plan(graph, lane_of=lambda function: "threads")
    plan.status[0] = Status.FAILED
    ledger = Ledger()
    ledger.write([0], report(1.0, [2.0]), "threads", sent=1.0, heard=2.0)
    made = history_of(graph, plan, ledger, seconds=0.0, headline="")
    assert made.rows[0].spans[0].status == "failed"
    assert made.seconds == 2.0  # it still runs


def test_a_batch_waits_while_its_worker_is_busy_and_travels_otherwise():
    row = Row("processes", "process 1", trips=[Trip(0, 1, 4, 4.5), Trip(2, 5, 6, 8)])
    assert row.waiting() == [(2, 4)]
    assert row.moving() == [(0, 1), (4, 5), (6, 8)]


def test_the_idle_share_counts_a_moment_once():
    rows = [
        Row("async", "event loop", spans=[span(0, 4), span(1, 5)]),
        Row("threads", "thread 1", spans=[span(0, 10)]),
    ]
    assert history(rows).idle_share() == pytest.approx(0.25)
    assert history([]).idle_share() is None


def test_lanes_never_overlap_and_are_as_few_as_calls_at_once():
    random.seed(3)
    spans = sorted((s := random.random(), s + random.random() / 5) for _ in range(300))
    lanes = lanes_of(spans)
    by_lane = {}
    for (start, end), lane in zip(spans, lanes):
        assert by_lane.get(lane, 0.0) <= start
        by_lane[lane] = end
    at_once = max(sum(s <= moment < e for s, e in spans) for moment, _ in spans)
    assert set(lanes) == set(range(at_once))


def test_united_is_what_is_covered():
    assert united([]) == []
    assert united([(1, 1), (2, 3), (2.5, 2.6)]) == [(2, 3)]


# ----------------------------------------------------------------------------------- bars


def all_bars(layout):
    return [bar for each in layout.rows for bar in each.bars]


def row_of(spans):
    return Row("threads", "thread 1", spans=sorted(spans, key=lambda each: each.start))


def test_few_spans_have_a_bar_each():
    layout = lay_out(history([row_of([span(i, i + 1, i) for i in range(10)])]))
    assert layout.column == 0
    assert [bar.span.task for bar in all_bars(layout)] == list(range(10))


def some_run(count, *, functions=3, at_once=1, seconds=10.0):
    random.seed(count)
    rows = []
    for number in range(4):
        spans, moments = [], [0.0] * at_once
        for task in range(count // 4):
            lane = task % at_once
            length = random.expovariate(count / 4 / at_once / seconds / 0.8)
            start = moments[lane] + length * random.random() / 5
            moments[lane] = start + length
            status = "failed" if random.random() < 0.001 else "done"
            spans.append(span(start, moments[lane], task, random.randrange(functions), status))
        rows.append(Row("threads", f"thread {number}", spans=sorted(spans)))
    return history(rows, functions=[f"f{n}" for n in range(functions)], seconds=seconds)


@pytest.mark.parametrize("at_once", [1, 4, 50])
@pytest.mark.parametrize("count", [100, 5_000, 100_000])
def test_nothing_is_lost_from_the_totals(count, at_once):
    run = some_run(count, at_once=at_once, functions=20)
    layout = lay_out(run)
    bars = all_bars(layout)
    spans = [each for row in run.rows for each in row.spans]
    assert sum(bar.calls for bar in bars) == len(spans)
    assert sum(bar.failed for bar in bars) == sum(each.status == "failed" for each in spans)
    assert sum(bar.seconds for bar in bars) == pytest.approx(sum(e.end - e.start for e in spans))
    for function in layout.shown:
        expected = sum(each.function == function for each in spans)
        assert sum(bar.calls for bar in bars if bar.function == function) == expected
    assert len(bars) <= 20_000


@pytest.mark.parametrize("at_once", [1, 4])
def test_each_call_that_is_added_up_is_there_by_itself(at_once):
    run = some_run(20_000, at_once=at_once)
    layout = lay_out(run)
    single = [bar for bar in all_bars(layout) if bar.span is not None]
    parts = [bar for each in layout.rows for bar in each.added_up]
    assert len(parts) == sum(bar.calls for bar in all_bars(layout) if bar.span is None) > 10_000
    assert sorted(bar.span for bar in single + parts) == sorted(
        each for row in run.rows for each in row.spans
    )


def test_a_history_may_be_of_some_tasks_only():
    run = flowpar.run([delayed(abs)(n) for n in range(5)], scheduler="sync")
    made = run._history(only=[1, 3])
    assert [each.task for row in made.rows for each in row.spans] == [1, 3]
    assert made.functions == run._history().functions


@pytest.mark.parametrize("at_once", [1, 4, 50])
def test_bars_stay_in_their_row_and_do_not_cover_one_another(at_once):
    for each in lay_out(some_run(8_000, at_once=at_once)).rows:
        corners = []
        for bar in each.bars:
            assert -1e-9 <= bar.bottom <= bar.top <= 1 + 1e-9
            assert bar.start <= bar.end
            corners.append((bar.start, bar.end, bar.bottom, bar.top))
        corners.sort()
        near = 1 / 100 if each.is_area else 1e-9  # alike columns of an area are joined
        for (s, e, b, t), (s2, e2, b2, t2) in itertools.pairwise(corners):
            beside = s2 >= e - 1e-9 or e2 <= s + 1e-9
            above = b2 >= t - near or t2 <= b + near
            assert beside or above


def test_a_long_call_keeps_its_bar_among_short_ones():
    short = [span(i / 1000, (i + 1) / 1000, i) for i in range(MOST_SINGLE)]
    layout = lay_out(history([row_of([*short, span(5, 9, 9_999)])]))
    assert 9_999 in {bar.span.task for bar in all_bars(layout) if bar.span is not None}


def test_the_height_of_what_is_added_up_is_its_share_of_the_time():
    half_idle = [span(i / 1000, (i + 0.5) / 1000, i) for i in range(10_000)]
    bars = all_bars(lay_out(history([row_of(half_idle)])))
    assert max(bar.top for bar in bars) < 0.56


def test_many_at_once_are_one_area():
    spans = [span(0, 10, i) for i in range(1_000)]
    (each,) = lay_out(history([row_of(spans)])).rows
    assert each.most_at_once == 1_000 > MOST_LANES
    assert each.is_area
    assert sum(bar.calls for bar in each.bars) == 1_000
    assert max(bar.top for bar in each.bars) == pytest.approx(1.0)
    assert len(each.bars) < 10  # what looks alike is joined


def test_the_functions_that_took_longest_have_a_colour():
    count = MOST_FUNCTIONS + 5
    spans = [span(i * 20, i * 20 + i + 1, i, i) for i in range(count)]
    layout = lay_out(history([row_of(spans)], functions=map(str, range(count)), seconds=400))
    assert layout.shown == list(range(5, count))
    assert layout.others == 5
    assert [bar.function for bar in all_bars(layout)][:6] == [OTHERS] * 5 + [5]


def test_calls_that_took_no_time_at_all_are_there():
    spans = [span(1.0, 1.0, i) for i in range(MOST_SINGLE + 1)]
    bars = all_bars(lay_out(history([row_of(spans)])))
    assert sum(bar.calls for bar in bars) == MOST_SINGLE + 1
    assert lay_out(history([], seconds=0.0)).rows == []


def test_a_real_run_has_all_its_attempts_in_its_history():
    calls = []

    @delayed(retries=2, pool="threads")
    def fails_twice():
        calls.append(1)
        if len(calls) < 3:
            raise ValueError

    run = flowpar.run(fails_twice(), [delayed(abs)(n) for n in range(50)], scheduler="threads")
    made = run._history()
    statuses = [
        each.status
        for row in made.rows
        for each in row.spans
        if made.functions[each.function] == "fails_twice"
    ]
    assert sorted(statuses) == ["done", "repeated", "repeated"]
    assert made.calls == 53
    for row in made.rows:
        assert all(0 <= each.start <= each.end <= made.seconds for each in row.spans)
        assert all(sorted(trip) == list(trip) for trip in row.trips)
