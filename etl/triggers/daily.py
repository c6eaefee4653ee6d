"""Plain times: every day at some, or once at a moment."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, time
from typing import Literal, Unpack

from etl.core.trigger import ClockOptions, ClockTrigger
from etl.core.wall_clock import Moment, in_utc, written_moment
from etl.core.window import EARLIEST, EPOCH
from etl.errors import ConfigurationError
from etl.triggers.wall_times import every_date, fixed_moments, show_time, times_of_day, written_time


class DailyTrigger(ClockTrigger):
    """Fires every day at one or more times of day ("22:15", "22:15:30" or `datetime.time`), wall time in `timezone`.

    A time that clocks skip fires once at the end of the gap, one that comes twice fires once; and what every
    `ClockTrigger` takes.
    """

    kind = "daily"

    def __init__(self, *times: str | time, **options: Unpack[ClockOptions]) -> None:
        super().__init__(**options)
        if not times:
            raise ConfigurationError("no time of day", setting="DailyTrigger", remedy="write DailyTrigger('22:15')")
        self.times = tuple(sorted({written_time(value, "DailyTrigger") for value in times}))
        self._times = times_of_day(self.times)
        self.refuse_silence()

    @property
    def _definition(self) -> str:
        return f"daily at {', '.join(map(show_time, self.times))} in {self.zone.key}"

    def _moments(self, after: datetime, job: str) -> Iterator[datetime]:
        return fixed_moments(after, self.zone, every_date(1, EPOCH.date()), self._times)


class OnceTrigger(ClockTrigger):
    """Fires once: at an aware datetime, or at what clocks in `timezone` show ("2027-03-01 08:00", a naive datetime).

    `past`  when its schedule is stored for the first time and the moment is over: "error" (a `ConfigurationError`
            then, and of `etl check`), or "run" (due at once). A declaration never fails for it, so that a job module
            still loads next year.
    """

    kind = "once"

    def __init__(
        self, moment: Moment, *, past: Literal["error", "run"] = "error", **options: Unpack[ClockOptions]
    ) -> None:
        super().__init__(**options)
        if past not in ("error", "run"):
            raise ConfigurationError(
                f"{past!r} is not known", setting="OnceTrigger past", remedy="use 'error' or 'run'"
            )
        self.past = past
        self.moment = written_moment(moment, self.zone, "OnceTrigger")
        if self.moment < EPOCH:
            raise ConfigurationError(
                f"{moment} lies before 1970", setting="OnceTrigger", remedy="give a moment to come"
            )
        self.refuse_silence()

    @property
    def _definition(self) -> str:
        # Without `past`: to relent over a moment that has already fired is no reason to fire again.
        return f"once at {self.moment.astimezone(self.zone).isoformat()} in {self.zone.key}"

    def first_fire_time(self, now: datetime, *, job: str = "") -> datetime | None:
        """Its moment, though it be past, if `past` is "run". Raises `ConfigurationError` if that is "error"."""
        moment = next(self.fire_times(EARLIEST, job=job))
        if self.past == "error" and in_utc(moment) <= in_utc(now):
            raise ConfigurationError(
                f"{moment.isoformat(' ')} is past",
                setting="OnceTrigger",
                remedy="give a moment to come, or past='run' to run at once",
            )
        return moment

    def _moments(self, after: datetime, job: str) -> Iterator[datetime]:
        return iter([self.moment] if self.moment > after else [])

    def _latest(self, at: datetime, job: str) -> datetime | None:
        return self.moment if self.moment <= at else None
