"""The dialect, form by form: what each is known to be misread as elsewhere, and what it means here.

In the order of what was established about cron parsers; then all special days against plain sentences about a date.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any

import hypothesis.strategies as st
import pytest
from croniter import croniter
from hypothesis import given

from etl import CronTrigger
from etl.errors import ConfigurationError
from etl.triggers.cron_fields import DATE, HOUR, MINUTE, MONTH, SECOND, WEEKDAY, Field, numbers

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(microseconds=1)  # a Thursday; fire times at midnight count
YEAR = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)


def times(text: str, n: int, job: str = "", **options: Any) -> list[str]:
    """The first fire times of 2026 as "month-day hour:minute[:second]"."""
    moments = islice(CronTrigger(text, **options).fire_times(NEW_YEAR, YEAR, job=job), n)
    return [f"{moment:%m-%d %H:%M:%S}".removesuffix(":00") for moment in moments]


def days(text: str, n: int, **options: Any) -> list[str]:
    """The first matching dates of 2026 as "month-day" for the date fields `text`."""
    return [moment.removesuffix(" 00:00") for moment in times(f"0 0 {text}", n, **options)]


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        # names of last weekdays
        (["01-27", "03-31"], "* jan,mar Ltue"),
        (["01-27", "03-31"], "* jan,mar tueL"),
        (["01-27", "03-31"], "* jan,mar L2"),
        (["01-27", "03-31"], "* jan,mar 2L"),
        (["01-27", "03-31"], "* January,MAR LTuesday"),
        (["01-28", "01-29", "01-30", "02-25", "02-26", "02-27"], "* * Lwed-fri"),
        (["01-28", "01-29", "01-30", "02-25", "02-26", "02-27"], "* * L3-5"),
        (["01-25", "01-26", "01-31", "02-22", "02-23", "02-28"], "* * Lsat-mon"),
        # plain and last mixed
        (["01-05", "01-12", "01-19", "01-26", "01-30", "02-02"], "* * 1,L5"),
        (["01-05", "01-12", "01-19", "01-26", "01-30", "02-02"], "* * mon,Lfri"),
        # day of month together with last or nth weekdays: either
        (["01-15", "01-30", "02-15", "02-27"], "15 * L5"),
        (["01-30", "01-31", "02-27", "02-28", "03-27", "03-31"], "L * L5"),
        (["01-15", "01-16", "02-15", "02-20"], "15 * fri#3"),
        # start and step
        (["01-01", "01-03", "01-05"], "1/2 * *"),
        (["01-07", "01-15", "01-23", "01-31", "02-07"], "7/8 * *"),
        (["01-15", "01-25", "02-15", "02-25"], "15/10 * *"),
        (["01-01", "03-01", "05-01", "07-01"], "1 jan/2 *"),
        (["01-02", "01-05", "01-07", "01-09"], "* * mon/2"),
        (["01-31", "03-31"], "31/15 * *"),
        # the end of a month
        (["01-31", "02-28", "03-31"], "L * *"),
        (["01-01", "01-31", "02-01", "02-28"], "1,L * *"),
        (["01-28", "02-25", "03-28", "04-27"], "L-3 * *"),
        (["01-28", "01-31", "02-25", "02-28"], "L,L-3 * *"),
        (["01-01", "03-01", "05-01"], "L-30 * *"),
        (["01-30", "02-27", "03-31", "04-30", "05-29"], "LW * *"),
        # the nearest Monday to Friday
        (["01-15", "02-16", "03-16", "04-15", "05-15", "06-15"], "15W * *"),
        (["01-15", "02-16", "03-16", "04-15", "05-15", "06-15"], "W15 * *"),
        (["01-01", "02-02", "03-02", "04-01", "05-01", "06-01"], "1W * *"),
        (["08-03"], "1W aug *"),
        (["01-30", "02-27", "03-31", "04-30", "05-29"], "31W * *"),
        (["01-01", "01-15", "01-30", "02-02", "02-16", "02-27"], "1W,15W,LW * *"),
        # the nth weekday
        (["01-16", "02-20"], "* * 5#3"),
        (["01-16", "02-20"], "* * fri#3"),
        (["01-30", "05-29"], "* * 5#5"),
        (["01-05", "01-16", "02-02", "02-20"], "* * mon#1,fri#3"),
        (["01-01", "01-02", "01-05", "01-06", "01-07", "02-02"], "* * mon-fri#1"),
        (["01-12", "01-13", "01-14", "02-09"], "* * 1-3#2"),
        (["01-03", "01-04", "01-05", "02-01"], "* * sat-mon#1"),
        # no restriction
        (["01-15", "02-15"], "15 * ?"),
        (["01-05", "01-12"], "? * 1"),
        (["01-05", "01-12"], "*/1 * 1"),
        (["01-01", "01-02"], "? * ?"),
        (["01-01", "01-02"], "1-31 * mon"),
        # names
        (["01-05", "01-12"], "* * MONDAY"),
        (["01-05", "01-12"], "* * Monday"),
        (["05-01"], "1 May *"),
        (["09-01"], "1 september *"),
        # wrapping ranges
        (["01-02", "01-03", "01-04", "01-05", "01-09"], "* * fri-mon"),
        (["01-02", "01-03", "01-04", "01-05", "01-09"], "* * 5-1"),
        (["01-01", "01-02", "01-03", "01-28", "01-29"], "28-3 * *"),
        (["01-01", "02-01", "11-01", "12-01"], "1 nov-feb *"),
        (["02-01", "04-01", "10-01", "12-01"], "1 10-5/2 *"),
        (["01-02", "01-04", "01-06", "01-09"], "* * fri-tue/2"),
        (["01-02", "01-06", "01-09", "01-13"], "* * 5-2/4"),
        # Sunday twice
        (["01-04", "01-11"], "* * 0"),
        (["01-04", "01-11"], "* * 7"),
        (["01-01", "01-02", "01-03", "01-04", "01-05"], "* * 0-7"),
        (["01-01", "01-02", "01-03", "01-04", "01-05"], "* * 1-7"),
        (["01-01", "01-03", "01-04", "01-06"], "* * 0-7/2"),
        (["01-02", "01-03", "01-04", "01-09"], "* * 5-7"),
        (["01-03", "01-04", "01-10"], "* * sat-sun"),
        (["01-04", "01-05", "01-06", "01-11"], "* * 7-2"),
    ],
)
def test_a_date_field_means_these_dates(expected: list[str], text: str) -> None:
    assert expected == days(text, len(expected))


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (["01-01 00:01", "01-01 00:03"], "1/2 * * * *"),
        (["01-01 00:15", "01-01 00:25", "01-01 00:35", "01-01 00:45", "01-01 00:55", "01-01 01:15"], "15/10 * * * *"),
        (["01-01 00:59", "01-01 01:59", "01-01 02:59"], "59/15 * * * *"),
        (["01-01 00:00", "01-01 01:00", "01-01 02:00", "01-01 22:00"], "0 22-2 * * *"),
        (["01-01 00:00", "01-01 00:01", "01-01 00:50", "01-01 00:51"], "0-1,50-51 * * * *"),
        (["01-01 00:04", "01-01 00:50", "01-01 00:57", "01-01 01:04"], "50-10/7 * * * *"),
        (["01-01 01:00", "01-01 22:00", "01-02 01:00"], "0 22-3/3 * * *"),
        (["01-27 05:30", "03-31 05:30"], "30 5 * jan,mar Ltue"),
        (["01-01 08:01", "01-01 08:03"], "1/2 8-18 * * mon-fri"),
        (["01-01 00:00", "01-01 00:01"], "@minutely"),
        (["01-01 00:00", "01-01 01:00"], "@HOURLY"),
        (["01-01 00:00", "01-02 00:00"], "@daily"),
        (["01-01 00:00", "01-02 00:00"], "@midnight"),
        (["01-04 00:00", "01-11 00:00"], "@weekly"),
        (["01-01 00:00", "02-01 00:00"], "@monthly"),
        (["01-01 00:00"], "@yearly"),
        (["01-01 00:00"], "@Annually"),
    ],
)
def test_a_time_field_means_these_times(expected: list[str], text: str) -> None:
    assert expected == times(text, len(expected))


@pytest.mark.parametrize(
    ("either", "both", "text"),
    [
        (["01-02", "01-09", "01-13"], ["02-13", "03-13", "11-13"], "13 * fri"),
        (["01-29", "01-30", "02-27"], ["05-29"], "29 * L5"),
        (["01-15", "01-16", "02-15"], ["05-15"], "15 * fri#3"),
        (["01-30", "01-31", "02-27"], ["07-31"], "L * L5"),
    ],
)
def test_day_and_weekday_match_either_or_both(either: list[str], both: list[str], text: str) -> None:
    assert either == days(text, 3)
    assert both == days(text, len(both), day_match="and")


@pytest.mark.parametrize(
    ("expected", "text", "seconds"),
    [
        (["01-01 00:00", "01-01 00:00:15", "01-01 00:00:30"], "*/15 * * * * *", "first"),
        (["01-01 00:00", "01-01 00:00:01", "01-01 00:00:02"], "*/15 * * * * *", "last"),
        (["01-01 22:15:30", "01-02 22:15:30"], "30 15 22 * * *", "first"),
        (["01-01 22:15:30", "01-02 22:15:30"], "15 22 * * * 30", "last"),
        (["01-01 00:00", "01-02 00:00"], "@daily", "first"),
    ],
)
def test_a_field_for_seconds_stands_where_it_is_said_to(expected: list[str], text: str, seconds: str) -> None:
    assert expected == times(text, len(expected), seconds=seconds)


def test_where_the_seconds_stand_is_no_other_definition() -> None:
    first, last = CronTrigger("30 15 22 * * *", seconds="first"), CronTrigger("15 22 * * * 30", seconds="last")

    assert first.spec == last.spec
    assert first.spec != CronTrigger("15 22 * * *").spec
    assert CronTrigger("0 0 1 * 1").spec != CronTrigger("0 0 1 * 1", day_match="and").spec


@pytest.mark.parametrize(
    "text",
    ["5-5 * * * *", "1-1 * * * *", "0 0 1 Jan-Jan *", "*/70 * * * *", "0 0 */32 * *", "0 0 * * 5#6", "0 0 * * 5#-1",
     "*/15 * * * * *", "0 0 1 1 * 2027", "0 0 * *", "R * * * *", "CRON_TZ=UTC 0 0 * * *", "# 0 0 * * *", "@reboot",
     "@every 5m", "0 0 30 2 *", "0 0 31 2,4 *", None, b"0 0 * * *", 5],
)  # fmt: skip
def test_what_is_misread_elsewhere_is_refused(text: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        CronTrigger(text)

    assert refused.value.setting == "CronTrigger"
    assert refused.value.remedy


# H, spread by the name of the job


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("H * * * *", range(60)),
        ("H(0-29) * * * *", range(30)),
        ("H(40-45) * * * *", range(40, 46)),
    ],
)
def test_an_h_is_one_value_for_a_job_and_spreads_over_the_range(text: str, minutes: range) -> None:
    trigger = CronTrigger(text)

    seen = {}
    for n in range(400):
        found = {moment.minute for moment in islice(trigger.fire_times(NEW_YEAR, job=f"job {n}"), 3)}
        seen[n] = found

    assert all(len(found) == 1 for found in seen.values())
    assert set(minutes) == set().union(*seen.values())


@pytest.mark.parametrize(("text", "step", "end"), [("H/15 * * * *", 15, 60), ("H(0-29)/10 * * * *", 10, 30)])
def test_an_h_with_a_step_begins_anywhere_in_the_first_step(text: str, step: int, end: int) -> None:
    trigger = CronTrigger(text)

    starts = set()
    for n in range(200):
        found = [
            moment.minute for moment in trigger.fire_times(NEW_YEAR, NEW_YEAR + timedelta(hours=1), job=f"job {n}")
        ]
        assert list(range(found[0], end, step)) == found
        starts.add(found[0])

    assert set(range(step)) == starts


def test_an_h_is_the_same_for_ever() -> None:
    """Changing these would move everybody's schedules."""
    assert ["01-01 05:58", "01-02 05:58"] == times("H H * * *", 2, job="flights")
    assert ["01-01 13:34", "01-02 13:34"] == times("H H * * *", 2, job="invoices")
    assert ["01-04 00:00", "02-04 00:00"] == times("0 0 H * *", 2, job="flights")


