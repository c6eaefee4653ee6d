"""A fixed period: where it is anchored, what it may be, and what happens at the start of a worker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl import ConfigurationError, Missed, PeriodicTrigger, heartbeat
from etl.core.schedule import due

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 3, 29, 0, 59, 55, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        (20, 20),
        (0.5, 0.5),
        (10, "10s"),
        (300, "5 minutes"),
        (300, "5 Minutes"),
        (60, "1 minute"),
        (5400, "1h30m"),
        (5400, "1 hour 30 minutes"),
        (7200, "2 hours"),
        (172_800, "2 days"),
        (1_209_600, "2 weeks"),
        (0.5, "500ms"),
        (90, timedelta(seconds=90)),
    ],
)
def test_a_period_is_seconds_or_a_timedelta_or_text(expected: float, value: Any) -> None:
    trigger = PeriodicTrigger(value)

    first, second = islice(trigger.fire_times(NOW), 2)

    assert timedelta(seconds=expected) == trigger.period == second - first


@pytest.mark.parametrize(
    ("problem", "remedy", "value"),
    [
        ("'20' is a number without a unit", "write 20 or '20s'", "20"),
        ("0 s is no period", "0.1 seconds or more", 0),
        ("0.01 s is no period", "0.1 seconds or more", 0.01),
        ("-5 is not a duration", "", -5),
        ("True is not a duration", "", True),
        ("None is not a duration", "", None),
        ("is not a duration", "", "every now and then"),
        ("is not a duration", "", float("nan")),
        ("is too long", "100 years", "40000d"),
    ],
)
def test_what_is_no_period_is_refused(problem: str, remedy: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        PeriodicTrigger(value)

    assert refused.value.setting == "PeriodicTrigger"
    assert problem in refused.value.problem
    assert remedy in str(refused.value.remedy)


def test_periods_count_from_the_epoch_whenever_somebody_looks() -> None:
    trigger = PeriodicTrigger(7 * 60)

    for after in (NOW, NOW + timedelta(seconds=1), NOW + timedelta(days=400)):
        assert (next(trigger.fire_times(after)) - EPOCH) % timedelta(minutes=7) == timedelta(0)


def test_periods_count_from_the_start_if_there_is_one() -> None:
    trigger = PeriodicTrigger("7m", starting="2026-03-29 00:58:03")

    moments = [f"{moment:%H:%M:%S}" for moment in islice(trigger.fire_times(NOW - timedelta(days=1)), 3)]

    assert ["00:58:03", "01:05:03", "01:12:03"] == moments


@given(
    period=st.integers(100_000, 10**14).map(lambda n: timedelta(microseconds=n)),
    after=st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC)),
)
def test_fire_times_neither_drift_nor_stop(period: timedelta, after: datetime) -> None:
    trigger = PeriodicTrigger(period)

    first, second = islice(trigger.fire_times(after), 2)

    assert after < first <= after + period
    assert period == second - first
    assert (first - EPOCH) % period == timedelta(0)
    assert first == trigger.last_fire_time(first)
    assert first - period == trigger.last_fire_time(first - timedelta(microseconds=1))


def test_clock_changes_leave_periods_alone() -> None:
    trigger = PeriodicTrigger("20m", timezone="Europe/Prague")

    moments = list(islice(trigger.fire_times(NOW), 4))

    assert ["03:00+02:00", "03:20+02:00"] == [
        moment.isoformat()[11:16] + moment.isoformat()[19:] for moment in moments[:2]
    ]
    assert {timedelta(minutes=20)} == {
        later.astimezone(UTC) - earlier.astimezone(UTC) for earlier, later in pairwise(moments)
    }


def test_on_start_always_fires_when_a_worker_begins() -> None:
    always, if_missed, never = (PeriodicTrigger(20, on_start=word) for word in ("always", "if_missed", "never"))

    assert (True, False, False) == (always.fires_on_start, if_missed.fires_on_start, never.fires_on_start)
    assert (Missed.last, Missed.last, Missed.none) == (always.missed, if_missed.missed, never.missed)
    assert always.spec != if_missed.spec


def test_on_start_never_makes_nothing_up() -> None:
    never = PeriodicTrigger("1h", on_start="never")
    first = next(never.fire_times(NOW))

    decision = due(never, first, first + timedelta(hours=5, minutes=30))

    assert () == decision.serve
    assert 6 == len(decision.missed)


def test_on_start_if_missed_is_up_to_the_policy() -> None:
    trigger = PeriodicTrigger("1h", missed="all(3)")
    first = next(trigger.fire_times(NOW))

    assert 3 == len(due(trigger, first, first + timedelta(hours=5, minutes=30)).serve)


def test_on_start_never_and_a_missed_policy_contradict_each_other() -> None:
    with pytest.raises(ConfigurationError, match="leave out on_start or missed"):
        PeriodicTrigger(20, on_start="never", missed="last")
    with pytest.raises(ConfigurationError, match="leave out on_start or missed"):
        PeriodicTrigger(20, on_start="never").with_policy(missed="last")

    assert PeriodicTrigger(20, on_start="never").with_policy(overlap="again").missed == Missed.none


def test_another_word_for_on_start_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="use 'always', 'if_missed' or 'never'"):
        PeriodicTrigger(20, on_start=True)  # type: ignore[arg-type]


def test_a_heartbeat_is_each_second() -> None:
    assert ["00:59:56", "00:59:57"] == [f"{moment:%H:%M:%S}" for moment in islice(heartbeat.fire_times(NOW), 2)]
