"""Which fire times are due: each is decided about exactly once, whenever somebody looks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl import ClockTrigger, CronTrigger
from etl.core.schedule import COUNTED, MISSED_ONE_BY_ONE, PUNCTUAL, Due, MissedRange, due

START = datetime(2013, 1, 1, tzinfo=UTC)
SECOND, MINUTE, HALF, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(minutes=30), timedelta(hours=1)


class Every(ClockTrigger):
    """Fires at each multiple of a period from `START` on, up to an end if there is one."""

    kind = "every"

    def __init__(self, period: timedelta, *, missed: str = "last", times: int | None = None) -> None:
        super().__init__(missed=missed)
        self.period = period
        self.times = times

    @property
    def spec(self) -> str:
        return f"every {self.period}"

    def fire_times(self, after: datetime, until: datetime | None = None, *, job: str = "") -> Iterator[datetime]:
        number = max(0, (after - START) // self.period + 1)
        while self.times is None or number < self.times:
            moment = START + number * self.period
            if until is not None and moment > until:
                return
            yield moment
            number += 1

    def last_fire_time(self, at: datetime, *, job: str = "") -> datetime | None:
        number = (at - START) // self.period
        if self.times is not None:
            number = min(number, self.times - 1)
        return None if number < 0 else START + number * self.period


def decided_about(trigger: ClockTrigger, decision: Due) -> list[datetime]:
    """Every fire time that a decision concerns."""
    gap = decision.missed_range
    ranged = [] if gap is None else list(trigger.fire_times(gap.first - SECOND, gap.last))
    if gap is not None:
        assert gap.count in (len(ranged), None)
        assert (gap.count is None) == (len(ranged) > COUNTED)
    return [*ranged, *decision.missed, *decision.serve]


@pytest.mark.parametrize("missed", ["last", "none"])
def test_nothing_is_due_before_its_time(missed: str) -> None:
    decision = due(Every(HOUR, missed=missed), START + HOUR, START + HOUR - SECOND)

    assert decision == Due((), (), None, START + HOUR)


@pytest.mark.parametrize("missed", ["last", "none"])
@pytest.mark.parametrize("late", [timedelta(0), SECOND, PUNCTUAL])
def test_a_fire_time_is_served_on_time_whatever_the_policy(missed: str, late: timedelta) -> None:
    decision = due(Every(HOUR, missed=missed), START + HOUR, START + HOUR + late)

    assert decision == Due((START + HOUR,), (), None, START + 2 * HOUR)


def test_after_downtime_the_last_missed_fire_time_is_made_up_for() -> None:
    decision = due(Every(HOUR, missed="last"), START + HOUR, START + 3.5 * HOUR)

    assert decision == Due((START + 3 * HOUR,), (START + HOUR, START + 2 * HOUR), None, START + 4 * HOUR)


def test_after_downtime_none_may_mean_that_nothing_is_made_up_for() -> None:
    decision = due(Every(HOUR, missed="none"), START + HOUR, START + 3.5 * HOUR)

    assert decision == Due((), (START + HOUR, START + 2 * HOUR, START + 3 * HOUR), None, START + 4 * HOUR)


def test_after_downtime_none_still_serves_what_is_due_just_now() -> None:
    decision = due(Every(HOUR, missed="none"), START + HOUR, START + 3 * HOUR + SECOND)

    assert decision == Due((START + 3 * HOUR,), (START + HOUR, START + 2 * HOUR), None, START + 4 * HOUR)


@pytest.mark.parametrize("missed", ["last", "none"])
def test_a_long_row_of_missed_ones_is_one_summary(missed: str) -> None:
    many = MISSED_ONE_BY_ONE + 2

    decision = due(Every(HOUR, missed=missed), START + HOUR, START + many * HOUR + 30 * MINUTE)

    last = many if missed == "none" else many - 1
    assert decision.missed == ()
    assert decision.missed_range == MissedRange(START + HOUR, START + last * HOUR, last)


def test_a_trigger_that_has_fired_for_the_last_time_is_done() -> None:
    decision = due(Every(HOUR, times=3), START + HOUR, START + 10 * HOUR)

    assert decision == Due((START + 2 * HOUR,), (START + HOUR,), None, None)


TRIGGERS = [
    Every(MINUTE),
    Every(HOUR, missed="none"),
    Every(7 * MINUTE, times=40),
    Every(HOUR, missed="none", times=5),
]


@given(
    trigger=st.sampled_from(TRIGGERS),
    pauses=st.lists(st.integers(0, 3 * 86_400).map(lambda seconds: timedelta(seconds=seconds)), min_size=1, max_size=8),
)
def test_each_fire_time_is_decided_about_once_whenever_somebody_looks(
    trigger: ClockTrigger, pauses: list[timedelta]
) -> None:
    now, next_at, decided = START, trigger.last_fire_time(START), []

    for pause in pauses:
        now += pause
        if next_at is None:
            break
        decision = due(trigger, next_at, now)
        decided += decided_about(trigger, decision)
        next_at = decision.next_at
        assert next_at is None or next_at > now

    assert list(trigger.fire_times(START - SECOND, now)) == sorted(decided)


@pytest.mark.parametrize("missed", ["last", "none"])
@pytest.mark.parametrize("change", [datetime(2013, 3, 10, 5, tzinfo=UTC), datetime(2013, 11, 3, 4, tzinfo=UTC)])
@pytest.mark.parametrize("pause", [10 * MINUTE, 45 * MINUTE, 100 * MINUTE, 6 * HOUR])
def test_clock_changes_lose_and_double_nothing(missed: str, change: datetime, pause: timedelta) -> None:
    """Moments of one zone compare by what its clocks show; decisions must not."""
    trigger = CronTrigger("0,30 * * * *", timezone="America/New_York", missed=missed)
    looks = [change + n * pause for n in range(6 * HOUR // pause + 1)]
    next_at, decided = change, []

    for now in looks:
        decision = due(trigger, next_at.astimezone(UTC), now)
        decided += [moment.astimezone(UTC) for moment in decided_about(trigger, decision)]
        assert decision.next_at is not None
        next_at = decision.next_at

    assert [change + n * HALF for n in range((looks[-1] - change) // HALF + 1)] == sorted(decided)


@pytest.mark.parametrize("hidden", [5, 6, 7, 8, 9])
def test_in_the_hour_that_an_autumn_change_repeats_nothing_missed_is_overlooked(hidden: int) -> None:
    """From 05:00 UTC on the clocks in New York show one o'clock, from 06:00 UTC on again."""
    first = datetime(2013, 11, 3, 5, tzinfo=UTC)
    trigger = CronTrigger("*/10 * * * *", timezone="America/New_York")

    decision = due(trigger, first, first + hidden * 10 * MINUTE)

    assert [first + n * 10 * MINUTE for n in range(hidden)] == [moment.astimezone(UTC) for moment in decision.missed]
    assert [first + hidden * 10 * MINUTE] == [moment.astimezone(UTC) for moment in decision.serve]


