"""What is told of a run is right, also where not all of its tasks are told of."""

import time

import pytest

import flowpar
from flowpar import delayed
from flowpar.views.reports.facts import MOST_KEPT
from flowpar.views.reports.report import functions_of, head_of


@delayed
def nap(n):
    time.sleep(0.001)
    return n


@delayed
def fails_late(n):
    if n in {1_700, 1_800}:
        raise ValueError(f"no {n}")
    return n


@delayed
def add(*numbers):
    return sum(numbers)


@delayed
def grow(n):
    return add(nap(n), nap(n + 1))


def names(graph):
    key = dict(graph.nodes(data="key"))
    return {(key[u], key[v]) for u, v in graph.edges}


def failed_run(targets):
    with pytest.raises(flowpar.RunFailed) as caught:
        flowpar.run(targets, on_error="continue")
    return caught.value.run


class TestLargeRuns:
    @pytest.fixture
    def runs(self):
        return flowpar.run([nap(n) for n in range(3 * MOST_KEPT)], scheduler="threads", workers=2)

    def test_totals_are_of_all_tasks(self, runs):
        (total,) = runs.facts(MOST_KEPT).totals
        seconds = [task.seconds for task in runs.tasks]
        assert (total.function, total.tasks, total.attempts) == ("nap", 3000, 3000)
        assert total.seconds == pytest.approx(sum(seconds))
        assert total.longest == pytest.approx(max(seconds))
        assert total.pools == ["threads"]

    def test_idle_and_workers_are_as_of_the_whole(self, runs):
        whole, part = runs.facts().history, runs.facts(10).history
        assert len(part.rows) == len(whole.rows) == 2
        assert part.idle_share() == pytest.approx(whole.idle_share(), abs=0.02)

    def test_it_says_that_not_all_are_told_of(self, runs):
        facts = runs.facts(10)
        assert facts.left_out == 2990
        assert facts.history.headline.endswith("; 10 of them are told of")
        assert "2,990 tasks are counted" in head_of(facts)

    def test_failures_are_told_of_wherever_they_are(self):
        run = failed_run([fails_late(n) for n in range(3 * MOST_KEPT)])
        facts = run.facts(MOST_KEPT)
        assert len(facts.records) == MOST_KEPT
        told = {facts.records[place].key: text for place, text in facts.failures.items()}
        assert set(told) == {"fails_late[1700]", "fails_late[1800]"}
        assert "ValueError: no 1700" in told["fails_late[1700]"]
        assert facts.totals[0].failed == 2

    def test_thousands_of_failures_leave_room_for_what_was_called(self):
        wrong = delayed(int)
        run = failed_run([*(wrong(c) for c in "xyz"), *(nap(n) for n in range(50))])
        assert [record.status for record in run.facts(2).records] == ["failed", "failed"]
        assert [record.status for record in run.facts(4).records].count("failed") == 3
        assert len(run.facts(2).failures) == 2


def test_all_attempts_count_for_the_time():
    tries = []

    @delayed(retries=2, retry_delay=0.001)
    def third_time_lucky():
        time.sleep(0.01)
        tries.append(1)
        if len(tries) < 3:
            raise OSError
        return 1

    run = flowpar.run(third_time_lucky(), scheduler="threads")
    (total,) = run.facts().totals
    assert (total.retries, total.attempts) == (2, 3)
    assert total.seconds >= 0.03
    assert ">2<" in functions_of(run.facts())


class TestGraphsThatGrow:
    def test_a_task_leads_to_what_it_returned_and_that_to_who_takes_its_value(self):
        run = flowpar.run(add(grow(1), 5), scheduler="sync")
        assert run.value == 8
        expected = {
            ("grow", "nap[0]"),
            ("grow", "nap[1]"),
            ("nap[0]", "add[1]"),
            ("nap[1]", "add[1]"),
            ("add[1]", "add[0]"),
        }
        assert names(run.to_networkx()) == expected
        facts = run.facts()
        keys = [record.key for record in facts.records]
        assert {(keys[need], keys[index]) for need, index, _ in facts.edges} == expected

    def test_the_critical_path_passes_through_them(self):
        run = flowpar.run(add(grow(1), 5), scheduler="sync")
        path = [record.key for record in run.critical_path()]
        assert path[0] == "grow"
        assert path[1].startswith("nap")
        assert path[2:] == ["add[1]", "add[0]"]
        facts = run.facts()
        assert [facts.records[place].key for place in facts.critical_path()] == path

    def test_what_returns_a_task_that_was_there_waits_for_it(self):
        old = nap(1)
        run = flowpar.run([old, add(delayed(lambda: old)(), 1)], scheduler="sync")
        assert names(run.to_networkx()) == {("nap", "add"), ("<lambda>", "add")}

    def test_levels_of_them(self):
        @delayed
        def count(n):
            return count(n - 1) if n else 0

        run = flowpar.run(-count(3), scheduler="sync")
        assert names(run.to_networkx()) == {
            ("count[0]", "count[1]"),
            ("count[1]", "count[2]"),
            ("count[2]", "count[3]"),
            ("count[3]", "neg"),
        }

    def test_with_a_cache_too(self, tmp_path):
        for _ in range(2):
            run = flowpar.run(add(grow(1), 5), scheduler="sync", cache=tmp_path)
            assert ("add[1]", "add[0]") in names(run.to_networkx())
