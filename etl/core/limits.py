"""What a job promises of itself: bounds that are judged while it goes on. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from etl.core.source import TriggerSource
from etl.core.table_source import TableSource
from etl.durations import Duration, parse_duration
from etl.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one job; None: not judged.

    `finish_within`  from a run's start to its end.
    `backlog_limit`  age of the oldest pending row.
    `quiet_for`      without a row that was written by a run that succeeded or is still going.
    """

    finish_within: timedelta | None = None
    backlog_limit: timedelta | None = None
    quiet_for: timedelta | None = None

    @property
    def shortest(self) -> timedelta | None:
        """The least of them; None where there are none."""
        return min(filter(None, (self.finish_within, self.backlog_limit, self.quiet_for)), default=None)


def parse_limit(setting: str, value: Duration | None) -> timedelta | None:
    """A bound as it is written: a duration over zero. Raises `ConfigurationError`."""
    if value is None:
        return None
    try:
        found = parse_duration(value)
    except ValueError as error:
        raise ConfigurationError(str(error), setting=setting, remedy=f"e.g. {setting}='2h'") from None
    if not found:
        remedy = "leave it out for no bound"
        raise ConfigurationError(f"{value!r} leaves no time at all", setting=setting, remedy=remedy)
    return found


def require_age(source: TriggerSource) -> None:
    """Raises `ConfigurationError` unless the source says since when a row is pending."""
    if not isinstance(source, TableSource):
        problem = f"{type(source).__name__}, the job's source, has no pending rows"
        remedy = "only a BatchProcessingSource has; quiet_for= is for every job"
        raise ConfigurationError(problem, setting="backlog_limit", remedy=remedy)
    if source.pending_since is None:
        problem = "nothing says since when a row is pending"
        remedy = "name the column that does: BatchProcessingSource(..., pending_since='created_at')"
        raise ConfigurationError(problem, setting="backlog_limit", remedy=remedy)