def test_an_h_of_a_day_comes_in_each_month() -> None:
    for n in range(60):
        assert 12 == len(times("0 0 H * *", 99, job=f"job {n}"))


def test_an_h_makes_no_other_field_random() -> None:
    assert times("@daily", 3, job="a") == times("@daily", 3, job="b")


# Every special day, against plain sentences


def last(day: date) -> bool:
    return (day + timedelta(days=7)).month != day.month


def length(day: date) -> int:
    return ((day.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)).day


def is_workday_nearest_to(n: int, day: date) -> bool:
    """Of all Mondays to Fridays of the month, the one nearest; never two at the same distance."""
    target = min(n, length(day))
    workdays = [d for d in range(1, length(day) + 1) if day.replace(day=d).weekday() < 5]
    return day.day == min(workdays, key=lambda d: abs(d - target))


SENTENCES: dict[str, Callable[[date], bool]] = {
    "* * Ltue": lambda day: day.isoweekday() == 2 and last(day),
    "* * Lwed-fri": lambda day: day.isoweekday() in (3, 4, 5) and last(day),
    "* * 1,L5": lambda day: day.isoweekday() == 1 or (day.isoweekday() == 5 and last(day)),
    "* * fri#3": lambda day: day.isoweekday() == 5 and 15 <= day.day <= 21,
    "* * mon-wed#5": lambda day: day.isoweekday() in (1, 2, 3) and day.day >= 29,
    "L * *": lambda day: day.day == length(day),
    "L-3,1 * *": lambda day: day.day in (length(day) - 3, 1),
    "LW * *": lambda day: is_workday_nearest_to(31, day),
    "15W * *": lambda day: is_workday_nearest_to(15, day),
    "1W,2W,30W * *": lambda day: any(is_workday_nearest_to(n, day) for n in (1, 2, 30)),
    "15 * L5": lambda day: day.day == 15 or (day.isoweekday() == 5 and last(day)),
    "L,10-12 feb-apr sat#2,Lsun": lambda day: (
        day.month in (2, 3, 4)
        and (
            day.day in (length(day), 10, 11, 12)
            or (day.isoweekday() == 6 and 8 <= day.day <= 14)
            or (day.isoweekday() == 7 and last(day))
        )
    ),
}


