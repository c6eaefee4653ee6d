"""What is kept of a run's spans and log lines: enough to see what happened, and never more than a bound."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from etl.core.folding import FIRST, IN_UNIT, MOST, SLOWEST, TROUBLED, Changes, RunTrace, Unit, interval
from etl.core.run_log import ERRORS, LAST, LogLine, LogWindow
from etl.core.run_log import FIRST as FIRST_LINES
from etl.core.trace import SpanEvent, SpanRecord

BEGAN = datetime(2026, 1, 5, 12, tzinfo=UTC)
TRACE, ROOT = "a" * 32, "b" * 16


class Table:
    """What would be in the database, and the run's spans on their way there."""

    def __init__(self) -> None:
        self.trace = RunTrace(TRACE, ROOT, BEGAN)
        self.rows: dict[str, SpanRecord] = {}
        self._ids = 0

    def span(self, name: str, at: float, seconds: float, parent: str = ROOT, **facts: Any) -> SpanRecord:
        self._ids += 1
        began = BEGAN + timedelta(seconds=at)
        return SpanRecord(name, TRACE, f"{self._ids:016x}", parent, began, seconds, **facts)

    def batch(self, at: float, seconds: float, **facts: Any) -> str:
        """A batch with a stage and a sink in it; the batch's id."""
        unit = Unit()
        top = self.span("etl.batch", at, seconds, attributes={"etl.rows": 10}, **facts)
        for name in ("etl.stage", "etl.sink"):
            self.trace.add(unit, self.span(name, at, seconds / 2, top.span_id, attributes={f"{name}.name": "x"}))
        self.trace.close(unit, top)
        return top.span_id

    def flush(self) -> Changes:
        changes = self.trace.take()
        self.rows |= {span.span_id: span for span in changes.spans}
        for span_id in changes.gone:
            self.rows.pop(span_id)
        return changes

    def named(self, name: str, *, folded: bool) -> list[SpanRecord]:
        return [row for row in self.rows.values() if row.name == name and bool(row.folded) is folded]


def test_a_small_run_is_kept_in_full() -> None:
    table = Table()

    for n in range(FIRST):
        table.batch(n, 0.5)
    table.flush()

    assert 3 * FIRST == len(table.rows)
    assert [] == [row for row in table.rows.values() if row.folded]


def test_of_ten_thousand_batches_the_first_the_slowest_and_the_troubled_are_kept_and_the_others_counted() -> None:
    """Three hours of them, written every now and then; every batch is accounted for once."""
    table, chance = Table(), random.Random(7)
    durations = [chance.expovariate(1.0) for _ in range(10_000)]
    slow = sorted(range(FIRST, 10_000), key=lambda n: -durations[n])[: SLOWEST // 2]
    ids = []

    for n, seconds in enumerate(durations):
        ids.append(table.batch(n * 1.1, seconds, failed=n % 400 == 399))
        if n % 7 == 0:
            table.flush()
    table.flush()

    whole = {row.span_id for row in table.named("etl.batch", folded=False)}
    folded = table.named("etl.batch", folded=True)
    assert set(ids[:FIRST]) <= whole
    assert {ids[n] for n in slow} <= whole
    assert {ids[n] for n in range(399, 10_000, 400)} <= whole
    assert FIRST + SLOWEST + 25 == len(whole)
    assert 10_000 == len(whole) + sum(row.folded for row in folded)
    assert 10 * (10_000 - len(whole)) == sum(row.attributes["etl.rows"] for row in folded)
    kept = sum(row.duration_s for row in table.named("etl.batch", folded=False))
    assert abs(sum(durations) - kept - sum(row.attributes["etl.folded.total_s"] for row in folded)) < 1e-6
    assert len(table.rows) < 700
    parents = {row.parent_id for row in table.rows.values()}
    assert parents <= {ROOT, *table.rows}, "nothing kept hangs from something that is not"


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e4), st.booleans(), st.booleans()), max_size=400))
def test_whatever_comes_in_whatever_order_is_accounted_for_once(
    batches: list[tuple[float, float, bool, bool]],
) -> None:
    table = Table()

    for at, seconds, failed, flush in batches:
        table.batch(at, seconds, failed=failed)
        if flush:
            table.flush()
    table.flush()

    assert len(batches) == sum(max(1, row.folded) for row in table.rows.values() if row.name == "etl.batch")


