"""Episodes: what is wrong with a job, from when it begins to when it is over. Decisions, without a clock or database.

An episode is open once in the whole cluster, whoever sees it. It begins and ends

`failed crashed quarantined`  with the end of a run that went wrong; until a run of the job succeeds (or is partial)
`late`                        while a run goes on for longer than `finish_within`; until that run ends
`backlog`                     while the oldest pending row waits for longer than `backlog_limit`
`quiet`                       when for `quiet_for` no run that succeeded, or is still going, has written a row

A paused job is expected to be quiet and to have a backlog: neither begins then, nor counts as over by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from etl.core.event import EventKind
from etl.core.limits import Limits
from etl.core.run import REPLAY, Run, RunState
from etl.durations import format_duration

# Kinds that the end of a run begins, and the next success ends.
OF_RUNS = (EventKind.failed, EventKind.crashed, EventKind.quarantined)


class Episode(NamedTuple):
    """An episode as recorded. `subject` tells those of one kind apart that are open side by side."""

    episode_id: int
    job: str
    kind: EventKind
    subject: str
    run_id: UUID | None
    opened_at: datetime | None = None
    closed_at: datetime | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Opening:
    """An episode that begins, unless it is open already."""

    job: str
    kind: EventKind
    text: str
    facts: Mapping[str, Any]
    run_id: UUID | None = None
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Closing:
    """An episode that is over."""

    episode: Episode
    text: str
    facts: Mapping[str, Any]
    run_id: UUID | None = None


class LateRun(NamedTuple):
    """A run that goes on, and for how long."""

    run_id: UUID
    started_at: datetime
    running: timedelta


@dataclass(frozen=True, slots=True)
class Standing:
    """How a job stands at a moment (`now`, by the database's clock).

    `late`       runs that go on for longer than they may.
    `last_sign`  when a row was written last by a run that succeeded or is still going; of a job that never wrote one,
                 when it became known.
    `open`       its episodes, and `over` the numbers of those whose run has ended.
    `oldest`     since when the oldest row waits that has waited too long; None: none has.
    """

    job: str
    now: datetime
    paused: bool = False
    late: Sequence[LateRun] = ()
    last_sign: datetime | None = None
    open: Sequence[Episode] = ()
    over: Collection[int] = ()
    oldest: datetime | None = None
    notices: bool = False


Change = Opening | Closing


def judged(limits: Limits, at: Standing) -> list[Change]:
    """What begins and what is over of what the framework's own tables tell."""
    return [*_late(limits, at), *_quiet(limits, at)]


def judged_backlog(limits: Limits, at: Standing) -> list[Change]:
    """The same of what the user's table tells."""
    if limits.backlog_limit is None:
        return []
    known = _of_kind(at, EventKind.backlog)
    allowed = format_duration(limits.backlog_limit.total_seconds())
    facts: dict[str, Any] = {"backlog_limit_s": limits.backlog_limit.total_seconds()}
    if at.oldest is None:
        return [Closing(each, f"no pending row of {at.job} waits for longer than {allowed} any more", facts)
                for each in known]  # fmt: skip
    if known or at.paused:
        return []
    age = at.now - at.oldest
    text = f"the oldest pending row of {at.job} waits for {_span(age)}, longer than its backlog_limit of {allowed}"
    facts |= {"oldest_since": at.oldest.isoformat(), "age_s": age.total_seconds()}
    return [Opening(at.job, EventKind.backlog, text, facts)]


def after_run(run: Run, known: Sequence[Episode]) -> list[Change]:
    """What the end of a run begins and ends. `known` are the open episodes of its job."""
    changes: list[Change] = []
    for each in known:
        if each.kind is EventKind.late and each.subject == str(run.run_id):
            changes.append(_in_the_end(each, run))
        elif _succeeded(run) and (each.kind in OF_RUNS or (each.kind is EventKind.quiet and run.counts.written)):
            text = f"{run.job} goes on: run {_short(run)} {run.state}, {run.counts.written:,} rows written"
            changes.append(Closing(each, text, _facts(run), run.run_id))
    if (kind := _trouble(run)) is not None:
        changes.append(Opening(run.job, kind, _said(run, kind), _facts(run), run.run_id))
    return changes


def _late(limits: Limits, at: Standing) -> list[Change]:
    changes: list[Change] = []
    for each in _of_kind(at, EventKind.late):
        if each.episode_id in at.over:  # it ended when the episode was just being opened
            text = f"run {each.subject[:8]} of {at.job}, which was late, is over"
            changes.append(Closing(each, text, {}, each.run_id))
    if limits.finish_within is None:
        return changes
    allowed = limits.finish_within.total_seconds()
    known = {each.subject for each in _of_kind(at, EventKind.late)}
    for run in at.late:
        if str(run.run_id) not in known:
            text = (
                f"run {str(run.run_id)[:8]} of {at.job} is still going after {_span(run.running)}; "
                f"it should have ended within {format_duration(allowed)}"
            )
            facts = {"finish_within_s": allowed, "running_s": run.running.total_seconds(),
                     "started_at": run.started_at.isoformat()}  # fmt: skip
            changes.append(Opening(at.job, EventKind.late, text, facts, run.run_id, str(run.run_id)))
    return changes


def _quiet(limits: Limits, at: Standing) -> list[Change]:
    if limits.quiet_for is None or at.last_sign is None:
        return []
    known = _of_kind(at, EventKind.quiet)
    silence = at.now - at.last_sign
    facts = {"quiet_for_s": limits.quiet_for.total_seconds(), "last_written_at": at.last_sign.isoformat()}
    if silence <= limits.quiet_for:
        return [Closing(each, f"{at.job} writes rows again", facts) for each in known]
    if known or at.paused:
        return []
    allowed = format_duration(limits.quiet_for.total_seconds())
    text = f"{at.job} has written no row for {_span(silence)}, longer than its quiet_for of {allowed}"
    return [Opening(at.job, EventKind.quiet, text, {**facts, "silence_s": silence.total_seconds()})]


def _of_kind(at: Standing, kind: EventKind) -> list[Episode]:
    return [each for each in at.open if each.kind is kind]


def _in_the_end(episode: Episode, run: Run) -> Closing:
    took = "" if run.duration_s is None else f" after {format_duration(run.duration_s)}"
    return Closing(
        episode, f"run {_short(run)} of {run.job}, which was late, {_ended(run)}{took}", _facts(run), run.run_id
    )


def _ended(run: Run) -> str:
    return {RunState.partial: "finished in part", RunState.timed_out: "ran into its timeout",
            RunState.cancelled: "was stopped"}.get(run.state, str(run.state))  # fmt: skip


def _succeeded(run: Run) -> bool:
    return run.state in (RunState.succeeded, RunState.partial) and run.trigger != REPLAY


def _trouble(run: Run) -> EventKind | None:
    if run.state is RunState.crashed:
        return EventKind.crashed
    if run.state is RunState.failed and run.error_type == "TooManyQuarantinedError":
        return EventKind.quarantined
    return EventKind.failed if run.state in (RunState.failed, RunState.timed_out) else None


def _said(run: Run, kind: EventKind) -> str:
    what = f"run {_short(run)} of {run.job}"
    match kind:
        case EventKind.crashed:
            return f"{what} crashed: {run.error}"
        case EventKind.quarantined:
            return f"{what} set aside too many rows: {run.error}"
    verb = "ran into its timeout" if run.state is RunState.timed_out else "failed"
    return f"{what} {verb}: {run.error_type}: {run.error}"


def _facts(run: Run) -> dict[str, Any]:
    """Of a run that ended."""
    counts = run.counts
    return {
        "status": str(run.state),
        "trigger": run.trigger,
        "attempt": run.attempt,
        "scheduled_for": _moment(run.scheduled_for),
        "started_at": _moment(run.started_at),
        "ended_at": _moment(run.ended_at),
        "duration_s": run.duration_s,
        "claimed": counts.claimed,
        "written": counts.written,
        "quarantined": counts.quarantined,
        "error_type": run.error_type,
        "error": run.error,
        "trace_id": run.trace_id,
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _short(run: Run) -> str:
    return str(run.run_id)[:8]


def _span(span: timedelta) -> str:
    return format_duration(span.total_seconds())
