"""Cron schedules: the only place that knows croniter.

croniter reads the expression; in front of it stand checks that refuse what it would misread in silence, behind it a
rule for clock changes: a fixed time of day that a spring change skips fires once at the end of the gap, one that an
autumn change repeats fires once; schedules for every hour follow real time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter
from croniter.croniter import CroniterBadDateError, CroniterError

from etl.core.overlap import Missed, Overlap
from etl.core.trigger import ClockTrigger
from etl.durations import Duration
from etl.errors import ConfigurationError

_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_LONGEST = 200


class CronTrigger(ClockTrigger):
    """Fires by a cron expression of five fields: minute, hour, day of month, month, day of week (0 or 7 = Sunday).

    `timezone`  name of an IANA zone ("Europe/Prague"); the expression is wall time there.
    `overlap`   what happens to a fire time while the previous run is active: "skip".
    `missed`    what is made up for after downtime: "last" or "none".

    Raises `ConfigurationError` for an expression that cannot be right, never fires, or an unknown zone.
    """

    kind = "cron"

    def __init__(
        self,
        text: str,
        *,
        timezone: str = "UTC",
        overlap: str | Overlap | None = None,
        missed: str | Missed = Missed.last,
        start_deadline: Duration | None = None,
    ) -> None:
        super().__init__(overlap=overlap, missed=missed, start_deadline=start_deadline)
        self.text = text
        self.zone = _zone(timezone)
        self._expression = _checked(text)
        self._every_hour = croniter(self._expression).expanded[1] == ["*"]
        if next(self.fire_times(datetime(2024, 1, 1, tzinfo=UTC)), None) is None:
            raise _refusal(text, "never fires", "check day and month")

    @property
    def spec(self) -> str:
        return f"cron {self._expression} in {self.zone.key}"

    def fire_times(self, after: datetime, until: datetime | None = None, *, job: str = "") -> Iterator[datetime]:
        """Aware datetimes in the trigger's zone, strictly after `after`, up to and including `until`."""
        last, end = after.astimezone(UTC), None if until is None else until.astimezone(UTC)
        for moment in self._occurrences(after):
            instant = moment.astimezone(UTC)  # moments of one zone would be compared by what its clocks show
            if end is not None and instant > end:
                return
            if instant > last and (self._every_hour or not moment.fold):
                yield moment
                last = instant

    def last_fire_time(self, at: datetime, *, job: str = "") -> datetime | None:
        """The latest fire time not after `at`."""
        backwards = croniter(self._expression, _instant(at, self.zone) + timedelta(seconds=1), ret_type=datetime)
        try:
            earlier = backwards.get_prev(datetime)
        except CroniterBadDateError:
            return None
        # Around clock changes the way back gives other moments than the way forward, which is the one that counts.
        found = None
        for moment in self.fire_times(earlier.astimezone(UTC) - timedelta(days=1), at):
            found = moment
        return found

    def _occurrences(self, after: datetime) -> Iterator[datetime]:
        forwards = croniter(self._expression, _instant(after, self.zone), ret_type=datetime)
        while True:
            try:
                moment = forwards.get_next(datetime)
            except CroniterBadDateError:
                return
            yield _instant(moment, self.zone)


def _instant(moment: datetime, zone: tzinfo) -> datetime:
    """The same instant in a zone, with the fold it really has there."""
    if moment.tzinfo is None:
        raise ValueError(f"naive datetime {moment.isoformat()}: give it a time zone")
    return moment.astimezone(UTC).astimezone(zone)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise ConfigurationError(
            f"no time zone {name!r}", setting="CronTrigger timezone", remedy="use an IANA name such as 'Europe/Prague'"
        ) from None


def _checked(text: str) -> str:
    """The expression with one space between its five fields."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise _refusal(str(text)[:60], "is not a cron expression", "give text of five fields")
    expression = _ALIASES.get(text.strip().lower(), text).strip()
    fields = expression.split()
    if len(fields) != len(_FIELDS):
        raise _refusal(text, f"has {len(fields)} fields, not five", f"write {', '.join(_FIELDS)}")
    for name, field in zip(_FIELDS, fields, strict=True):
        _check_field(text, name, field)
    try:
        valid = croniter.is_valid(expression, strict=True)
        croniter(expression)
    except (CroniterError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise _refusal(text, f"cannot be read: {error}", "e.g. '*/5 * * * *' for every five minutes") from None
    if not valid:
        raise _refusal(text, "names a date that never comes", "check day and month")
    return " ".join(fields)


def _check_field(text: str, name: str, field: str) -> None:
    """Refuse what croniter takes for something else."""
    for part in field.split(","):
        bounds = part.split("/")[0].split("-")
        if len(bounds) == 2 and bounds[0].lower() == bounds[1].lower():
            raise _refusal(text, f"{name}: {part!r} would mean the whole range", f"write {bounds[0]!r} alone")
        if part[:1].upper() == "R" or part.upper() == "H":
            raise _refusal(text, f"{name}: {part!r} is not supported", "write a number")


def _refusal(text: str, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"{text!r} {problem}", setting="CronTrigger", remedy=remedy)
