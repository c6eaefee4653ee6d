"""The time arithmetic of `jobs/flights.py`, against an oracle that walks the clock minute by minute.

The oracle knows nothing of folds: it asks only what a wall clock in a zone shows at an instant.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl import Context
from etl.core.processor import FunctionProcessor
from etl.demo import flights_job

MINUTE = timedelta(minutes=1)
NO_CONTEXT = cast("Context", None)  # the job asks it nothing

process = cast("FunctionProcessor", flights_job().processors[0])


def flight(**changes: Any) -> dict[str, Any]:
    """A row as the job's query gives it: United 1545 from Newark to Houston on New Year's Day."""
    row: dict[str, Any] = {
        "id": 1, "year": 2013, "month": 1, "day": 1, "dep_time": 517, "sched_dep_time": 515, "dep_delay": 2,
        "arr_time": 830, "sched_arr_time": 819, "arr_delay": 11, "carrier": "UA", "flight": 1545, "tailnum": "N14228",
        "origin": "EWR", "dest": "IAH", "air_time": 227, "distance": 1400, "hour": 5, "minute": 15,
        "time_hour": datetime(2013, 1, 1, 10, tzinfo=UTC), "status": "pending",
        "origin_zone": "America/New_York", "dest_zone": "America/Chicago", "known_dest": "IAH",
    }  # fmt: skip
    return row | changes


def on(day: datetime, **changes: Any) -> dict[str, Any]:
    return flight(year=day.year, month=day.month, day=day.day, **changes)


def processed(row: dict[str, Any]) -> dict[str, Any]:
    result = process(NO_CONTEXT, row)
    assert isinstance(result, dict)
    return result


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


# The oracle


def shown(instant: datetime, zone: ZoneInfo) -> datetime:
    """What a wall clock with a calendar shows there and then."""
    return instant.astimezone(zone).replace(tzinfo=None)


def wall(day: datetime, clock: int) -> datetime:
    return day + timedelta(hours=clock // 100, minutes=clock % 100)


def instants_showing(wanted: datetime, zone: ZoneInfo) -> list[datetime]:
    """All instants at which the clock shows `wanted`; for a time that is skipped, the one with the offset before."""
    about = wanted.replace(tzinfo=UTC)
    walked = [about + n * MINUTE for n in range(-15 * 60, 15 * 60)]
    found = [instant for instant in walked if shown(instant, zone) == wanted]
    if found:
        return found
    last_before = max(instant for instant in walked if shown(instant, zone) < wanted)
    offset_before = shown(last_before, zone) - last_before.replace(tzinfo=None)
    return [about - offset_before]


def oracle_departure(row: dict[str, Any]) -> datetime:
    day = datetime(row["year"], row["month"], row["day"])
    return instants_showing(wall(day, row["sched_dep_time"]), ZoneInfo(row["origin_zone"]))[0]


def oracle_arrival(departed: datetime, row: dict[str, Any]) -> datetime:
    """Walk through the days at the destination from the one before departure on."""
    zone = ZoneInfo(row["dest_zone"])
    midnight = shown(departed, zone).replace(hour=0, minute=0)
    later = (
        instant
        for days in range(-2, 4)
        for instant in instants_showing(wall(midnight + timedelta(days=days), row["arr_time"]), zone)
        if instant > departed
    )
    return min(later)


# One real flight


def test_an_ordinary_flight_comes_out_as_what_happened_in_real_instants() -> None:
    expected = {
        "id": 1, "carrier": "UA", "flight_number": 1545, "tail_number": "N14228", "origin": "EWR", "dest": "IAH",
        "scheduled_departure": utc(2013, 1, 1, 10, 15), "departed_at": utc(2013, 1, 1, 10, 17),
        "arrived_at": utc(2013, 1, 1, 14, 30), "departure_delay_minutes": 2, "arrival_delay_minutes": 11,
        "distance_miles": 1400, "delay": "on_time",
    }  # fmt: skip

    assert expected == processed(flight())


# Where clocks are odd

NEW_YORK, CHICAGO, PHOENIX = "America/New_York", "America/Chicago", "America/Phoenix"


@pytest.mark.parametrize(
    ("row", "departed", "arrived"),
    [
        # 2400 is the midnight at the end of the day, as a departure and as an arrival.
        (flight(sched_dep_time=2400, arr_time=400), utc(2013, 1, 2, 5, 2), utc(2013, 1, 2, 10)),
        (flight(sched_dep_time=2000, arr_time=2400), utc(2013, 1, 2, 1, 2), utc(2013, 1, 2, 6)),
        # The next day: the clock at the destination must first come round.
        (flight(sched_dep_time=2300, arr_time=112), utc(2013, 1, 2, 4, 2), utc(2013, 1, 2, 7, 12)),
        # Landing at the very minute of departure is tomorrow: "after" means after.
        (
            flight(sched_dep_time=1200, dep_delay=0, arr_time=1100),
            utc(2013, 1, 1, 17),
            utc(2013, 1, 2, 17),
        ),
        (
            flight(sched_dep_time=1200, dep_delay=-1, arr_time=1100),
            utc(2013, 1, 1, 16, 59),
            utc(2013, 1, 1, 17),
        ),
        # A delay of more than a day.
        (flight(dep_delay=1500, arr_time=830), utc(2013, 1, 2, 11, 15), utc(2013, 1, 2, 14, 30)),
        # 10 March 2013, 2:00 to 3:00 does not exist in New York: read with the offset before, it is 3:30 daylight time.
        (on(datetime(2013, 3, 10), sched_dep_time=230, arr_time=500), utc(2013, 3, 10, 7, 32), utc(2013, 3, 10, 10)),
        # The same hour is missing in Chicago, an hour later.
        (on(datetime(2013, 3, 10), sched_dep_time=100, arr_time=230), utc(2013, 3, 10, 6, 2), utc(2013, 3, 10, 8, 30)),
        # A delay goes on through the gap in real minutes.
        (on(datetime(2013, 3, 10), sched_dep_time=145, dep_delay=30, arr_time=500),
         utc(2013, 3, 10, 7, 15), utc(2013, 3, 10, 10)),
        # 3 November 2013, 1:30 comes twice in New York: the first is meant for a departure.
        (on(datetime(2013, 11, 3), sched_dep_time=130, arr_time=400), utc(2013, 11, 3, 5, 32), utc(2013, 11, 3, 10)),
        # 1:30 comes twice in Chicago, too: landing at the first of them if departure was before it ...
        (on(datetime(2013, 11, 3), sched_dep_time=100, arr_time=130), utc(2013, 11, 3, 5, 2), utc(2013, 11, 3, 6, 30)),
        # ... and at the second if the first is over.
        (on(datetime(2013, 11, 3), sched_dep_time=130, dep_delay=70, arr_time=130),
         utc(2013, 11, 3, 6, 40), utc(2013, 11, 3, 7, 30)),
        # No summer time in Arizona, Hawaii and Puerto Rico.
        (on(datetime(2013, 7, 1), dest_zone=PHOENIX, arr_time=715), utc(2013, 7, 1, 9, 17), utc(2013, 7, 1, 14, 15)),
        (flight(dest_zone=PHOENIX, arr_time=815), utc(2013, 1, 1, 10, 17), utc(2013, 1, 1, 15, 15)),
        (on(datetime(2013, 7, 1), sched_dep_time=1000, dest_zone="Pacific/Honolulu", arr_time=1435),
         utc(2013, 7, 1, 14, 2), utc(2013, 7, 2, 0, 35)),
        (flight(dest_zone="America/Puerto_Rico", arr_time=1000), utc(2013, 1, 1, 10, 17), utc(2013, 1, 1, 14)),
        (on(datetime(2013, 7, 1), dest_zone="America/Puerto_Rico", arr_time=900),
         utc(2013, 7, 1, 9, 17), utc(2013, 7, 1, 13)),
        # Over the date line: the clock at the destination shows another day, ahead or behind.
        (flight(sched_dep_time=2200, dest_zone="Pacific/Auckland", arr_time=630), utc(2013, 1, 2, 3, 2),
         utc(2013, 1, 2, 17, 30)),
        (flight(sched_dep_time=1000, origin_zone="Pacific/Auckland", dest_zone="Pacific/Honolulu", arr_time=2030),
         utc(2012, 12, 31, 21, 2), utc(2013, 1, 1, 6, 30)),
    ],
)  # fmt: skip
def test_local_clock_times_become_the_right_instants(
    row: dict[str, Any], departed: datetime, arrived: datetime
) -> None:
    result = processed(row)

    assert (departed, arrived) == (result["departed_at"], result["arrived_at"])
    assert departed - timedelta(minutes=row["dep_delay"]) == result["scheduled_departure"]
    assert (departed, arrived) == (
        oracle_departure(row) + timedelta(minutes=row["dep_delay"]),
        oracle_arrival(departed, row),
    ), "the oracle agrees"


ZONES = st.sampled_from(
    [NEW_YORK, CHICAGO, PHOENIX, "America/Denver", "America/Los_Angeles", "America/Anchorage", "Pacific/Honolulu",
     "America/Puerto_Rico", "America/Sao_Paulo", "Pacific/Auckland", "Australia/Lord_Howe", "Asia/Kolkata", "Asia/Amman"]
)  # fmt: skip
# Around the changes of 2013 (north: March and November; south: February, April, September, October) and anywhere.
CHANGES = [datetime(2013, 3, 10), datetime(2013, 11, 3), datetime(2013, 2, 17), datetime(2013, 10, 20),
           datetime(2013, 4, 7), datetime(2013, 9, 29), datetime(2013, 10, 6)]  # fmt: skip
NEAR_CHANGES = st.builds(lambda day, n: day + timedelta(days=n), st.sampled_from(CHANGES), st.integers(-1, 1))
DAYS = NEAR_CHANGES | st.dates(datetime(2013, 1, 1).date(), datetime(2013, 12, 31).date()).map(
    lambda day: datetime(day.year, day.month, day.day)
)
CLOCKS = st.builds(lambda hour, minute: hour * 100 + minute, st.integers(0, 23), st.integers(0, 59)) | st.just(2400)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(DAYS, CLOCKS, CLOCKS, st.integers(-60, 1600), ZONES, ZONES)
def test_any_flight_between_any_two_zones_agrees_with_the_walk_through_the_minutes(
    day: datetime, leaves: int, lands: int, delay: int, origin_zone: str, dest_zone: str
) -> None:
    row = on(day, sched_dep_time=leaves, arr_time=lands, dep_delay=delay, origin_zone=origin_zone, dest_zone=dest_zone)
    scheduled = oracle_departure(row)
    departed = scheduled + timedelta(minutes=delay)

    result = processed(row)

    assert (scheduled, departed, oracle_arrival(departed, row)) == (
        result["scheduled_departure"],
        result["departed_at"],
        result["arrived_at"],
    )


# Classes, and rows that do not come through


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(-60, "early"), (-1, "early"), (0, "on_time"), (14, "on_time"), (15, "late"), (59, "late"), (60, "very_late"),
     (1301, "very_late")],
)  # fmt: skip
def test_the_delay_class_goes_by_the_departure_delay(minutes: int, expected: str) -> None:
    assert expected == processed(flight(dep_delay=minutes))["delay"]


def test_a_flight_that_never_arrived_where_it_was_going_has_no_arrival() -> None:
    """It left and was diverted: everything else is told."""
    result = processed(flight(arr_time=None, arr_delay=None, air_time=None))

    assert (None, None) == (result["arrived_at"], result["arrival_delay_minutes"])
    assert utc(2013, 1, 1, 10, 17) == result["departed_at"]


@pytest.mark.parametrize(
    "row",
    [
        flight(dep_time=None, dep_delay=None, arr_time=None, arr_delay=None),
        flight(dep_time=None, dep_delay=None, dest="BQN", known_dest=None, dest_zone=None),
        flight(dep_time=None, dep_delay=None, origin_zone=None),
    ],
)
def test_a_cancelled_flight_is_filtered_out_before_anybody_asks_where_it_was_going(row: dict[str, Any]) -> None:
    assert process(NO_CONTEXT, row) is None


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (flight(dest="BQN", known_dest=None, dest_zone=None), "BQN"),
        (flight(dest="BQN", known_dest=None, dest_zone=None, arr_time=None), "BQN"),
        (flight(dest="XNA", dest_zone=None), "XNA"),
        (flight(origin="JFK", origin_zone=None), "JFK"),
    ],
)
def test_an_airport_that_is_unknown_or_lacks_its_time_zone_is_somebodys_to_add(row: dict[str, Any], named: str) -> None:
    with pytest.raises(Exception, match=named) as refusal:
        process(NO_CONTEXT, row)

    assert type(refusal.value).__name__ == "UnknownAirport"
    assert process.retry is not None
    assert not isinstance(refusal.value, process.retry.on), "asking again does not add it"


def test_a_flight_with_no_arrival_needs_no_time_zone_at_the_destination() -> None:
    assert processed(flight(dest_zone=None, arr_time=None))["arrived_at"] is None