@pytest.mark.parametrize("text", SENTENCES)
def test_special_days_are_those_of_which_the_sentence_is_true(text: str) -> None:
    start, end = date(2023, 1, 1), date(2029, 1, 1)
    expected = [day for n in range((end - start).days) if SENTENCES[text](day := start + timedelta(days=n))]

    moments = CronTrigger(f"0 0 {text}").fire_times(
        datetime(2022, 12, 31, 12, tzinfo=UTC), datetime(2028, 12, 31, 12, tzinfo=UTC)
    )

    assert expected == [moment.date() for moment in moments]


# Plain expressions, against croniter


def plain_field(low: int, high: int) -> st.SearchStrategy[str]:
    """Lists of numbers, ranges (wrapping ones too) and steps that croniter reads rightly."""
    number = st.integers(low, high)
    pair = st.tuples(number, number).filter(lambda both: both[0] != both[1])
    spans = pair.map(lambda both: f"{both[0]}-{both[1]}")
    steps = pair.filter(lambda both: both[0] < both[1]).flatmap(
        lambda both: st.integers(1, both[1] - both[0]).map(lambda step: f"{both[0]}-{both[1]}/{step}")
    )
    whole = st.integers(2, high - low).map(lambda step: f"*/{step}")
    parts = st.lists(number.map(str) | spans | steps | whole, min_size=1, max_size=3).map(",".join)
    return st.just("*") | parts