def test_a_run_in_which_every_batch_has_trouble_is_bounded_too() -> None:
    table = Table()
    event = SpanEvent("etl.row.failed", BEGAN)

    for n in range(3_000):
        table.batch(n, 1.0, events=[event])
    table.flush()

    assert FIRST + TROUBLED + SLOWEST == len(table.named("etl.batch", folded=False))


def test_a_span_for_each_row_of_a_batch_is_folded_within_the_batch() -> None:
    table, unit = Table(), Unit()

    for n in range(1_000):
        table.trace.add(unit, table.span("call", n / 1000, 0.001, "c" * 16, failed=n == 999))
    table.trace.close(unit, table.span("etl.batch", 0, 1.0))
    table.flush()

    (rest,) = table.named("call", folded=True)
    assert IN_UNIT + 1 == len(table.named("call", folded=False)), "the failed one is there"
    assert 1_000 - IN_UNIT - 1 == rest.folded


def test_names_without_end_do_not_make_rows_without_end() -> None:
    table = Table()

    for n in range(5_000):
        table.trace.close(Unit(), table.span(f"call {n}", n, 1.0))
    table.flush()

    assert len(table.rows) < 400
    assert 5_000 == sum(max(1, row.folded) for row in table.rows.values())


def test_intervals_grow_with_the_age_of_the_run() -> None:
    """Ten days of a run have hardly more of them than a day has."""
    hour, day = interval(3_600), interval(86_400)

    assert [0, 0, 1, 59] == [interval(age) for age in (0, 9.9, 10, 599)]
    assert 60 == interval(601)
    assert hour < day < interval(864_000) < 140


def test_what_could_not_be_written_is_written_later_and_bounded_meanwhile() -> None:
    table = Table()
    failed = table.batch(0, 1.0)

    refused = table.trace.take()
    table.trace.give_back(refused)
    table.flush()

    assert failed in table.rows
    for _ in range(MOST):
        unit = Unit()
        unit.closed = True
        table.trace._keep([table.span("late", 0, 0.1)])
    table.trace._keep([table.span("one too many", 0, 0.1)])
    table.trace.end(table.span("etl.run", 0, 9.0))
    assert 1 == table.trace.lost
    table.flush()
    assert ["etl.run"] == [row.name for row in table.rows.values() if row.name.startswith(("etl.run", "one"))]


def line(message: str) -> LogLine:
    return LogLine(0, BEGAN, "info", "etl.run", message, None, TRACE, ROOT, {})


def test_of_many_log_lines_the_first_the_last_and_all_errors_are_kept() -> None:
    window, count = LogWindow(), 10_000
    slots: dict[int, LogLine] = {}
    errors = set(range(900, 5_000, 100))

    for n in range(count):
        window.add(line(str(n)), 40 if n in errors else 20)
        if n % 130 == 0:
            slots |= window.take()
    slots |= window.take()

    kept = {each.number for each in slots.values()}
    assert set(range(FIRST_LINES)) <= kept
    assert set(range(count - LAST, count)) <= kept
    assert errors <= kept
    assert FIRST_LINES + LAST + len(errors) == len(slots)


def test_errors_are_bounded_too() -> None:
    window = LogWindow()
    slots: dict[int, LogLine] = {}

    for n in range(5_000):
        window.add(line(str(n)), 40)
        slots |= window.take()

    assert FIRST_LINES + LAST + ERRORS == len(slots)
    assert 4_999 in {each.number for each in slots.values()}


def test_a_line_given_back_does_not_overwrite_a_later_one_of_its_slot() -> None:
    window = LogWindow()
    for n in range(FIRST_LINES + LAST):
        window.add(line(str(n)), 20)

    former = window.take()
    window.add(line("later"), 20)
    window.give_back(former)

    taken = window.take()
    assert "later" == taken[FIRST_LINES].message
    assert FIRST_LINES + LAST == len(taken)
