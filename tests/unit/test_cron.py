"""Cron expressions: what they mean, what is refused, and what happens when clocks change."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl import CronTrigger
from etl.errors import ConfigurationError

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NEW_YEAR = datetime(2013, 1, 1, tzinfo=UTC)


def first(n: int, text: str) -> list[str]:
    """The first fire times of 2013 as "month-day hour:minute"."""
    moments = islice(CronTrigger(text).fire_times(NEW_YEAR), n)
    return [f"{moment:%m-%d %H:%M}" for moment in moments]


# What expressions mean: forms that jobs may rely on


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (["01-01 00:01", "01-01 00:02"], "* * * * *"),
        (["01-01 00:05", "01-01 00:10"], "*/5 * * * *"),
        (["01-01 05:30", "01-02 05:30"], "30 5 * * *"),
        (["01-01 00:07", "01-01 00:15", "01-01 00:23"], "7/8 * * * *"),
        (["01-01 00:59", "01-01 01:59"], "59/15 * * * *"),
        (["01-01 09:00", "01-01 13:00", "01-01 17:00", "01-02 09:00"], "0 9-17/4 * * *"),
        (["01-01 22:00", "01-01 23:00", "01-02 00:00"], "0 22-0 * * *"),
        (["01-02 00:00", "01-07 00:00"], "0 0 * * mon,wed"),
        (["01-06 00:00", "01-13 00:00"], "0 0 * * 0"),
        (["01-06 00:00", "01-13 00:00"], "0 0 * * 7"),
        (["01-04 00:00", "01-05 00:00", "01-06 00:00", "01-07 00:00", "01-11 00:00"], "0 0 * * fri-mon"),
        (["02-01 00:00", "03-01 00:00"], "0 0 1 * *"),
        (["01-31 00:00", "02-28 00:00", "03-31 00:00"], "0 0 L * *"),
        (["01-31 00:00", "03-31 00:00"], "0 0 31 * *"),
        (["01-25 00:00", "02-22 00:00"], "0 0 * * L5"),
        (["01-18 00:00", "02-15 00:00"], "0 0 * * fri#3"),
        (["02-01 00:00", "11-01 00:00", "12-01 00:00", "01-01 00:00"], "0 0 1 nov-feb *"),
        (["01-04 00:00", "01-11 00:00", "01-13 00:00"], "0 0 13 * fri"),
        (["01-15 00:00", "02-15 00:00"], "0 0 15 * ?"),
        (["02-29 00:00", "02-29 00:00"], "0 0 29 2 *"),
        (["01-01 01:00", "01-01 02:00"], "@hourly"),
        (["01-02 00:00", "01-03 00:00"], "@Daily"),
        (["01-06 00:00", "01-13 00:00"], "@weekly"),
        (["02-01 00:00", "03-01 00:00"], " @monthly "),
        (["01-01 00:00"], "@annually"),
        (["01-01 00:05"], "  */5   *  * *\t* "),
    ],
)
def test_an_expression_fires_when_it_says(expected: list[str], text: str) -> None:
    assert expected == first(len(expected), text)


def test_fire_times_come_after_the_given_moment_and_up_to_the_other() -> None:
    trigger = CronTrigger("0 * * * *")

    found = list(trigger.fire_times(NEW_YEAR, NEW_YEAR + 2 * HOUR))

    assert [NEW_YEAR + HOUR, NEW_YEAR + 2 * HOUR] == found


def test_an_expression_is_wall_time_in_its_zone() -> None:
    moment = next(CronTrigger("30 5 * * *", timezone="America/New_York").fire_times(NEW_YEAR))

    assert datetime(2013, 1, 1, 10, 30, tzinfo=UTC) == moment
    assert moment.isoformat() == "2013-01-01T05:30:00-05:00"


def test_a_moment_without_a_zone_is_nobody_s() -> None:
    with pytest.raises(ValueError, match="give it a time zone"):
        next(CronTrigger("* * * * *").fire_times(datetime(2013, 1, 1)))


def test_equal_definitions_have_equal_text() -> None:
    assert CronTrigger("@daily").spec == CronTrigger("0 0  * * *", timezone="UTC").spec
    assert CronTrigger("0 0 * * *").spec != CronTrigger("0 0 * * *", timezone="Europe/Prague").spec
    assert CronTrigger("0 0 * * *").spec == "cron 0 0 * * * in UTC"


# What is refused: field, reason, remedy


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (("has 4 fields, not five", "minute, hour, day of month, month, day of week"), "* * * *"),
        (("has 6 fields, not five", "seconds='first' or seconds='last'"), "*/15 * * * * *"),
        (("has 7 fields, not five", "minute, hour"), "0 0 0 1 1 * 2027"),
        (("has 0 fields", "minute, hour"), ""),
        (("names no time", "RunOnceTrigger()"), "@reboot"),
        (("is an interval", "PeriodicTrigger('5m')"), "@every 5m"),
        (("is no alias there is", "did you mean '@daily'?"), "@dayly"),
        (("names a time zone", "CronTrigger('...', timezone='Europe/Prague')"), "CRON_TZ=Europe/Prague 0 0 * * *"),
        (("minute: '5-5' would mean the whole range", "write '5' alone"), "5-5 * * * *"),
        (("month: 'Jan-jan' would mean the whole range", "write 'jan' alone"), "0 0 1 Jan-jan *"),
        (("day of week: '0-sun' would mean the whole range", "write '0' alone"), "0 0 * * 0-sun"),
        (("hour: '1-1/2' would mean the whole range", "write '1' alone"), "0 1-1/2 * * *"),
        (("minute: 'R' would be random at each start", "write 'H'"), "R * * * *"),
        (("minute: 'r(0-9)' would be random at each start", "write 'H'"), "r(0-9) * * * *"),
        (("minute: '61' is not from 0 to 59", "number of that range"), "61 * * * *"),
        (("hour: '24' is not from 0 to 23", "number of that range"), "0 24 * * *"),
        (("day of month: '0' is not from 1 to 31", "number of that range"), "0 0 0 * *"),
        (("month: '13' is not from 1 to 12", "number of that range"), "0 0 * 13 *"),
        (("day of week: '8' is not from 0 to 7", "number of that range"), "0 0 * * 8"),
        (("minute: 'a' cannot be read", "'5', '*/5' or '10-20'"), "a b c d e"),
        (("minute: '' is empty", "write a number"), "1,,2 * * * *"),
        (("minute: '-5' cannot be read", "'5', '*/5' or '10-20'"), "-5 * * * *"),
        (("minute: '*/0' has a step of zero", "a step of one or more"), "*/0 * * * *"),
        (("minute: '*/70' steps beyond the range", "PeriodicTrigger"), "*/70 * * * *"),
        (("minute: '*/60' steps beyond the range", "PeriodicTrigger"), "*/60 * * * *"),
        (("day of month: '*/32' steps beyond the range", "PeriodicTrigger"), "0 0 */32 * *"),
        (("hour: '9-17/9' steps beyond the range", "PeriodicTrigger"), "0 9-17/9 * * *"),
        (("minute: 'H/60' steps beyond the range", "PeriodicTrigger"), "H/60 * * * *"),
        (("minute: 'H(29-0)' begins after its end", "write 'H(0-29)'"), "H(29-0) * * * *"),
        (("day of week: 'mondy' has 'mondy', which is not a name", "did you mean 'monday'?"), "0 0 * * mondy"),
        (("month: 'sept' has 'sept', which is not a name", "did you mean 'sep'?"), "0 0 1 sept *"),
        (("day of week: 'L' does not say the last of which day", "write e.g. 'Lfri'"), "0 0 * * L"),
        (("day of week: 'fri#6' never comes", "write #1 to #5"), "0 0 * * fri#6"),
        (("day of week: '5#-1' counts from the end", "write 'L5'"), "0 0 * * 5#-1"),
        (("day of month: 'L-31' goes back further than any month", "'L-1'"), "0 0 L-31 * *"),
        (("minute: '?' is for day of month and day of week", "write '*'"), "? * * * *"),
        (("day of month: '?' stands alone or not at all", "write '?'"), "0 0 1,? * *"),
        (("day of month: '32W' is not from 1 to 31", "number of that range"), "0 0 32W * *"),
        (("day of month: 'Lfri' cannot be read", "'1,15', 'L' or '15W'"), "0 0 Lfri * *"),
        (("never comes: day of month 30 in feb", "check day and month"), "0 0 30 2 *"),
        (("never comes: day of month 31 in feb or apr", "check day and month"), "0 0 31 2,4 *"),
        (("never comes: day of month 30 in feb", "check day and month"), "0 0 30 feb mon"),
        (("never comes: day of month", "check day and month"), "0 0 31 H *"),
        (("is not a cron expression", "five fields"), "* " * 200),
        (("is not a cron expression", "five fields"), None),
        (("is not a cron expression", "five fields"), 5),
    ],
)
def test_an_expression_that_cannot_be_meant_is_refused(expected: tuple[str, str], text: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        CronTrigger(text)

    problem, remedy = expected
    assert refused.value.setting == "CronTrigger"
    assert problem in refused.value.problem
    assert remedy in str(refused.value.remedy)
    assert str(text)[:20] in refused.value.problem


@pytest.mark.parametrize(
    ("expected", "text", "seconds"),
    [
        ("has 5 fields, not six, with seconds='first'", "* * * * *", "first"),
        ("has 7 fields, not six, with seconds='last'", "* * * * * * *", "last"),
        ("second: '60' is not from 0 to 59", "60 * * * * *", "first"),
        ("second: '60' is not from 0 to 59", "* * * * * 60", "last"),
    ],
)
def test_a_field_for_seconds_is_refused_like_the_others(expected: str, text: str, seconds: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        CronTrigger(text, seconds=seconds)

    assert expected in refused.value.problem


@pytest.mark.parametrize(("setting", "value"), [("day_match", "xor"), ("seconds", "second"), ("seconds", True)])
def test_an_unknown_word_for_an_option_is_refused_with_those_there_are(setting: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        CronTrigger("* * * * *", **{setting: value})

    assert refused.value.setting == f"CronTrigger {setting}"
    assert refused.value.remedy == {"day_match": "use 'or' or 'and'", "seconds": "use 'first' or 'last'"}[setting]


@pytest.mark.parametrize(
    "zone", ["Mars/Olympus", "Europe/Pragu", "", "../etc/passwd", "/etc/passwd", "UTC\x00", None, 5]
)
def test_an_unknown_time_zone_is_refused(zone: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        CronTrigger("* * * * *", timezone=zone)

    assert refused.value.setting == "CronTrigger timezone"
    assert "IANA name" in str(refused.value.remedy)


@pytest.mark.parametrize(
    ("expected", "zone"),
    [
        ("Europe/Prague", "Europe/Pragu"),
        ("Europe/Prague", "europe/prague"),
        ("Europe/Prague", "Prague"),
        ("America/New_York", "New York"),
        ("America/New_York", "America/NewYork"),
        ("Asia/Kolkata", "Asia/Kolkatta"),
    ],
)
def test_an_unknown_time_zone_is_refused_with_the_nearest_there_are(expected: str, zone: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        CronTrigger("* * * * *", timezone=zone)

    assert repr(expected) in str(refused.value.remedy)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("overlap", "'skip', 'again', 'queue(3)', 'replace' or 'parallel(4)'"),
        ("missed", "'last', 'none', 'all(3)' or 'within(15m)'"),
    ],
    ids=["overlap", "missed"],
)
def test_an_unknown_policy_is_refused_with_those_there_are(setting: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        CronTrigger("* * * * *", **{setting: "sometimes"})

    assert refused.value.setting == setting
    assert refused.value.remedy == f"use {words}"


@given(st.text(alphabet="0123456789*/-,L#?WRHmonjan() ", max_size=25))
def test_any_text_makes_a_trigger_that_fires_or_is_refused(text: str) -> None:
    try:
        trigger = CronTrigger(text)
    except ConfigurationError:
        return

    assert next(trigger.fire_times(NEW_YEAR), None) is not None


# Clock changes, against an oracle that walks every minute and shares no code with the trigger

CHANGES = {
    "New York, spring": ("America/New_York", datetime(2024, 3, 10, 7, tzinfo=UTC)),
    "New York, autumn": ("America/New_York", datetime(2024, 11, 3, 6, tzinfo=UTC)),
    "Prague, spring": ("Europe/Prague", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    "Prague, autumn": ("Europe/Prague", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    "Lord Howe, half an hour forward": ("Australia/Lord_Howe", datetime(2024, 10, 5, 15, 30, tzinfo=UTC)),
    "Lord Howe, half an hour back": ("Australia/Lord_Howe", datetime(2024, 4, 6, 15, tzinfo=UTC)),
    "Santiago, midnight skipped": ("America/Santiago", datetime(2024, 9, 8, 4, tzinfo=UTC)),
    "Santiago, the day before repeated": ("America/Santiago", datetime(2024, 4, 7, 3, tzinfo=UTC)),
    "Havana, midnight repeated": ("America/Havana", datetime(2024, 11, 3, 5, tzinfo=UTC)),
    "Troll, two hours forward": ("Antarctica/Troll", datetime(2024, 3, 31, 1, tzinfo=UTC)),
    "Troll, two hours back": ("Antarctica/Troll", datetime(2024, 10, 27, 1, tzinfo=UTC)),
    "Casablanca, back for Ramadan": ("Africa/Casablanca", datetime(2024, 3, 10, 2, tzinfo=UTC)),
    "Apia, a day skipped": ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)),
    "no change": ("Asia/Kathmandu", datetime(2024, 3, 10, tzinfo=UTC)),
}
EXPRESSIONS = [
    "30 2 * * *", "0 2 * * *", "*/20 2 * * *", "15,45 1-3 * * *", "30 1 * * sun", "0 0 * * *", "*/10 23,0 * * *",
    "0 */2 * * *", "* * * * *", "*/30 * * * *", "0 * * * *", "45 0-23 * * *", "0 12 30 * *",
]  # fmt: skip


@cache
def walk(change: str) -> list[tuple[datetime, datetime]]:
    """Every minute from 14 hours before to 26 hours after a change: the instant, and what clocks show."""
    name, instant = CHANGES[change]
    zone = ZoneInfo(name)
    minutes = (instant + n * MINUTE for n in range(-14 * 60, 26 * 60 + 1))
    return [(minute, minute.astimezone(zone)) for minute in minutes]


def fields_of(text: str) -> list[set[int]]:
    """Sets of numbers; enough cron for the expressions above."""
    bounds = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]
    return [set(numbers(field, *bound)) for field, bound in zip(text.replace("sun", "0").split(), bounds, strict=True)]


def numbers(field: str, lowest: int, highest: int) -> Iterable[int]:
    for part in field.split(","):
        span, _, step = part.partition("/")
        start, _, end = span.partition("-")
        low, high = (lowest, highest) if span == "*" else (int(start), int(end or start))
        yield from range(low, high + 1, int(step or 1))


def oracle(text: str, change: str) -> list[datetime]:
    """When a trigger has to fire. A schedule for every hour fires whenever clocks show its minute. Fixed times of day
    fire when clocks show them first; if clocks never show them, at the end of the gap."""
    minute, hour, day, month, weekday = fields_of(text)

    def matches(wall: datetime) -> bool:
        return (
            wall.minute in minute and wall.hour in hour and wall.day in day and wall.month in month
            and wall.isoweekday() % 7 in weekday
        )  # fmt: skip

    found, before = [], walk(change)[0][1]
    for instant, wall in walk(change)[1:]:
        fires = matches(wall)
        if len(hour) < 24:
            skipped = (wall.replace(tzinfo=None) - before.replace(tzinfo=None)) // MINUTE - 1
            naive = wall.replace(tzinfo=None)
            fires = (fires and not wall.fold) or any(matches(naive - n * MINUTE) for n in range(1, skipped + 1))
        if fires:
            found.append(instant)
        before = wall
    return found


TOGETHER = [(text, change) for change in CHANGES for text in EXPRESSIONS]


@pytest.mark.parametrize(("text", "change"), TOGETHER)
def test_clock_changes_are_followed_as_the_minutes_go_by(text: str, change: str) -> None:
    trigger = CronTrigger(text, timezone=CHANGES[change][0])
    start, end = walk(change)[0][0], walk(change)[-1][0]

    found = [moment.astimezone(UTC) for moment in trigger.fire_times(start, end)]

    assert oracle(text, change) == found


@pytest.mark.parametrize(
    ("expected", "text", "day"),
    [
        (["03:00-04:00"], "30 2 * * *", datetime(2024, 3, 10, 5, tzinfo=UTC)),
        (["03:00-04:00"], "*/20 2 * * *", datetime(2024, 3, 10, 5, tzinfo=UTC)),
        (["01:30-04:00"], "30 1 * * *", datetime(2024, 11, 3, 4, tzinfo=UTC)),
        (["00:30-04:00", "01:30-04:00", "01:30-05:00", "02:30-05:00"], "30 * * * *", datetime(2024, 11, 3, 4, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_in_new_york_clock_changes_look_like_this(expected: list[str], text: str, day: datetime) -> None:
    """The rule of the oracle, spelled out."""
    moments = CronTrigger(text, timezone="America/New_York").fire_times(day, day + DAY)

    assert expected == [moment.isoformat()[11:16] + moment.isoformat()[19:] for moment in moments][: len(expected)]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("text", ["30 2 * * *", "*/20 1-3 * * *", "0 * * * *", "0 0 * * *", "0 0 1 * *"])
def test_looking_back_finds_what_looking_forward_finds(text: str, change: str) -> None:
    trigger = CronTrigger(text, timezone=CHANGES[change][0])
    start, end = walk(change)[0][0] - 40 * DAY, walk(change)[-1][0]
    forwards = [moment.astimezone(UTC) for moment in trigger.fire_times(start, end)]

    for at in [walk(change)[0][0] + n * 47 * MINUTE for n in range(40)]:
        expected = max(moment for moment in forwards if moment <= at)
        found = trigger.last_fire_time(at)
        assert found is not None
        assert expected == found.astimezone(UTC), at


def test_a_rare_date_is_found_years_back() -> None:
    trigger = CronTrigger("0 0 29 2 *")

    assert datetime(2012, 2, 29, tzinfo=UTC) == trigger.last_fire_time(NEW_YEAR)
    assert datetime(2024, 2, 29, tzinfo=UTC) == trigger.last_fire_time(datetime(2024, 2, 29, tzinfo=UTC))


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1)),
    st.sampled_from(["Europe/Prague", "America/New_York", "UTC"]),
)
def test_fire_times_ascend_and_follow_from_each_other(after: datetime, zone: str) -> None:
    """It makes no difference where one begins to look."""
    trigger = CronTrigger("20 */3 * * *", timezone=zone)

    moments = [moment.astimezone(UTC) for moment in islice(trigger.fire_times(after.replace(tzinfo=UTC)), 12)]

    assert moments == sorted(set(moments))
    assert moments[6:] == [moment.astimezone(UTC) for moment in islice(trigger.fire_times(moments[5]), 6)]