@given(
    minute=plain_field(0, 59),
    hour=plain_field(0, 23),
    day=plain_field(1, 28),
    month=plain_field(1, 12),
    weekday=plain_field(0, 6),
    both=st.booleans(),
)
def test_a_plain_expression_means_what_croniter_says(
    minute: str, hour: str, day: str, month: str, weekday: str, both: bool
) -> None:
    text = f"{minute} {hour} {day} {month} {weekday}"
    trigger = CronTrigger(text, day_match="and" if both else "or")
    theirs = croniter(text, NEW_YEAR, ret_type=datetime, day_or=not both)

    found = list(islice(trigger.fire_times(NEW_YEAR), 12))

    assert [theirs.get_next(datetime) for _ in found] == found


@pytest.mark.parametrize("field", [MINUTE, HOUR, DATE, MONTH, WEEKDAY, SECOND], ids=lambda field: field.name)
def test_numbers_and_steps_that_are_read_without_croniter_mean_what_it_says(field: Field) -> None:
    alone = [str(number) for number in range(field.low, field.high + 1)]
    for text in (*alone, *(f"*/{step}" for step in range(1, field.size))):
        parts = ["*"] * 6
        parts[field.place] = text

        theirs = croniter.expand(" ".join(parts[: max(5, field.place + 1)]))[0][field.place]

        expected = range(field.low, field.low + field.size) if "*" in theirs else sorted(theirs)
        assert tuple(expected) == numbers(field, text)


def test_an_expression_may_match_years_apart() -> None:
    moments = islice(CronTrigger("0 0 29 2 mon", day_match="and").fire_times(NEW_YEAR), 3)

    assert ["2044-02-29", "2072-02-29", "2112-02-29"] == [f"{moment:%Y-%m-%d}" for moment in moments]


def test_fire_times_end_with_the_calendar() -> None:
    assert [] == list(CronTrigger("0 0 29 2 *").fire_times(datetime(9997, 1, 1, tzinfo=UTC)))
