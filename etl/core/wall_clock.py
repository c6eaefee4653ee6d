"""What clocks on the wall show, and when: time zones, written moments, and the one rule for clock changes.

Every instant in and out is UTC, because two moments of one zone compare by what its clocks show.
"""

from __future__ import annotations

import difflib
import zoneinfo
from datetime import UTC, date, datetime, time, timedelta
from typing import TypeAlias
from zoneinfo import ZoneInfo

from etl.errors import ConfigurationError

# A moment as people write it; without an offset it is what clocks show in the zone at hand.
Moment: TypeAlias = "datetime | date | str"

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


def in_utc(moment: datetime) -> datetime:
    """The same instant in UTC. Raises `ValueError` for a moment without a zone."""
    if moment.tzinfo is None:
        raise ValueError(f"naive datetime {moment.isoformat()}: give it a time zone")
    return moment.astimezone(UTC)


def first_shown(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first instant (UTC) at which clocks show the naive `wall` or have gone past it.

    That is the first of two passes where clocks went back, and the end of the gap where they went forward.
    """
    early, late = _offsets(wall, zone)
    if early >= late:
        return (wall - early).replace(tzinfo=UTC)
    before, change = (wall - late).replace(tzinfo=UTC), (wall - early).replace(tzinfo=UTC)
    while change - before > SECOND:
        middle = before + (change - before) // SECOND // 2 * SECOND
        if middle.astimezone(zone).utcoffset() == early:
            before = middle
        else:
            change = middle
    return change


def shown(wall: datetime, zone: ZoneInfo) -> tuple[datetime, ...]:
    """Every instant (UTC) at which clocks show the naive `wall`: one, two where they went back, none in a gap."""
    early, late = _offsets(wall, zone)
    if early < late:
        return ()
    return tuple((wall - offset).replace(tzinfo=UTC) for offset in dict.fromkeys((early, late)))


def _offsets(wall: datetime, zone: ZoneInfo) -> tuple[timedelta, timedelta]:
    """The offset by the rule before a change at this wall time, and after it."""
    early, late = wall.replace(tzinfo=zone, fold=0).utcoffset(), wall.replace(tzinfo=zone, fold=1).utcoffset()
    assert early is not None
    assert late is not None
    return early, late


def day_begins(day: date, zone: ZoneInfo) -> datetime:
    """The first instant (UTC) of a date."""
    return first_shown(datetime.combine(day, time.min), zone)


def named_zone(name: str | ZoneInfo, setting: str) -> ZoneInfo:
    """A time zone by its IANA name. Raises `ConfigurationError` with the nearest names there are."""
    if isinstance(name, ZoneInfo) and name.key:
        return name
    try:
        return ZoneInfo(name)  # type: ignore[arg-type]
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        near = _nearest(name)
        known = f": {' or '.join(repr(known) for known in near)}" if near else " such as 'Europe/Prague'"
        raise ConfigurationError(f"no time zone {name!r}", setting=setting, remedy=f"use an IANA name{known}") from None


def _nearest(name: object) -> list[str]:
    """Known zones that `name` may have meant, by their whole name or by their city."""
    wanted = str(name).strip().replace(" ", "_").casefold()
    spellings: dict[str, str] = {}
    for known in sorted(zoneinfo.available_timezones(), key=lambda known: (known.count("/") != 1, known)):
        spellings.setdefault(known.rsplit("/", 1)[-1].casefold(), known)
        spellings[known.casefold()] = known
    near = difflib.get_close_matches(wanted, spellings, n=3, cutoff=0.75)
    return list(dict.fromkeys(spellings[match] for match in near))[:2]


def written_moment(value: Moment, zone: ZoneInfo, setting: str) -> datetime:
    """Read a moment (UTC): a datetime, a date (its midnight) or ISO text of either.

    Raises `ConfigurationError` naming the setting.
    """
    moment: datetime | None = None
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime.combine(value, time.min)
    elif isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            moment = None
    if moment is None:
        raise ConfigurationError(f"{value!r} is not a moment", setting=setting, remedy="write '2027-03-01 08:00'")
    try:
        return first_shown(moment, zone) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ConfigurationError(f"{value!r} is out of range", setting=setting, remedy="give another year") from None


def written_date(value: date | str, setting: str) -> date:
    """Read a date or ISO text of one. Raises `ConfigurationError` naming the setting."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return date.fromisoformat(value.strip())  # type: ignore[union-attr]
    except (ValueError, TypeError, AttributeError):
        raise ConfigurationError(
            f"{value!r} is not a date", setting=setting, remedy="write '2026-12-25' or give a datetime.date"
        ) from None
