"""What settings override of a job that a module declares. Pure: definitions are values, a changed one is a copy.

Variables win over the settings file, that over the job module. What names one trigger ("timezone.cron-2") wins over
what means all clock triggers ("timezone") of the same place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from etl.config import JOB_PREFIX, WrittenOverrides
from etl.core.overlap import parse_missed, parse_overlap
from etl.core.pipeline import Pipeline
from etl.core.source import TriggerSource
from etl.core.table_source import TableSource
from etl.core.trigger import ClockTrigger
from etl.core.wall_clock import named_zone
from etl.core.window import EARLIEST
from etl.durations import declared_duration
from etl.errors import ConfigurationError

CLOCK_KEYS = ("schedule", "timezone", "overlap", "missed", "start_deadline")
SOURCE_KEYS = ("batch_size", "concurrency")
LIMIT_KEYS = ("finish_within", "backlog_limit", "quiet_for")
PIPELINE_KEYS = ("max_quarantined", "timeout", *LIMIT_KEYS, "pool", "overlap_key", "redact", "redact_patterns")
KEYS = (*CLOCK_KEYS, *SOURCE_KEYS, *PIPELINE_KEYS, "enabled")

T = TypeVar("T")

# Takes away a bound that the job module sets.
NONE = "none"
_UNBOUNDED = ("start_deadline", "max_quarantined", "timeout", "pool", *LIMIT_KEYS)
_ATTRIBUTES = {"max_quarantined": "quota"}
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class Declarations:
    """The classes that a written value is tried on, so that the rules are those of a declaration."""

    cron: type[Any]
    table_source: type[Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One value that somebody wrote about a job. `trigger` is the one a key names; `origin` the file and section."""

    key: str
    trigger: str | None
    value: Any
    origin: str
    place: str


@dataclass(slots=True)
class Overridden:
    """A job as settings have it. `origins`: where a value comes from, by key, or (key, trigger)."""

    pipeline: Pipeline
    origins: dict[str | tuple[str, str], str] = field(default_factory=dict)
    faults: list[ConfigurationError] = field(default_factory=list)
    enabled: bool = True

    @property
    def served(self) -> Pipeline:
        """The job to run: the triggers of one that is not enabled ask for nothing, and nobody expects rows of it."""
        if self.enabled:
            return self.pipeline
        source = _with(self.pipeline.source, triggers=())
        return _with(self.pipeline, source=source, backlog_limit=None, quiet_for=None)


def entries_by_job(
    written: WrittenOverrides, jobs: Iterable[str], elsewhere: Iterable[str] = ()
) -> tuple[dict[str, list[Entry]], list[ConfigurationError]]:
    """What is written about each of the jobs, the winning word last; and what is about no job there is.

    `elsewhere`  further names that may be meant, but are not suggested.
    """
    suggested = sorted(jobs)
    names = [*suggested, *elsewhere]
    in_file: dict[str, list[Entry]] = {}
    in_variables: dict[str, list[Entry]] = {}
    strangers: dict[str, ConfigurationError] = {}
    for each in written.sections:
        if each.job in names:
            entry = _entry(each.key, each.value, each.section, f"{each.section} {each.key}")
            in_file.setdefault(each.job, []).append(entry)
        else:
            strangers[each.section] = _unknown_job(each.job, each.section, suggested)
    for variable, text in sorted((written.variables or {}).items()):
        try:
            job, key = _read_variable(variable, names, suggested)
        except ConfigurationError as error:
            strangers[variable] = error
        else:
            in_variables.setdefault(job, []).append(_entry(key, text, variable, variable))
    for listed in (*in_file.values(), *in_variables.values()):
        listed.sort(key=lambda entry: entry.trigger is not None)
    found = {job: in_file.get(job, []) + in_variables.get(job, []) for job in {*in_file, *in_variables}}
    return found, list(strangers.values())


def overridden(
    pipeline: Pipeline, entries: Iterable[Entry], declarations: Declarations, pools: Iterable[str]
) -> Overridden:
    """The job with what is written about it; what cannot be right is among the faults and changes nothing."""
    result = Overridden(pipeline)
    known = tuple(pools)
    for entry in sorted(entries, key=lambda each: KEYS.index(each.key) if each.key in KEYS else -1):
        try:
            _apply(result, entry, declarations, known)
        except ConfigurationError as error:
            remedy = error.remedy or "correct it"
            result.faults.append(ConfigurationError(error.problem, setting=entry.place, remedy=remedy))
        except ValueError as error:
            result.faults.append(ConfigurationError(str(error), setting=entry.place, remedy="correct it"))
    return result


