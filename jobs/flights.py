"""Flights out of New York, January 2013: from what the airline filed to what happened, in real instants.

The inbox has local clock times without a zone ("517" at EWR); the sink has `timestamptz`. The zones come from the
table `airport`, which each claim reads anew.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from etl import BatchProcessingSource, Context, CronTrigger, Pipeline, PostgresSink, Retry, processor

Flight = dict[str, Any]

WITH_ZONES = """
SELECT f.*, origin.tzone AS origin_zone, dest.tzone AS dest_zone, dest.faa AS known_dest
  FROM flights_inbox f
  LEFT JOIN airport origin ON origin.faa = f.origin
  LEFT JOIN airport dest ON dest.faa = f.dest
"""


class UnknownAirport(Exception):  # noqa: N818 - reads as what is wrong, and `etl replay --error` takes it
    """An airport that `airport` does not have, or has without a time zone: somebody must add it."""


@processor(retry=Retry(attempts=5, on=(TimeoutError, ConnectionError)), inline=True)
def to_instants(context: Context, flight: Flight) -> Flight | None:
    """Turn local clock times into instants; a flight that never left is filtered out."""
    if flight["dep_time"] is None:
        return None
    if flight["known_dest"] is None:
        raise UnknownAirport(f"no airport {flight['dest']!r}")
    scheduled = local_instant(
        datetime(flight["year"], flight["month"], flight["day"]), flight["sched_dep_time"], zone(flight, "origin")
    )
    departed = scheduled + timedelta(minutes=flight["dep_delay"])
    landed = flight["arr_time"]
    return {
        "id": flight["id"],
        "carrier": flight["carrier"],
        "flight_number": flight["flight"],
        "tail_number": flight["tailnum"],
        "origin": flight["origin"],
        "dest": flight["dest"],
        "scheduled_departure": scheduled,
        "departed_at": departed,
        "arrived_at": None if landed is None else next_showing(departed, landed, zone(flight, "dest")),
        "departure_delay_minutes": flight["dep_delay"],
        "arrival_delay_minutes": flight["arr_delay"],
        "distance_miles": flight["distance"],
        "delay": delay_class(flight["dep_delay"]),
    }


def zone(flight: Flight, end: str) -> ZoneInfo:
    """The time zone at one end of a flight."""
    name = flight[f"{end}_zone"]
    if name is None:
        raise UnknownAirport(f"airport {flight[end]!r} is unknown or has no time zone")
    return ZoneInfo(name)


def local_instant(day: datetime, clock: int, tz: ZoneInfo) -> datetime:
    """The instant at which the clock in `tz` shows `clock` (hhmm; 2400 is the next midnight) on that day.

    A clock time that a spring change skips is read with the offset before it, as `zoneinfo` does for fold=0.
    """
    local = day + timedelta(hours=clock // 100, minutes=clock % 100)
    return local.replace(tzinfo=tz).astimezone(UTC)


def next_showing(after: datetime, clock: int, tz: ZoneInfo) -> datetime:
    """The first instant after `after` at which the clock in `tz` shows `clock` (as `local_instant` reads it)."""
    midnight = after.astimezone(tz).replace(hour=0, minute=0, tzinfo=None)
    shown = [local_instant(midnight + timedelta(days=days), clock, tz) for days in (-1, 0, 1, 2)]
    shown += [instant for again in shown if (instant := repeated(again, tz)) is not None]
    return min(instant for instant in shown if instant > after)


def repeated(instant: datetime, tz: ZoneInfo) -> datetime | None:
    """The second instant with the same clock time, when the clock in `tz` is put back in between."""
    local = instant.astimezone(tz)
    second = local.replace(fold=1).astimezone(UTC)
    return (
        second
        if second > instant and second.astimezone(tz).replace(tzinfo=None) == local.replace(tzinfo=None)
        else None
    )


def delay_class(minutes: int) -> str:
    """early (before time), on_time (up to 14 minutes), late (15 to 59) or very_late."""
    if minutes < 0:
        return "early"
    if minutes < 15:
        return "on_time"
    return "late" if minutes < 60 else "very_late"


flights = Pipeline(
    "flights",
    BatchProcessingSource(
        "flights_inbox",
        query=WITH_ZONES,
        key="id",
        pending="status = 'pending'",
        done="status = 'done'",
        failed="status = 'failed'",
        batch_size=1000,
    ).on(CronTrigger("*/5 * * * *", timezone="America/New_York")),
    to_instants,
    PostgresSink("flight", key="id"),
)
