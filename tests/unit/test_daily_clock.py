"""Every day at a time, once at a moment, and the schedules that have a word of their own."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import Any

import pytest

from etl import (
    ClockTrigger,
    ConfigurationError,
    DailyTrigger,
    OnceTrigger,
    daily,
    heartbeat,
    hourly,
    minutely,
    monthly,
    weekly,
    yearly,
)
from etl.core.schedule import due

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def shown(trigger: ClockTrigger, after: datetime, n: int) -> list[str]:
    return [f"{moment:%m-%d %H:%M:%S%z}" for moment in islice(trigger.fire_times(after), n)]


@pytest.mark.parametrize(
    ("expected", "times"),
    [
        (["01-01 22:15:30", "01-02 22:15:30"], ["22:15:30"]),
        (["01-01 22:15:00", "01-02 22:15:00"], ["22:15"]),
        (["01-01 09:05:00", "01-02 09:05:00"], ["9:05"]),
        (["01-01 22:15:30", "01-02 22:15:30"], [time(22, 15, 30)]),
        (["01-01 08:00:00", "01-01 12:30:00", "01-01 22:00:00", "01-02 08:00:00"], ["22:00", "08:00", "12:30", "8:00"]),
    ],
)
def test_it_fires_every_day_at_these_times(expected: list[str], times: list[Any]) -> None:
    assert [f"{moment}+0000" for moment in expected] == shown(DailyTrigger(*times), NEW_YEAR, len(expected))


def test_midnight_in_sweden_is_midnight_in_sweden_all_year() -> None:
    moments = DailyTrigger("00:00:00", timezone="Europe/Stockholm").fire_times(NEW_YEAR, NEW_YEAR + 365 * DAY)

    assert 365 == len(local := [f"{moment:%H:%M}" for moment in moments])
    assert {"00:00"} == set(local)


@pytest.mark.parametrize(
    ("expected", "at", "day"),
    [
        (["03-28 02:30:00+0100", "03-29 03:00:00+0200", "03-30 02:30:00+0200"], "02:30", "2026-03-27 12:00"),
        (["10-24 02:30:00+0200", "10-25 02:30:00+0200", "10-26 02:30:00+0100"], "02:30", "2026-10-23 12:00"),
    ],
)
def test_a_time_that_clocks_skip_or_repeat_fires_once(expected: list[str], at: str, day: str) -> None:
    after = datetime.fromisoformat(day).replace(tzinfo=UTC)

    assert expected == shown(DailyTrigger(at, timezone="Europe/Prague"), after, 3)


@pytest.mark.parametrize(
    "value", ["24:00", "22:60", "22", "10 pm", "", None, 22, "22:15:30+02:00", time(22, tzinfo=UTC)]
)
def test_what_is_no_time_of_day_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not a time of day") as refused:
        DailyTrigger(value)

    assert refused.value.setting == "DailyTrigger"
    assert "22:15" in str(refused.value.remedy)


def test_no_time_at_all_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no time of day"):
        DailyTrigger()


# Once


@pytest.mark.parametrize(
    ("expected", "moment", "zone"),
    [
        ("2027-03-01T08:00:00+00:00", "2027-03-01 08:00", "UTC"),
        ("2027-03-01T08:00:30+01:00", "2027-03-01 08:00:30", "Europe/Prague"),
        ("2027-03-01T09:00:00+01:00", "2027-03-01T08:00Z", "Europe/Prague"),
        ("2027-03-01T09:00:00+01:00", datetime(2027, 3, 1, 8, tzinfo=UTC), "Europe/Prague"),
        ("2027-03-01T00:00:00+01:00", date(2027, 3, 1), "Europe/Prague"),
        ("2026-03-29T03:00:00+02:00", "2026-03-29 02:30", "Europe/Prague"),
        ("2026-10-25T02:30:00+02:00", "2026-10-25 02:30", "Europe/Prague"),
    ],
)
def test_it_fires_once_at_its_moment(expected: str, moment: Any, zone: str) -> None:
    trigger = OnceTrigger(moment, timezone=zone)

    found = [moment.isoformat() for moment in trigger.fire_times(NEW_YEAR)]

    assert [expected] == found
    at = datetime.fromisoformat(expected).astimezone(UTC)
    assert [] == list(trigger.fire_times(at))
    for later in (at, at + 1000 * DAY):
        last = trigger.last_fire_time(later)
        assert last is not None
        assert at == last.astimezone(UTC)
    assert trigger.last_fire_time(at - DAY) is None


@pytest.mark.parametrize("value", ["tomorrow", "", None, 5, "08:00", "2027-13-01", "1969-01-01"])
def test_what_is_no_moment_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        OnceTrigger(value)

    assert refused.value.setting == "OnceTrigger"


def test_a_moment_that_is_past_can_be_declared_and_is_refused_when_it_is_stored() -> None:
    trigger = OnceTrigger("2025-03-01 08:00", timezone="Europe/Prague")

    with pytest.raises(ConfigurationError) as refused:
        trigger.first_fire_time(NEW_YEAR)

    assert "2025-03-01 08:00:00+01:00 is past" == refused.value.problem
    assert "past='run'" in str(refused.value.remedy)
    assert datetime(2025, 3, 1, 7, tzinfo=UTC) == trigger.first_fire_time(NEW_YEAR - 365 * DAY)


def test_a_moment_that_is_past_may_run_at_once() -> None:
    trigger = OnceTrigger("2025-03-01 08:00", past="run")

    first = trigger.first_fire_time(NEW_YEAR)

    assert datetime(2025, 3, 1, 8, tzinfo=UTC) == first
    decision = due(trigger, first, NEW_YEAR)
    assert ((first,), (), None, None) == (decision.serve, decision.missed, decision.missed_range, decision.next_at)


def test_to_relent_over_a_past_moment_is_no_new_definition() -> None:
    """Else a moment that has fired would fire again."""
    assert OnceTrigger("2025-03-01", past="run").spec == OnceTrigger("2025-03-01").spec
    assert OnceTrigger("2025-03-02").spec != OnceTrigger("2025-03-01").spec


def test_another_word_for_past_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="use 'error' or 'run'"):
        OnceTrigger("2027-01-01", past="skip")  # type: ignore[arg-type]


def test_a_moment_on_an_excluded_date_never_comes() -> None:
    with pytest.raises(ConfigurationError, match="never fires"):
        OnceTrigger("2027-01-01 08:00", excluding="2027-01-01")


# Words


@pytest.mark.parametrize(
    ("expected", "trigger"),
    [
        (["01-01 00:00:01+0000", "01-01 00:00:02+0000"], heartbeat),
        (["01-01 00:01:00+0000", "01-01 00:02:00+0000"], minutely),
        (["01-01 01:00:00+0000", "01-01 02:00:00+0000"], hourly),
        (["01-02 00:00:00+0000", "01-03 00:00:00+0000"], daily),
        (["01-04 00:00:00+0000", "01-11 00:00:00+0000"], weekly),
        (["02-01 00:00:00+0000", "03-01 00:00:00+0000"], monthly),
        (["01-01 00:00:00+0000", "01-01 00:00:00+0000"], yearly),
    ],
    ids=lambda value: getattr(value, "spec", None),
)
def test_a_schedule_with_a_word_of_its_own_means_what_cron_means(expected: list[str], trigger: ClockTrigger) -> None:
    assert expected == shown(trigger, NEW_YEAR, 2)
