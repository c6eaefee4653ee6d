"""What is usual, and what is not: a rule that half of the past cannot bend, in whatever unit."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl import BatchProcessingSource, CronTrigger, PubSubTrigger
from etl.core.baseline import Measure, baseline, hour_of, norm, oddities, usual, zone_of
from etl.core.counts import Counts
from etl.core.report import RunReport
from etl.core.run import Run, RunState
from etl.reports.terminal import ansi, render_report

VALUES = st.lists(st.floats(0, 1e9), min_size=3, max_size=40)
SLACK = st.floats(0.01, 10)
MONDAY = datetime(2024, 3, 4, 3, 5, tzinfo=UTC)
PRAGUE = ZoneInfo("Europe/Prague")


def a_run(at: datetime = MONDAY, seconds: float = 60.0, claimed: int = 6_000, **changes: object) -> Run:
    run = Run(
        UUID(int=1), "job", "cron", RunState.succeeded, scheduled_for=at, started_at=at + timedelta(seconds=1),
        duration_s=seconds, counts=Counts(claimed=claimed, written=claimed),
    )  # fmt: skip
    return replace(run, **changes)  # type: ignore[arg-type]


# The rule


@given(VALUES, SLACK)
def test_the_median_is_usual_and_no_bound_is_below_zero(values: list[float], slack: float) -> None:
    found = norm(values, slack)

    assert found is not None
    assert 0 <= found.low <= found.middle <= found.high
    assert 0 == found.beyond(found.middle)


@given(VALUES, SLACK, st.randoms())
def test_the_order_of_the_past_does_not_matter(values: list[float], slack: float, random: object) -> None:
    shuffled = sorted(values)

    assert norm(values, slack) == norm(shuffled, slack)


@given(VALUES, SLACK, st.floats(0.001, 1000))
def test_the_unit_does_not_matter(values: list[float], slack: float, factor: float) -> None:
    one = norm(values, slack)
    other = norm([value * factor for value in values], slack * factor)

    assert one is not None
    assert other is not None
    assert other[1:] == pytest.approx([each * factor for each in one[1:]], rel=1e-6, abs=1e-6 * slack * factor)


@given(st.floats(1, 1e6), st.lists(st.floats(0, 1e12), max_size=4), SLACK)
def test_a_minority_of_whatever_runs_changes_nothing(value: float, odd: list[float], slack: float) -> None:
    alike, bent = norm([value] * 5, slack), norm([value] * 5 + odd, slack)

    assert alike is not None
    assert bent is not None
    assert alike[1:] == bent[1:]


@given(st.floats(1, 1e6), st.floats(0.7, 1.45), SLACK)
def test_where_all_were_alike_half_as_much_again_is_still_usual(value: float, factor: float, slack: float) -> None:
    found = norm([value] * 5, slack)

    assert found is not None
    assert 0 == found.beyond(value * factor)


@pytest.mark.parametrize(("value", "expected"), [(0.0, -1), (40.0, -1), (100.0, 0), (250.0, 1)])
def test_what_is_far_from_the_others_is_unusual(value: float, expected: int) -> None:
    found = norm([90.0, 95.0, 100.0, 105.0, 110.0], 1.0)

    assert found is not None
    assert expected == found.beyond(value)


def test_two_values_are_no_norm() -> None:
    assert norm([1.0, 2.0], 1.0) is None


# Which runs it is compared with


def weeks(number: int, **changes: object) -> list[Run]:
    """Runs of the same hour on as many Mondays, newest first."""
    return [a_run(MONDAY - timedelta(weeks=week), **changes) for week in range(1, number + 1)]  # type: ignore[arg-type]


OTHERS = [a_run(MONDAY - timedelta(hours=hour), claimed=60) for hour in range(1, 31)]


def test_a_run_is_compared_with_those_of_its_hour_and_weekday_once_there_are_enough() -> None:
    found = baseline(a_run(), [*OTHERS, *weeks(5)])

    assert found is not None
    assert (5, 6_000.0) == (found.runs, found.norms[Measure.rows].middle)
    assert "5 runs on Mondays from 03:00 to 04:00 UTC" == found.among


def test_until_then_it_is_compared_with_the_last_ones() -> None:
    found = baseline(a_run(), [*OTHERS, *weeks(4)])

    assert found is not None
    assert (30, 60.0) == (found.runs, found.norms[Measure.rows].middle)
    assert "the last 30 runs" == found.among


def test_many_runs_of_one_morning_are_not_what_mondays_are_like() -> None:
    this_hour = [a_run(MONDAY - timedelta(minutes=minute)) for minute in range(1, 5)] * 10

    found = baseline(a_run(), this_hour)

    assert found is not None
    assert found.hour is None


def test_the_hour_is_that_of_clocks_in_the_zone() -> None:
    late_on_sunday = datetime(2024, 3, 3, 23, 30, tzinfo=UTC)

    found = hour_of(a_run(late_on_sunday), PRAGUE)

    assert "Mondays from 00:00 to 01:00 Europe/Prague" == str(found)


def test_the_zone_is_the_triggers_else_that_of_the_first_clock_else_utc() -> None:
    source = BatchProcessingSource("t", pending="p", done="d")
    clocks = source.on(PubSubTrigger("t"), CronTrigger("0 3 * * *", timezone="Europe/Prague"), CronTrigger("0 3 * * *"))

    zones = [str(zone_of(clocks, name)) for name in ("cron-2", "pubsub", "manual")]

    assert ["UTC", "Europe/Prague", "Europe/Prague"] == zones
    assert "UTC" == str(zone_of(None, "cron"))


# The sentences


def told(run: Run, former: list[Run]) -> str:
    past = usual(former)
    assert past is not None
    return "; ".join(oddities(run, past))


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (a_run(), ""),
        (a_run(claimed=0), "fewer rows than usual (0; usually 3,997 to 9,005)"),
        (a_run(seconds=600.0, claimed=6_000),
         "slower than usual (10 rows/s; usually 66 to 151); longer than usual (usually 39.7 s to 1 min 31 s)"),
        (a_run(started_at=MONDAY + timedelta(minutes=4)), "started 4 min 00 s late (usually 6.50 s at most)"),
        (a_run(state=RunState.partial, counts=Counts(claimed=6_000, written=5_880, quarantined=120)),
         "2.0 % of its rows set aside (usually 0.5 % at most)"),
        (a_run(state=RunState.failed), "it failed, as did none of 5 before"),
        (a_run(state=RunState.running, started_at=MONDAY), ""),
    ],
    ids=["as ever", "nothing came", "slow", "late", "quarantined", "failed", "not over yet"],
)  # fmt: skip
def test_what_is_unusual_is_said_with_what_would_be_usual(run: Run, expected: str) -> None:
    assert expected == told(run, weeks(5))


def test_the_screen_says_what_is_unusual_on_a_line_of_its_own() -> None:
    lines = render_report(RunReport(a_run(claimed=0), [], [], weeks(5)), paint=ansi)

    assert "\x1b[33mUnusual: fewer rows than usual (0; usually 3,997 to 9,005).\x1b[0m" in lines


def test_failures_are_set_beside_those_of_the_past() -> None:
    former = [*weeks(5), a_run(state=RunState.crashed), a_run(state=RunState.cancelled)]

    assert "it failed, as did 1 of 6 before" == told(a_run(state=RunState.timed_out), former)


def test_few_rows_set_aside_are_not_worth_a_word_where_many_are_usual() -> None:
    share = Counts(claimed=6_000, written=4_800, quarantined=1_200)

    assert "" == told(a_run(counts=share), [replace(each, counts=share) for each in weeks(5)])
