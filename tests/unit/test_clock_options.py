"""What every clock trigger takes: first and last moment, excluded dates, jitter, policies; and that it stays a value."""

from __future__ import annotations

import copy
import pickle
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl import (
    ClockTrigger,
    ConfigurationError,
    CronTrigger,
    DailyTrigger,
    Missed,
    OnceTrigger,
    Overlap,
    PeriodicTrigger,
    every,
)

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
PRAGUE = "Europe/Prague"

KINDS: dict[str, Callable[..., ClockTrigger]] = {
    "cron": lambda **options: CronTrigger("0 12 * * *", **options),
    "periodic": lambda **options: PeriodicTrigger("1d", **options),
    "daily": lambda **options: DailyTrigger("12:00", **options),
}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def shown(moments: Iterator[datetime], n: int = 99) -> list[str]:
    return [f"{moment:%m-%d %H:%M}" for moment in islice(moments, n)]


@pytest.mark.parametrize("kind", KINDS)
def test_no_fire_time_lies_before_the_start_or_after_the_end(kind: str) -> None:
    trigger = KINDS[kind](starting="2026-01-10 12:00", until="2026-01-13 12:00")

    assert ["01-10 12:00", "01-11 12:00", "01-12 12:00", "01-13 12:00"] == shown(trigger.fire_times(NEW_YEAR))
    assert trigger.last_fire_time(utc("2026-01-10 11:59")) is None
    assert utc("2026-01-10 12:00") == trigger.last_fire_time(utc("2026-01-10 12:00"))
    assert utc("2026-01-13 12:00") == trigger.last_fire_time(utc("2030-01-01"))
    assert utc("2026-01-10 12:00") == trigger.first_fire_time(NEW_YEAR)
    assert trigger.first_fire_time(utc("2026-02-01")) is None


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        ("2026-01-10T00:00:00+00:00", date(2026, 1, 10)),
        ("2026-01-10T00:00:00+00:00", "2026-01-10"),
        ("2026-01-10T11:30:00+00:00", "2026-01-10 12:30"),
        ("2026-01-10T11:30:00+00:00", "2026-01-10T12:30:00"),
        ("2026-01-10T12:30:00+00:00", "2026-01-10T12:30:00Z"),
        ("2026-01-10T11:30:00+00:00", datetime(2026, 1, 10, 12, 30)),
        ("2026-01-10T12:30:00+00:00", datetime(2026, 1, 10, 12, 30, tzinfo=UTC)),
        ("2026-03-29T01:00:00+00:00", "2026-03-29 02:30"),  # in a gap: its end
        ("2026-10-25T00:30:00+00:00", "2026-10-25 02:30"),  # twice: the first
    ],
)
def test_a_moment_may_be_written_in_these_ways(expected: str, value: Any) -> None:
    """Without an offset it is wall time in the zone; a date alone is its midnight."""
    midnight = expected.replace("10T00:00:00", "09T23:00:00")

    start = CronTrigger("* * * * *", timezone=PRAGUE, starting=value).window.start

    assert start is not None
    assert (midnight if "T00:00" in expected else expected) == start.isoformat()


def test_on_an_excluded_date_nothing_fires_and_the_days_around_it_are_whole() -> None:
    trigger = CronTrigger("0 */8 * * *", excluding=["2026-01-02", date(2026, 1, 3)])

    expected = ["01-01 08:00", "01-01 16:00", "01-04 00:00", "01-04 08:00"]

    assert expected == shown(trigger.fire_times(NEW_YEAR), 4)
    assert utc("2026-01-01 16:00") == trigger.last_fire_time(utc("2026-01-03 23:59"))


