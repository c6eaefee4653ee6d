"""A pipeline: the job made of a source, processors and a sink, as one inert value."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from etl.core.event import Hook, checked_hook
from etl.core.limits import Limits, parse_limit, require_age
from etl.core.processor import Processor, as_processor
from etl.core.quota import Quota, parse_quota
from etl.core.redaction import Redaction, redaction_of
from etl.core.redaction_rules import listed
from etl.core.sink import Sink
from etl.core.source import TriggerSource
from etl.core.sql_processor import SqlProcessor
from etl.core.table_source import TableSource
from etl.durations import Duration, parse_duration
from etl.errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class Pipeline:
    """A job: `Pipeline("name", source, *processors, sink)`.

    `name`             letters, digits, `_`, `-`, `.`; how runs, logs and the command line call the job.
    `max_quarantined`  rows (50) or share of the claimed rows ("2%") a run may set aside; one more fails the run and
                       gives the batch in hand back, so that a bad deploy does not poison the table.
    `timeout`          longest time one run may take; what is in hand is given back and the run ends `timed_out`.
    `finish_within`    how long after its start a run must have ended; one that goes on is told of, and goes on.
    `backlog_limit`    how long the oldest pending row may wait; needs the source's `pending_since`.
    `quiet_for`        how long there may be no row written by a run that succeeded or is still going.
    `on_event`         function (sync or async) that gets an `Event` when one of these bounds is broken, a run fails,
                       crashes or sets aside too much, and when that is over; default: the source's method of that name.
    `overlap_key`      jobs with the same key count as one for the overlap policies of triggers; default: the name.
    `pool`             name of a limit on runs that are active at once in the whole cluster; settings give its size:
                       `[pools]` in etl.toml.
    `resources`        name -> function without arguments that returns a context manager (sync or async), an awaitable
                       or a plain value; opened once per worker at the job's first run, closed with the worker, found as
                       `context.resources[name]`.

    `redact`           keys ("email") and paths ("$.customer.phone") of rows and events whose values are blanked before
                       anything is recorded or logged, besides passwords, tokens and the like.
    `redact_patterns`  regular expressions for texts that are blanked wherever they occur.

    Raises `ConfigurationError` at once for parts that cannot work together.
    """

    def __init__(
        self,
        name: str,
        source: TriggerSource,
        *parts: Processor | Sink | Callable[..., Any],
        max_quarantined: int | str | None = None,
        timeout: Duration | None = None,
        overlap_key: str | None = None,
        pool: str | None = None,
        finish_within: Duration | None = None,
        backlog_limit: Duration | None = None,
        quiet_for: Duration | None = None,
        on_event: Hook | None = None,
        resources: Mapping[str, Callable[[], Any]] | None = None,
        redact: str | Sequence[str] = (),
        redact_patterns: str | Sequence[str] = (),
    ) -> None:
        if isinstance(name, TriggerSource):
            raise ConfigurationError(
                "the job has no name", setting="Pipeline", remedy="name it first: Pipeline('orders', source, ..., sink)"
            )
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{name!r} is not a job name",
                setting="Pipeline",
                remedy="use letters, digits, '_', '-' and '.', at most 100",
            )
        self.name = name
        self.overlap_key = self._checked_name("overlap_key", overlap_key) or name
        self.pool = self._checked_name("pool", pool)
        self.source = self._checked_source(source)
        self.processors, self.sink = self._checked_parts(parts)
        try:
            self.quota: Quota = parse_quota(max_quarantined)
            self.timeout: timedelta | None = None if timeout is None else parse_duration(timeout)
            self.finish_within = parse_limit("finish_within", finish_within)
            self.backlog_limit = parse_limit("backlog_limit", backlog_limit)
            self.quiet_for = parse_limit("quiet_for", quiet_for)
            if self.backlog_limit is not None:
                require_age(self.source)
            self.on_event = checked_hook(getattr(self.source, "on_event", None) if on_event is None else on_event)
        except ConfigurationError as error:
            raise self._refusal(error.setting, error.problem, error.remedy) from None
        except ValueError as error:
            raise self._refusal("timeout", str(error), "e.g. timeout='10m'") from None
        if self.timeout == timedelta():
            raise self._refusal("timeout", f"{timeout!r} leaves no time at all", "leave it out for no bound")
        self.resources = self._checked_resources(resources)
        try:
            self.redact = listed(redact, "redact", ",")
            self.redact_patterns = listed(redact_patterns, "redact_patterns", "\n")
            redaction_of(self.redact, self.redact_patterns)
        except ConfigurationError as error:
            raise self._refusal(error.setting, error.problem, error.remedy) from None
        self.declared_at = _declaration_place()

    @property
    def limits(self) -> Limits:
        """The bounds that are judged while the job goes on."""
        return Limits(self.finish_within, self.backlog_limit, self.quiet_for)

    @property
    def redaction(self) -> Redaction:
        """What is blanked in its runs, besides what is blanked everywhere."""
        return redaction_of(self.redact, self.redact_patterns)

    def _checked_name(self, setting: str, value: str | None) -> str | None:
        if value is not None and not (isinstance(value, str) and _NAME.fullmatch(value)):
            raise self._refusal(
                setting, f"{value!r} is not a name", "use letters, digits, '_', '-' and '.', at most 100"
            )
        return value

    def _checked_source(self, source: Any) -> TriggerSource:
        if isinstance(source, TriggerSource):
            return source
        what = f"{source!r} is not a source"
        remedy = "give an instance of BatchProcessingSource or of your own TriggerSource"
        if isinstance(source, type) and issubclass(source, TriggerSource):
            what, remedy = f"{source.__name__} is a class, not an instance", f"write {source.__name__}()"
        raise self._refusal("source", what, remedy)

    def _checked_parts(self, parts: tuple[Any, ...]) -> tuple[tuple[Processor, ...], Sink]:
        if not parts or not isinstance(parts[-1], Sink):
            raise self._refusal("sink", "the last part is not a sink", "end with e.g. PostgresSink('table', key='id')")
        processors: list[Processor] = []
        for number, part in enumerate(parts[:-1], start=1):
            if isinstance(part, Sink):
                raise self._refusal("sink", f"part {number} is a sink but not the last part", "a pipeline has one sink")
            try:
                processor = as_processor(part)
            except ConfigurationError as error:
                raise self._refusal(error.setting, error.problem, error.remedy) from None
            if processor is None:
                raise self._refusal(
                    "processors", f"part {number}, {part!r}, is not a processor", "give a function or instance"
                )
            processors.append(processor)
        if isinstance(parts[-1], SqlProcessor) and not isinstance(self.source, TableSource):
            problem = "SqlProcessor needs rows with keys, and this source brings none"
            raise self._refusal("sink", problem, "use it with a BatchProcessingSource")
        return tuple(processors), parts[-1]

    def _checked_resources(self, resources: Any) -> Mapping[str, Callable[[], Any]]:
        if resources is not None and not isinstance(resources, Mapping):
            problem = f"{resources!r} does not say which name each has"
            raise self._refusal("resources", problem, "write resources={'client': open_client}")
        for resource, opener in (resources or {}).items():
            if not callable(opener):
                raise self._refusal("resources", f"{resource!r} is not a function", "give a function that opens it")
        return MappingProxyType(dict(resources or {}))

    def _refusal(self, setting: str | None, problem: str, remedy: str | None) -> ConfigurationError:
        return ConfigurationError(problem, job=self.name, setting=setting, remedy=remedy)

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r})"


def _declaration_place() -> str:
    """`file:line` of the job module that declared the pipeline, for messages about it."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("etl.core"):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "?"
