"""A year of a scheduler's life with a fake clock: fifty schedules, both clock changes, each tick once and at its time."""

from __future__ import annotations

import heapq
import time
from datetime import UTC, datetime, timedelta

from etl import ClockTrigger, CronTrigger, DailyTrigger, OnceTrigger, PeriodicTrigger, every, hourly, monthly, weekly
from etl.core.schedule import due

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
ZONES = ("UTC", "Europe/Prague", "America/New_York", "Australia/Lord_Howe", "America/Santiago")
# Ticks in the year: where clocks change, 8760 hours stay 8760 hours and 365 days stay 365 times 02:30.
PER_ZONE = {
    "*/15 * * * *": 4 * 8760,
    "0 * * * *": 8760,
    "30 2 * * *": 365,
    "*/20 8-17 * * mon-fri": 30 * 261,
    "30 5 * jan,mar Ltue": 2,
    "0 0 L * *": 12,
}


def schedules() -> dict[str, tuple[ClockTrigger, int]]:
    """Fifty, each with the number of its fire times in the year."""
    found: dict[str, tuple[ClockTrigger, int]] = {
        f"{text} {zone}": (CronTrigger(text, timezone=zone), count)
        for zone in ZONES
        for text, count in PER_ZONE.items()
    }
    found |= {f"daily {zone}": (DailyTrigger("02:30", "22:15:30", timezone=zone), 730) for zone in ZONES}
    found |= {f"hour {zone}": (every().hour.at(":10", zone), 8760) for zone in ZONES}
    others: list[tuple[ClockTrigger, int]] = [
        (PeriodicTrigger("20m"), 3 * 8760),
        (PeriodicTrigger("1h", jitter="10m", timezone="Europe/Prague"), 8760),
        (CronTrigger("H H * * *"), 365),
        (every(2).weeks.at("10:00"), 26),
        (every().monday.at("02:00", "Europe/Brussels"), 52),
        (every(5).minutes.starting("2026-06-01").until("2026-06-30 23:55"), 30 * 288),
        (OnceTrigger("2026-03-01 08:00", timezone="Europe/Prague"), 1),
        (hourly, 8760),
        (weekly, 52),
        (monthly.with_policy(excluding=["2026-05-01"]), 11),
    ]
    return found | {f"other {number}": other for number, other in enumerate(others)}


def test_a_year_of_fifty_schedules_takes_seconds_and_loses_no_tick() -> None:
    known = schedules()
    began = time.process_time()

    served = dict.fromkeys(known, 0)
    queue = [(trigger.first_fire_time(START, job=name), name) for name, (trigger, _) in known.items()]
    waiting = [(moment.astimezone(UTC), name) for moment, name in queue if moment is not None]
    heapq.heapify(waiting)
    while waiting and waiting[0][0] < END:
        next_at, name = heapq.heappop(waiting)
        decision = due(known[name][0], next_at, next_at + timedelta(milliseconds=20), job=name)
        assert (next_at,) == decision.serve
        assert () == decision.missed
        served[name] += 1
        if decision.next_at is not None:
            assert decision.next_at > next_at
            heapq.heappush(waiting, (decision.next_at, name))

    assert 50 == len(known)
    # Years of other zones begin at other times, and one of Lord Howe's full hours is in its gap of thirty minutes.
    assert {} == {name: n for name, n in served.items() if abs(n - known[name][1]) > 2}
    assert sum(served.values()) > 250_000
    assert time.process_time() - began < 10
