"""The benchmark's own arithmetic: processor accounts, ratios, verdicts, the table, and the server's log."""

from __future__ import annotations

import pytest

from tests.benchmarks import server_log
from tests.benchmarks.figures import Figure, Sample, Target, judge, missed, out_of_bounds_twice
from tests.benchmarks.machine import Spent, Usage, busy_seconds, process_of, spent, tree
from tests.benchmarks.table import HEADER, number, table


def figure(name: str, *values: float, **more: object) -> Figure:
    return Figure("group", name, "rows/s", tuple(Sample(value, 10.0, 0.0) for value in values), **more)  # type: ignore[arg-type]


def test_a_ratio_is_taken_within_each_round() -> None:
    """A slow round is slow for both: the ratio of the medians would be 1.5 here."""
    base = figure("base", 100, 10, 40)
    ours = figure("ours", 200, 20, 60, baseline="base")

    (judged,) = judge([base, ours])[1]

    assert (2.0, 1.5, 2.0) == (judged.median, judged.least, judged.most)


def test_a_target_is_judged_by_the_median_against_what_it_names() -> None:
    base, other = figure("base", 10, 10, 10), figure("other", 40, 40, 40)
    targets = (Target(at_least=2, against="base"), Target(at_least=0.9, against="other"))
    ours = figure("ours", 19, 20, 30, baseline="base", targets=targets)

    verdicts = [judged.verdict for judged in judge([base, other, ours])[2]]

    assert ["ok", "MISSED"] == verdicts


def test_a_target_without_a_baseline_bounds_the_figure_itself() -> None:
    slow = figure("latency", 9, 11, 12, targets=(Target(at_most=10),))

    assert ["latency is 11.00 rows/s, <= 10 is demanded"] == [str(each) for each in missed([slow])]


def test_a_target_on_processor_time_does_not_look_at_the_clock() -> None:
    base = Figure("group", "base", "rows/s", (Sample(1.0, cpu=10.0),))
    ours = Figure(
        "group", "ours", "rows/s", (Sample(9.0, cpu=12.0),), targets=(Target(at_most=1.1, against="base", on_cpu=True),)
    )

    assert [1.2] == [each.median for each in missed([base, ours])]


def test_only_what_is_out_of_bounds_twice_counts() -> None:
    targets = (Target(at_least=2, against="base"), Target(at_most=3, against="base"))
    base = figure("base", 1)
    low, high, good = (figure("ours", value, targets=targets) for value in (1, 4, 2))

    assert [] == missed(out_of_bounds_twice([base, low], [base, high]))
    assert [] == missed(out_of_bounds_twice([base, low], [base, good]))
    assert [targets[0]] == [each.target for each in missed(out_of_bounds_twice([base, low], [base, low]))]


def test_the_table_has_a_line_per_target_and_marks_what_others_disturbed() -> None:
    base = figure("base", 1000, 2000)
    targets = (Target(at_least=2, against="base"), Target(at_most=5, against="base"))
    disturbed = (Sample(3000, 12.5, 0.5), Sample(4000, 13.5, 0.02))
    ours = Figure("group", "ours", "rows/s", disturbed, "base", targets)

    lines = table([base, ours])

    assert {len(HEADER)} == {len(line) for line in lines}
    assert ("", "ours", "2", "3,500 rows/s", "3,000", "4,000") == lines[1][:6]
    assert ("2.50", "2.00", "3.00", "base", ">= 2", "ok", "13.0", "26% 1!") == lines[1][6:]
    assert ("2.50", "2.00", "3.00", "base", "<= 5", "ok", "", "") == lines[2][6:]


@pytest.mark.parametrize(
    ("value", "shown"), [(123456.7, "123,457"), (99.94, "99.9"), (8.0, "8"), (0.126, "0.13"), (100.4, "100")]
)
def test_numbers_have_as_many_digits_as_they_mean(value: float, shown: str) -> None:
    assert shown == number(value)


def test_what_neither_client_nor_server_used_was_used_by_others() -> None:
    before, after = Usage(10.0, 100.0, 5.0, 7.0), Usage(12.0, 103.5, 6.0, 8.5)

    assert Spent(2.0, 1.0, 1.5, others=0.25) == spent(before, after, processors=2)


def test_the_machines_account_counts_work_and_stolen_time_but_neither_idling_nor_waiting() -> None:
    stat = "cpu  100 20 30 5000 600 7 8 9 50 0\ncpu0 ..."

    assert 1.74 == busy_seconds(stat, ticks=100)


def test_a_process_account_includes_its_ended_children_whatever_its_name() -> None:
    stat = "42 (a) name (of) sorts) S 7 42 42 0 -1 4194560 1 2 3 4 100 50 25 5 20 0 1 0 99 1 1"

    assert (7, 1.8) == process_of(stat, ticks=100)


def test_a_process_tree_holds_all_descendants_and_nobody_else() -> None:
    parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1, 21: 20}

    assert {10, 11, 12} == tree(parents, 10)


_LOG = """\
etl|LOG:  statement: BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE
etl|LOG:  execute __asyncpg_stmt_1__: -- End a run.
\t--   $1 run
\tUPDATE etl.run
\t   SET state = $2
etl|DETAIL:  Parameters: $1 = 'x'
psql|LOG:  statement: SELECT 1
etl|LOG:  execute __asyncpg_stmt_2__: SELECT id FROM orders
etl|LOG:  statement: COMMIT
"""


def test_the_servers_log_tells_a_programs_statements_without_the_frames_of_transactions() -> None:
    found = server_log.statements(_LOG, "etl")

    assert ["history", "run"] == [server_log.kind(sql) for sql in found]
    assert found[0].endswith("SET state = $2")
    assert "SELECT id FROM orders" == server_log.named(found[1])


def test_what_a_worker_sends_anyway_is_not_put_down_to_its_runs() -> None:
    per_run = server_log.beyond(["beat", "beat", "claim", "claim", "claim", "claim"], ["beat"], share=2.0, runs=2)

    assert {"claim": 2.0} == per_run
