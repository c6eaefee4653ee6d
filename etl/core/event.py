"""What a job's `on_event` function is told."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeAlias
from uuid import UUID

from etl.errors import ConfigurationError


class EventKind(StrEnum):
    """What happened. All but the last begin an episode, and `recovered` ends one."""

    failed = "failed"  # a run failed or ran into its timeout
    crashed = "crashed"  # the process of a run is gone
    quarantined = "quarantined"  # a run failed by `max_quarantined`
    late = "late"  # a run goes on for longer than `finish_within`
    backlog = "backlog"  # the oldest pending row waits for longer than `backlog_limit`
    quiet = "quiet"  # for `quiet_for` no run that succeeded has written a row
    recovered = "recovered"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a job.

    `kind`     what it was; `about` is the kind of the episode, so what a job has `recovered` from.
    `job`      the job's name.
    `run_id`   the run it is about; None where there is none.
    `episode`  a number that the beginning and the end of one trouble share; with `kind` it names the event.
    `text`     a sentence for people, without secrets.
    `facts`    the same for programs: values as JSON has them, times as ISO 8601 with offset, durations in seconds.
    `time`     when it was noticed (aware, UTC, by the database's clock).
    """

    kind: EventKind
    job: str
    run_id: UUID | None
    episode: int
    text: str
    time: datetime
    about: EventKind
    facts: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


Hook: TypeAlias = Callable[[Event], Any]

_REMEDY = "give a function of one argument: def tell(event): ..."


def checked_hook(hook: Any) -> Hook | None:
    """The function if it can be called with an event. Raises `ConfigurationError`."""
    if hook is None:
        return None
    if not callable(hook) or isinstance(hook, type):
        raise ConfigurationError(f"{hook!r} is not a function", setting="on_event", remedy=_REMEDY)
    try:
        inspect.signature(hook).bind(None)
    except TypeError as error:
        raise ConfigurationError(
            f"cannot be called with an event: {error}", setting="on_event", remedy=_REMEDY
        ) from None
    except ValueError:  # written in C: nobody knows
        pass
    found: Hook = hook
    return found