def test_excluded_dates_are_judged_in_the_zone_of_the_trigger() -> None:
    trigger = PeriodicTrigger("12h", timezone="America/New_York", excluding="2026-01-02")

    assert ["01-01 07:00", "01-01 19:00", "01-03 07:00"] == shown(trigger.fire_times(NEW_YEAR), 3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_leaves_out_excluded_dates(kind: str) -> None:
    trigger = KINDS[kind](excluding=["2026-01-02", "2026-01-04"], starting="2026-01-01 12:00")

    assert ["01-01 12:00", "01-03 12:00", "01-05 12:00"] == shown(trigger.fire_times(NEW_YEAR), 3)


def test_looking_back_over_a_long_holiday_is_quick() -> None:
    year = [date(2025, 1, 1) + n * DAY for n in range(365)]
    trigger = PeriodicTrigger(1, excluding=year)

    assert utc("2024-12-31 23:59:59") == trigger.last_fire_time(utc("2025-12-31 12:00"))
    assert utc("2026-01-01") == next(trigger.fire_times(utc("2025-01-01 12:00")))


# Jitter


JITTERED: list[ClockTrigger] = [
    PeriodicTrigger(60, jitter=20),
    PeriodicTrigger(60, jitter="1h"),
    CronTrigger("*/7 * * * *", timezone=PRAGUE, jitter="5m"),
    CronTrigger("30 2 * * *", timezone=PRAGUE, jitter="3h"),
    DailyTrigger("22:00", "23:59", timezone=PRAGUE, jitter="2h", excluding=["2026-03-01", "2026-03-28"]),
    every(5).to(10).minutes,
]
PLAIN: list[ClockTrigger] = [
    PeriodicTrigger(60),
    PeriodicTrigger(60),
    CronTrigger("*/7 * * * *", timezone=PRAGUE),
    CronTrigger("30 2 * * *", timezone=PRAGUE),
    DailyTrigger("22:00", "23:59", timezone=PRAGUE, excluding=["2026-03-01", "2026-03-28"]),
    PeriodicTrigger(450),
]


@pytest.mark.parametrize("number", range(len(JITTERED)))
def test_jitter_puts_each_fire_time_off_and_never_past_the_next(number: int) -> None:
    trigger, plain = JITTERED[number], PLAIN[number]
    start, end = utc("2026-02-20"), utc("2026-02-21") if number in (0, 1) else utc("2026-04-10")
    nominal = [moment.astimezone(UTC) for moment in plain.fire_times(start - DAY, end + 2 * DAY)]

    found = [moment.astimezone(UTC) for moment in trigger.fire_times(start - DAY, end, job="j") if moment > start]

    begin = bisect_right(nominal, found[0]) - 1
    lates = []
    for moment, (earlier, later) in zip(found, pairwise(nominal[begin:]), strict=False):
        assert earlier <= moment < later
        lates.append(moment - earlier)
        assert lates[-1] < trigger.jitter
    assert len(set(lates)) > len(lates) * 0.7
    assert found == sorted(set(found))


def test_jitter_differs_by_job_and_is_the_same_for_each_process() -> None:
    """Changing these would move everybody's schedules."""
    trigger = PeriodicTrigger("1h", jitter="10m")

    one, other = (next(trigger.fire_times(NEW_YEAR, job=job)).isoformat() for job in ("flights", "invoices"))

    assert "2026-01-01T00:06:39.454000+00:00" == one
    assert "2026-01-01T00:04:44.822000+00:00" == other


def test_jobs_of_one_second_are_spread_evenly() -> None:
    trigger = CronTrigger("0 0 * * *", jitter=100, starting="2026-01-02")

    moments = [next(trigger.fire_times(NEW_YEAR, job=f"job {n}")) for n in range(1000)]

    tenths = [sum(1 for moment in moments if (moment - NEW_YEAR - DAY) // (10 * SECOND) == n) for n in range(10)]
    assert 1000 == sum(tenths)
    assert all(60 < n < 140 for n in tenths)


def test_jitter_leaves_neither_the_window_nor_the_allowed_dates() -> None:
    trigger = DailyTrigger("23:00", jitter="6h", until="2026-01-05 23:10", excluding=["2026-01-03", "2026-01-04"])

    for n in range(50):
        found = list(trigger.fire_times(NEW_YEAR + 6 * HOUR, job=f"job {n}"))
        assert [1, 2, 5] == [(moment - HOUR * 6).day if moment.hour < 6 else moment.day for moment in found]
        assert found[1] < utc("2026-01-03")
        assert found[2] <= utc("2026-01-05 23:10")


@given(
    number=st.integers(0, len(JITTERED) - 1),
    after=st.datetimes(datetime(2026, 2, 25), datetime(2026, 4, 1)).map(lambda moment: moment.replace(tzinfo=UTC)),
)
def test_looking_back_finds_what_looking_forward_finds(number: int, after: datetime) -> None:
    trigger = JITTERED[number]

    found = list(islice(trigger.fire_times(after, job="j"), 4))

    for earlier, later in pairwise(found):
        assert earlier == trigger.last_fire_time(later - timedelta(microseconds=1), job="j")
        assert earlier == trigger.last_fire_time(earlier, job="j")
        assert later == next(trigger.fire_times(earlier, job="j"))


# Policies


ALL: list[ClockTrigger] = [
    CronTrigger("0 12 * * *"),
    PeriodicTrigger("1d"),
    DailyTrigger("12:00"),
    OnceTrigger("2027-01-01"),
    every().day.at("12:00"),
    every(3).minutes,
]


@pytest.mark.parametrize("trigger", ALL, ids=lambda trigger: trigger.spec)
def test_policies_can_be_changed_in_a_copy(trigger: ClockTrigger) -> None:
    changed = trigger.with_policy(
        overlap="queue(3)", missed="all(2)", start_deadline="5m", jitter=10, excluding=["2026-01-02"]
    )

    assert (Overlap.queue(3), Missed.all(2), 5 * MINUTE) == (changed.overlap, changed.missed, changed.start_deadline)
    assert 10 * SECOND == changed.jitter
    assert "2026-01-02" not in [f"{moment:%Y-%m-%d}" for moment in islice(changed.fire_times(NEW_YEAR), 3000)]
    assert (Overlap.skip, Missed.last, None) == (trigger.overlap, trigger.missed, trigger.start_deadline)
    assert trigger.spec != changed.spec
    assert trigger.spec == trigger.with_policy(overlap="again", missed="none").spec


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_policies_are_taken_at_declaration(make: Callable[..., ClockTrigger]) -> None:
    trigger = make(overlap="replace", missed="within(15m)", start_deadline=60)

    assert (Overlap.replace, Missed.within("15m"), MINUTE) == (trigger.overlap, trigger.missed, trigger.start_deadline)


@pytest.mark.parametrize(
    "changed",
    [
        {"timezone": PRAGUE}, {"starting": "2026-01-01"}, {"until": "2028-01-01"}, {"excluding": ["2026-05-01"]},
        {"jitter": 5}, {"excluding": ["2026-05-02"]}, {"excluding": [date(2026, 1, 1) + n * DAY for n in range(99)]},
        {"excluding": [date(2026, 1, 2) + n * DAY for n in range(99)]},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_whatever_changes_fire_times_changes_the_definition(
    make: Callable[..., ClockTrigger], changed: dict[str, Any]
) -> None:
    trigger = make(**changed)

    assert make().spec != trigger.spec
    assert make(**changed).spec == trigger.spec
    assert "\n" not in trigger.spec
    assert len(trigger.spec) < 200


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("DailyTrigger starting", {"starting": "soon"}),
        ("DailyTrigger until", {"until": 5}),
        ("DailyTrigger", {"starting": "2026-01-02", "until": "2026-01-01"}),
        ("DailyTrigger excluding", {"excluding": ["1 May"]}),
        ("DailyTrigger excluding", {"excluding": [datetime(2026, 1, 1)]}),
        ("DailyTrigger jitter", {"jitter": "-5s"}),
        ("DailyTrigger jitter", {"jitter": "1000d"}),
        ("DailyTrigger timezone", {"timezone": "Mars"}),
        ("DailyTrigger start_deadline", {"start_deadline": "later"}),
        ("DailyTrigger", {"starting": "2026-01-01", "until": "2026-01-01 11:00"}),
        ("DailyTrigger", {"starting": "2026-01-01", "until": "2026-01-02", "excluding": "2026-01-01"}),
        ("missed", {"missed": "sometimes"}),
        ("overlap", {"overlap": "sometimes"}),
    ],
)
def test_an_option_that_cannot_be_right_is_refused(setting: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        DailyTrigger("12:00", **options)

    assert refused.value.setting == setting


# A value


@pytest.mark.parametrize("trigger", [*ALL, *JITTERED], ids=lambda trigger: trigger.spec)
def test_it_makes_no_difference_who_looked_before(trigger: ClockTrigger) -> None:
    """A search that goes on where another one paused finds what a new one finds."""
    expected = [next(copy.deepcopy(trigger).fire_times(NEW_YEAR + 7 * n * HOUR, job="j"), None) for n in range(30)]
    following = [None if at is None else next(copy.deepcopy(trigger).fire_times(at, job="j"), None) for at in expected]

    for n in range(30):
        assert expected[n] == next(trigger.fire_times(NEW_YEAR + 7 * n * HOUR, job="j"), None)
        next(trigger.fire_times(NEW_YEAR, job="other"), None)
        at = expected[n]
        if at is not None:
            again = [next(trigger.fire_times(at, at + 9 * DAY, job="j"), None) for _ in range(2)]
            assert [following[n] if following[n] and following[n] <= at + 9 * DAY else None] * 2 == again  # type: ignore[operator]
    first, second = trigger.fire_times(NEW_YEAR, job="j"), trigger.fire_times(NEW_YEAR, job="j")
    assert [next(first, None), next(first, None)] == [next(second, None), next(second, None)]


@pytest.mark.parametrize("trigger", [*ALL, *JITTERED], ids=lambda trigger: trigger.spec)
def test_a_trigger_can_be_copied_and_pickled(trigger: ClockTrigger) -> None:
    next(trigger.fire_times(NEW_YEAR, job="j"))

    for other in (copy.copy(trigger), copy.deepcopy(trigger), pickle.loads(pickle.dumps(trigger))):
        assert trigger.spec == other.spec
        assert next(trigger.fire_times(NEW_YEAR, job="j")) == next(other.fire_times(NEW_YEAR, job="j"))


def test_a_copy_is_served_by_nobody() -> None:
    trigger = PeriodicTrigger(60)

    async def firing(arguments: Any, key: str | None) -> None: ...

    trigger.serve(firing)

    assert "_firings" not in trigger.with_policy(missed="none").__dict__


def test_a_trigger_of_ones_own_needs_its_moments_only() -> None:
    class FullMinutes(ClockTrigger):
        kind = "full"

        def _moments(self, after: datetime, job: str) -> Iterator[datetime]:
            moment = after.replace(second=0, microsecond=0)
            while True:
                moment += MINUTE
                yield moment

    trigger = FullMinutes(starting="2026-01-01 00:10", excluding="2026-01-02", until="2026-01-04")

    assert ["01-01 00:10", "01-01 00:11"] == shown(trigger.fire_times(NEW_YEAR), 2)
    assert utc("2026-01-01 23:59") == trigger.last_fire_time(utc("2026-01-02 09:00"))
    assert utc("2026-01-04 00:00") == trigger.last_fire_time(utc("2027-01-01"))
    assert trigger.spec.startswith("full in UTC; starting 2026-01-01T00:10")


def test_a_trigger_without_moments_says_so() -> None:
    class Nothing(ClockTrigger):
        kind = "nothing"

    with pytest.raises(NotImplementedError, match="Nothing gives no fire times"):
        next(Nothing().fire_times(NEW_YEAR))
