"""`every(...)`: the vocabulary of the `schedule` library, anchored, so that neither restart nor deploy moves it."""

from __future__ import annotations

from copy import copy
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, pairwise
from typing import Any

import pytest

from etl import ClockTrigger, ConfigurationError, CronTrigger, DailyTrigger, PeriodicTrigger, every
from etl.sources.batch import BatchProcessingSource

THURSDAY = datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)
BRUSSELS = "Europe/Brussels"
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def shown(trigger: ClockTrigger, n: int, after: datetime = THURSDAY) -> list[str]:
    return [f"{moment:%a %m-%d %H:%M:%S}" for moment in islice(trigger.fire_times(after), n)]


@pytest.mark.parametrize(
    ("expected", "trigger"),
    [
        (["Thu 01-01 00:00:31", "Thu 01-01 00:00:32"], every().second),
        (["Thu 01-01 00:00:40", "Thu 01-01 00:00:50"], every(10).seconds),
        (["Thu 01-01 00:01:00", "Thu 01-01 00:02:00"], every().minute),
        (["Thu 01-01 00:01:00", "Thu 01-01 00:02:00"], every().minutes),
        (["Thu 01-01 00:10:00", "Thu 01-01 00:20:00"], every(10).minutes),
        (["Thu 01-01 01:00:00", "Thu 01-01 02:00:00"], every().hour),
        (["Thu 01-01 04:00:00", "Thu 01-01 08:00:00"], every(4).hours),
        (["Fri 01-02 00:00:00", "Sat 01-03 00:00:00"], every().day),
        (["Thu 01-01 03:00:00", "Fri 01-02 03:00:00"], every().day.at("03:00")),
        (["Thu 01-01 03:00:15", "Fri 01-02 03:00:15"], every().day.at("03:00:15")),
        (["Thu 01-01 03:00:00", "Fri 01-02 03:00:00"], every().day.at(time(3))),
        (["Thu 01-01 10:00:00", "Thu 01-01 16:30:00", "Fri 01-02 10:00:00"], every().day.at("16:30", "10:00")),
        (["Thu 01-01 10:00:00", "Thu 01-01 16:30:00", "Fri 01-02 10:00:00"], every().day.at("10:00").at("16:30")),
        (["Thu 01-01 10:00:00", "Sat 01-03 10:00:00"], every(2).days.at("10:00")),
        (["Mon 01-05 00:00:00", "Mon 01-12 00:00:00"], every().week),
        (["Mon 01-05 00:00:00", "Mon 01-19 00:00:00"], every(2).weeks),
        (["Mon 01-05 10:00:00", "Mon 01-19 10:00:00"], every(2).weeks.at("10:00")),
        (["Mon 01-05 00:00:00", "Mon 01-12 00:00:00"], every().monday),
        (["Mon 01-05 02:00:00", "Mon 01-12 02:00:00"], every().monday.at("02:00", BRUSSELS)),
        (["Tue 01-06 00:00:00", "Tue 01-13 00:00:00"], every().tuesday),
        (["Wed 01-07 13:15:00", "Wed 01-14 13:15:00"], every().wednesday.at("13:15")),
        (["Thu 01-08 00:00:00", "Thu 01-15 00:00:00"], every().thursday),
        (["Thu 01-01 09:00:00", "Thu 01-08 09:00:00"], every().thursday.at("09:00")),
        (["Fri 01-02 00:00:00", "Fri 01-09 00:00:00"], every().friday),
        (["Sat 01-03 00:00:00", "Sat 01-10 00:00:00"], every().saturday),
        (["Sun 01-04 00:00:00", "Sun 01-11 00:00:00"], every().sunday),
        (["Mon 01-05 00:00:00", "Mon 01-19 00:00:00"], every(2).monday),
        (["Sun 01-11 00:00:00", "Sun 01-25 00:00:00"], every(2).sunday),
        (["Thu 01-01 00:15:00", "Thu 01-01 01:15:00"], every().hour.at(":15")),
        (["Thu 01-01 00:15:30", "Thu 01-01 01:15:30"], every().hour.at("15:30")),
        (["Thu 01-01 00:15:00", "Thu 01-01 00:45:00", "Thu 01-01 01:15:00"], every().hour.at(":15", ":45")),
        (["Thu 01-01 00:15:00", "Thu 01-01 06:15:00"], every(6).hours.at(":15")),
        (["Thu 01-01 00:01:17", "Thu 01-01 00:02:17"], every().minute.at(":17")),
        (["Thu 01-01 00:00:47", "Thu 01-01 00:05:17", "Thu 01-01 00:05:47"], every(5).minutes.at(":17", ":47")),
    ],
    ids=lambda value: getattr(value, "spec", None),
)
def test_a_phrase_means_these_times(expected: list[str], trigger: ClockTrigger) -> None:
    assert expected == shown(trigger, len(expected))