def shouted(name: str) -> str:
    """A name as variables have it: FLIGHTS_DAILY for "flights.daily"."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _read_variable(variable: str, jobs: list[str], suggested: list[str]) -> tuple[str, str]:
    """The job and key that a variable names. Raises `ConfigurationError`."""
    rest = variable.upper().removeprefix(JOB_PREFIX)
    fitting = [job for job in jobs if f"{rest}__".startswith(f"{shouted(job)}__")]
    meant = [job for job in fitting if len(job) == max(map(len, fitting))]
    if not meant:
        for job in suggested:
            if rest.startswith(f"{shouted(job)}_"):
                right = f"{JOB_PREFIX}{shouted(job)}__{rest.removeprefix(f'{shouted(job)}_')}"
                raise ConfigurationError("names no job", setting=variable, remedy=f"did you mean {right}?")
        raise _unknown_job(rest.split("__")[0].lower(), variable, suggested)
    if len(meant) > 1:
        problem = f"may mean each of {', '.join(meant)}"
        raise ConfigurationError(problem, setting=variable, remedy="write a section in the settings file instead")
    key = rest.removeprefix(shouted(meant[0])).removeprefix("__")
    if not key:
        example = f"{JOB_PREFIX}{shouted(meant[0])}__BATCH_SIZE"
        raise ConfigurationError("names no key", setting=variable, remedy=f"e.g. {example}")
    return meant[0], key.lower().replace("__", ".", 1)


def _entry(key: str, value: Any, origin: str, place: str) -> Entry:
    word, _, trigger = key.partition(".")
    return Entry(word, trigger or None, value, origin, place)


def _unknown_job(name: str, place: str, jobs: list[str]) -> ConfigurationError:
    return ConfigurationError(f"there is no job {name!r}", setting=place, remedy=_nearest(name, jobs))


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    by_lower = {each.lower(): each for each in names}
    close = [by_lower[each] for each in difflib.get_close_matches(name.lower(), by_lower, n=2)]
    return f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(names) or 'none'}"


def _apply(result: Overridden, entry: Entry, declarations: Declarations, pools: tuple[str, ...]) -> None:
    key, value, pipeline = entry.key, _unbound(entry), result.pipeline
    if key not in KEYS or (entry.trigger is not None and key not in CLOCK_KEYS):
        whole = key if entry.trigger is None else f"{key}.{entry.trigger}"
        raise ConfigurationError(f"there is no key {whole!r}", remedy=_nearest(key, KEYS))
    if key in CLOCK_KEYS:
        _apply_to_clocks(result, entry, value, declarations)
        return
    if key == "enabled":
        result.enabled = _truth(value)
    elif key in SOURCE_KEYS:
        source = _with(pipeline.source, **{key: _source_value(pipeline.source, key, value, declarations)})
        result.pipeline = _with(pipeline, source=source)
    else:
        if key == "pool" and isinstance(value, str) and value not in pools:
            remedy = f"{_nearest(value, pools)}; its size is written as [pools] {value} = 4"
            raise ConfigurationError(f"there is no pool {value!r}", remedy=remedy)
        tried = Pipeline(pipeline.name, pipeline.source, pipeline.sink, **{key: value})
        attribute = _ATTRIBUTES.get(key, key)
        result.pipeline = _with(pipeline, **{attribute: getattr(tried, attribute)})
    result.origins[key] = entry.origin


def _unbound(entry: Entry) -> Any:
    return None if entry.key in _UNBOUNDED and entry.value == NONE else entry.value


def _source_value(source: TriggerSource, key: str, value: Any, declarations: Declarations) -> Any:
    if not isinstance(source, TableSource):
        raise ConfigurationError(
            f"{type(source).__name__}, the job's source, has none", remedy="only a BatchProcessingSource has"
        )
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    try:
        tried = declarations.table_source("t", pending="p", done="d", **{key: value})
    except ConfigurationError as error:
        raise ConfigurationError(error.problem, remedy=f"e.g. {key} = {4 if key == 'concurrency' else 500}") from None
    return getattr(tried, key)


def _truth(value: Any) -> bool:
    word = str(value).strip().lower()
    if isinstance(value, (bool, str)) and word in (*_YES, *_NO):
        return word in _YES
    raise ConfigurationError(f"{value!r} is neither true nor false", remedy="write true or false")


def _text(value: Any, example: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"{value!r} is not text", remedy=f"e.g. {example}")
    return value.strip()


def _apply_to_clocks(result: Overridden, entry: Entry, value: Any, declarations: Declarations) -> None:
    clocks = clock_triggers(result.pipeline.source)
    if not clocks and entry.key == "schedule" and entry.trigger is None:
        source = result.pipeline.source
        trigger = declarations.cron(_text(value, "'*/5 * * * *'"))
        result.pipeline = _with(result.pipeline, source=_with(source, triggers=(*source.triggers, trigger)))
        names = list(clock_triggers(result.pipeline.source))
    else:
        names = _named(entry, clocks, declarations)
        change = _change(entry.key, value, declarations)
        source = result.pipeline.source
        triggers = tuple(
            change(clocks[name]) if name in names else each for name, each in source.named_triggers().items()
        )
        result.pipeline = _with(result.pipeline, source=_with(source, triggers=triggers))
        if names == list(clocks):
            names = list(clock_triggers(result.pipeline.source))  # a trigger of another kind has another name
    result.origins |= {(entry.key, name): entry.origin for name in names}


def clock_triggers(source: TriggerSource) -> dict[str, ClockTrigger]:
    """The clock triggers of a source by name."""
    return {name: each for name, each in source.named_triggers().items() if isinstance(each, ClockTrigger)}


def _named(entry: Entry, clocks: Mapping[str, ClockTrigger], declarations: Declarations) -> list[str]:
    """The triggers that an entry is about."""
    if not clocks:
        raise ConfigurationError("the job has no clock trigger", remedy="give it one: schedule = '*/5 * * * *'")
    if entry.trigger is None:
        if entry.key == "schedule" and len(clocks) > 1:
            keys = " or ".join(f"schedule.{name}" for name in clocks)
            raise ConfigurationError(f"the job has {len(clocks)} clock triggers", remedy=f"name one: {keys}")
        return list(clocks)
    named = [name for name in clocks if shouted(name) == shouted(entry.trigger)]
    if not named:
        raise ConfigurationError(
            f"the job has no clock trigger {entry.trigger!r}", remedy=_nearest(entry.trigger, clocks)
        )
    if entry.key == "schedule" and len(clocks) > 1 and not isinstance(clocks[named[0]], declarations.cron):
        cron = [f"schedule.{name}" for name, each in clocks.items() if isinstance(each, declarations.cron)]
        raise ConfigurationError(
            f"{named[0]!r} is no CronTrigger, and not the job's only clock trigger",
            remedy=f"override {' or '.join(cron)}" if cron else "change it in the job module",
        )
    return named


def _change(key: str, value: Any, declarations: Declarations) -> Callable[[ClockTrigger], ClockTrigger]:
    """What a value does to a clock trigger."""
    if key == "schedule":
        text = _text(value, "'*/5 * * * *'")
        return lambda trigger: _rescheduled(trigger, text, declarations.cron)
    if key == "timezone":
        zone = named_zone(_text(value, "'Europe/Prague'"), key)
        return lambda trigger: _moved(trigger, zone)
    if key == "overlap":
        overlap = parse_overlap(value)
        return lambda trigger: _copied(trigger, overlap=overlap)
    if key == "missed":
        missed = parse_missed(value)
        return lambda trigger: _copied(trigger, missed=missed)
    deadline = None if value is None else declared_duration(value, key)
    return lambda trigger: _copied(trigger, start_deadline=deadline)


def _rescheduled(trigger: ClockTrigger, text: str, cron: type[Any]) -> ClockTrigger:
    """A cron trigger with another text and the same options; in place of one of another kind, with its policies."""
    window = trigger.window
    options: dict[str, Any] = {
        "timezone": trigger.zone,
        "starting": window.start,
        "until": window.end,
        "excluding": window.excluded,
        "overlap": trigger.overlap,
        "missed": trigger.missed,
        "start_deadline": trigger.start_deadline,
    }
    if isinstance(trigger, cron):
        options |= {name: getattr(trigger, name) for name in ("jitter", "day_match", "seconds")}
    changed = cron(text, **options)
    assert isinstance(changed, ClockTrigger)
    return changed


def _moved(trigger: ClockTrigger, zone: ZoneInfo) -> ClockTrigger:
    """What is wall time is that of another zone; written moments stay."""
    moved = _copied(trigger, zone=zone, window=replace(trigger.window, zone=zone))
    if next(trigger.fire_times(EARLIEST), None) is not None:  # of some nobody can tell
        moved.refuse_silence()
    return moved


def _copied(trigger: ClockTrigger, **changes: Any) -> ClockTrigger:
    """A copy that nobody serves yet and no search for fire times has begun on."""
    changed = _with(trigger, **changes)
    for state in ("_firings", "_paused"):
        changed.__dict__.pop(state, None)
    return changed


def _with(value: T, **changes: Any) -> T:
    changed = copy(value)
    changed.__dict__.update(changes)
    return changed