@pytest.mark.parametrize(
    "trigger",
    [Every(MINUTE), CronTrigger("* * * * *"), CronTrigger("*/5 * * * *", timezone="Europe/Prague", missed="none")],
    ids=lambda trigger: trigger.spec,
)
def test_after_a_year_of_downtime_one_summary_is_written_and_work_goes_on(trigger: ClockTrigger) -> None:
    now = START + timedelta(days=365) + 30 * SECOND + 3 * MINUTE
    started = time.process_time()

    decision = due(trigger, START, now)

    assert time.process_time() - started < 5
    assert decision.missed == ()
    assert decision.missed_range is not None
    assert (START, None) == (decision.missed_range.first, decision.missed_range.count)
    assert decision.next_at is not None
    assert now < decision.next_at <= now + 5 * MINUTE
    reached = max([decision.missed_range.last, *decision.serve])
    assert reached == trigger.last_fire_time(now)


def test_a_year_of_downtime_of_a_daily_trigger_is_counted() -> None:
    trigger = CronTrigger("30 5 * * *", timezone="America/New_York")
    first = next(trigger.fire_times(START))

    decision = due(trigger, first, START + timedelta(days=365))

    assert decision.missed_range is not None
    assert decision.missed_range.count == 364
    assert len(decision.serve) == 1


def test_on_time_only_the_next_fire_time_is_computed() -> None:
    """Triggers are decided about while their rows are locked: looking back over a day of minutes would cost 80 ms."""
    asked = []

    class Watched(Every):
        def fire_times(self, after: datetime, until: datetime | None = None, *, job: str = "") -> Iterator[datetime]:
            for moment in super().fire_times(after, until):
                asked.append(moment)
                yield moment

        def last_fire_time(self, at: datetime, *, job: str = "") -> datetime | None:
            raise AssertionError("looked back")

    decision = due(Watched(MINUTE), START + MINUTE, START + MINUTE + SECOND)

    assert decision.serve == (START + MINUTE,)
    assert len(asked) == 1