@pytest.mark.parametrize(
    ("expected", "trigger"),
    [
        (
            ["Thu 01-01 08:00:10", "Thu 01-01 08:07:10"],
            every(7).minutes.starting("2026-01-01 08:00:10"),
        ),
        (
            ["Thu 01-01 08:00:00", "Sat 01-03 08:00:00", "Mon 01-05 08:00:00"],
            every(2).days.starting("2026-01-01 08:00"),
        ),
        (["Fri 01-02 07:00:00", "Sun 01-04 07:00:00"], every(2).days.at("07:00").starting("2026-01-01 08:00")),
        (["Thu 01-01 09:00:00", "Sat 01-03 09:00:00"], every(2).days.starting("2026-01-01 08:00").at("09:00")),
        (["Wed 01-07 08:00:00", "Wed 01-21 08:00:00"], every(2).weeks.starting("2026-01-07 08:00")),
        (["Wed 01-07 10:00:00", "Wed 01-21 10:00:00"], every(2).weeks.at("10:00").starting(date(2026, 1, 7))),
        (["Tue 01-13 10:00:00", "Tue 01-27 10:00:00"], every(2).tuesday.at("10:00").starting("2026-01-07")),
        (["Thu 01-01 11:15:00", "Thu 01-01 13:15:00"], every(2).hours.at(":15").starting("2026-01-01 11:10")),
        (["Thu 01-01 12:45:00", "Thu 01-01 13:15:00"], every().hour.at(":15", ":45").starting("2026-01-01 12:20")),
        (["Thu 01-01 11:12:17", "Thu 01-01 11:14:17"], every(2).minutes.at(":17").starting("2026-01-01 11:10:30")),
    ],
    ids=lambda value: getattr(value, "spec", None),
)
def test_what_counts_counts_from_the_start(expected: list[str], trigger: ClockTrigger) -> None:
    assert expected == shown(trigger, len(expected))


def test_the_zone_may_be_named_in_any_step_and_holds_for_all() -> None:
    first = every().day.at("10:00").starting("2026-07-01 09:30", BRUSSELS).until("2026-07-02 10:00")
    second = every().day.starting("2026-07-01 09:30").until("2026-07-02 10:00").at("10:00", BRUSSELS)

    assert ["2026-07-01T10:00:00+02:00", "2026-07-02T10:00:00+02:00"] == [
        moment.isoformat() for moment in first.fire_times(THURSDAY)
    ]
    assert first.spec == second.spec


def test_it_may_end() -> None:
    trigger = every(30).minutes.starting("2026-01-01 08:00").until(timedelta(hours=1))

    assert ["Thu 01-01 08:00:00", "Thu 01-01 08:30:00", "Thu 01-01 09:00:00"] == shown(trigger, 9)
    assert ["Thu 01-01 10:00:00"] == shown(every().day.at("10:00").until("2026-01-02 09:59"), 9)


def test_each_step_is_a_new_value() -> None:
    plain = every().day
    early = plain.at("03:00")
    late = early.at("22:00").starting("2026-02-01")

    assert ["Fri 01-02 00:00:00"] == shown(plain, 1)
    assert ["Thu 01-01 03:00:00", "Fri 01-02 03:00:00"] == shown(early, 2)
    assert ["Sun 02-01 03:00:00", "Sun 02-01 22:00:00"] == shown(late, 2)


def test_a_phrase_is_a_trigger() -> None:
    source = BatchProcessingSource("t", pending="p", done="d").on(every().day.at("03:00"), every(5).to(10).minutes)

    assert ["every", "every"] == [trigger.kind for trigger in source.triggers]


def test_policies_survive_later_steps() -> None:
    trigger = every().day.with_policy(overlap="again", jitter="1m", excluding="2026-01-02").at("03:00")

    assert "again" == str(trigger.overlap)
    assert MINUTE == trigger.jitter
    assert "excluding 2026-01-02; jitter 60s" in trigger.spec


def test_restarts_change_nothing() -> None:
    """Two processes that begin to look at different times agree."""
    for trigger in (every(2).weeks.at("10:00"), every(7).minutes, every(5).to(10).minutes):
        early = list(trigger.fire_times(THURSDAY, THURSDAY + 60 * DAY, job="j"))
        late = list(copy(trigger).fire_times(THURSDAY + 20 * DAY, THURSDAY + 60 * DAY, job="j"))
        assert late == [moment for moment in early if moment > THURSDAY + 20 * DAY]


@pytest.mark.parametrize(("n", "m", "unit"), [(5, 10, "minutes"), (1, 2, "seconds"), (1, 4, "days"), (3, 4, "weeks")])
def test_to_keeps_each_interval_between_the_two(n: int, m: int, unit: str) -> None:
    trigger = getattr(every(n).to(m), unit)
    one = timedelta(**{unit: 1})

    moments = list(islice(trigger.fire_times(THURSDAY, job="j"), 500))

    intervals = [later - earlier for earlier, later in pairwise(moments)]
    assert n * one < min(intervals) < (n + 0.2 * (m - n)) * one
    assert (m - 0.2 * (m - n)) * one < max(intervals) < m * one
    assert moments[7] == trigger.last_fire_time(moments[7], job="j")


def test_to_the_same_number_is_that_interval() -> None:
    assert shown(every(5).minutes, 3) == shown(every(5).to(5).minutes, 3)


@pytest.mark.parametrize(
    ("trigger", "other"),
    [
        (every().day.at("02:30", BRUSSELS), DailyTrigger("02:30", timezone=BRUSSELS)),
        (every().day.at("02:30", "03:00", BRUSSELS), DailyTrigger("02:30", "03:00", timezone=BRUSSELS)),
        (every().hour.at(":30", BRUSSELS), CronTrigger("30 * * * *", timezone=BRUSSELS)),
        (every().hour.at(":15", "Australia/Lord_Howe"), CronTrigger("15 * * * *", timezone="Australia/Lord_Howe")),
        (every().sunday.at("02:30", BRUSSELS), CronTrigger("30 2 * * sun", timezone=BRUSSELS)),
        (every(4).hours, PeriodicTrigger("4h")),
    ],
    ids=lambda value: getattr(value, "spec", None),
)
def test_clock_changes_are_followed_as_everywhere(trigger: ClockTrigger, other: ClockTrigger) -> None:
    end = THURSDAY + 365 * DAY

    assert list(other.fire_times(THURSDAY, end)) == list(trigger.fire_times(THURSDAY, end))


def test_every_other_hour_goes_on_through_a_clock_change() -> None:
    """Two hours of real time apart, at the minute that clocks show."""
    for zone in (BRUSSELS, "Asia/Kolkata"):
        trigger = every(2).hours.at(":15", zone)

        moments = list(trigger.fire_times(THURSDAY, THURSDAY + 365 * DAY))

        assert {15} == {moment.minute for moment in moments}
        assert {2 * HOUR} == {later.astimezone(UTC) - earlier.astimezone(UTC) for earlier, later in pairwise(moments)}


@pytest.mark.parametrize(
    ("problem", "phrase"),
    [
        ("0 is not a number from 1", lambda: every(0)),
        ("-1 is not a number from 1", lambda: every(-1)),
        ("1.5 is not a number from 1", lambda: every(1.5)),  # type: ignore[arg-type]
        ("True is not a number from 1", lambda: every(True)),
        ("every(5).minute is one minute", lambda: every(5).minute),
        ("every(1).week is one week", lambda: every().to(2).week),
        ("every(10).to(5) ends before it begins", lambda: every(10).to(5)),
        ("every(1).to(2).monday has no fixed day", lambda: every().to(2).monday),
        ("weeks is too long", lambda: every(1_000_000).weeks),
        ("seconds have no part", lambda: every(5).seconds.at(":15")),
        ("an interval that varies has no fixed time", lambda: every(1).to(2).days.at("10:00")),
        ("the interval varies already", lambda: every(1).to(2).days.with_policy(jitter=5)),
        ("'10:00' is no second of a minute", lambda: every().minute.at("10:00")),
        ("'15' is not a time of day", lambda: every().day.at("15", timezone="UTC")),
        (": no time zone '10h'", lambda: every().day.at("10:00", "10h")),
        ("'10:00:00' is no minute of an hour", lambda: every().hour.at("10:00:00")),
        ("':15' is not a time of day", lambda: every().day.at(":15")),
        ("no time", lambda: every().day.at()),
        ("no time", lambda: every().day.at(BRUSSELS)),
        ("two time zones", lambda: every().day.at("10:00", BRUSSELS, timezone="UTC")),
        ("both Europe/Brussels and Europe/Prague", lambda: every().day.at("10:00", BRUSSELS).at("11:00", "Europe/Prague")),
        ("counts from nothing", lambda: every().day.until(timedelta(days=3))),
        ("lies before starting", lambda: every().day.starting("2026-02-01").until("2026-01-01")),
        ("is not a moment", lambda: every().day.starting("now")),
        ("is not a moment", lambda: every().day.until(time(18, 30))),  # type: ignore[arg-type]
        ("never fires", lambda: every().day.at("10:00").starting("2026-01-01 11:00").until("2026-01-02 09:00")),
    ],
)  # fmt: skip
def test_a_phrase_that_cannot_be_right_is_refused(problem: str, phrase: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        phrase()

    assert problem in str(refused.value)
    assert refused.value.remedy
