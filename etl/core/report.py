"""The facts of a run, and the sentences that say what they amount to.

A run is judged against its own job's past: `core.baseline` says what is usual, and an error is new when no run among
the last ones had it. All of it is arithmetic over what is recorded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from etl.core.baseline import ENOUGH, Measure, Usual, oddities, rate, usual
from etl.core.episode import Episode
from etl.core.run import REPLAY, Run, RunState
from etl.core.stages import StageCounts
from etl.durations import format_duration

__all__ = ["ENOUGH", "Usual", "rate", "usual"]  # of `core.baseline`, for who judges runs


class Standing(StrEnum):
    """Whether a job's former runs had an error as well."""

    new = "new"
    known = "known"


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Rows that were set aside for the same reason (`fingerprint`): stage, type, file and function, masked message.

    `frame`: the innermost line of the user's own code, as `jobs/flights.py:41 in to_utc`, of the first of them.
    `standing` is None where there are no former runs to compare with.
    """

    stage: str
    error_type: str
    example: str
    messages: int
    rows: int
    open_rows: int
    key: str
    fingerprint: str | None = None
    frame: str | None = None
    traceback: str | None = None
    standing: Standing | None = None

    @property
    def reason(self) -> tuple[str, str, str | None]:
        """What makes two groups of two runs the same."""
        return (self.stage, self.error_type, self.fingerprint)


@dataclass(frozen=True, slots=True)
class FormerError:
    """A reason for which former runs set rows aside. `in_last`: the last one with rows had it."""

    stage: str
    error_type: str
    fingerprint: str
    example: str
    runs: int
    last_seen: datetime
    in_last: bool

    @property
    def reason(self) -> tuple[str, str, str | None]:
        """As of `ErrorGroup`."""
        return (self.stage, self.error_type, self.fingerprint)


@dataclass(frozen=True, slots=True)
class Slice:
    """An equal part of a run's time: what was completed in it. Times are seconds since the run's start."""

    start_s: float
    end_s: float
    rows: int
    quarantined: int
    batches: int

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / (self.end_s - self.start_s) if self.end_s > self.start_s else 0.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """How things stand now. `held` of the `pending` rows are set aside; `fire_times` come with their trigger's name."""

    pending: int | None = None
    held: int = 0
    fire_times: Sequence[tuple[datetime, str]] = ()
    paused_at: datetime | None = None
    paused_by: str | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """Everything the terminal report shows. `former`: the job's runs before this one, newest first; `episodes`: what is
    wrong with the job now, and what began with this run."""

    run: Run
    stages: list[StageCounts]
    errors: list[ErrorGroup]
    former: Sequence[Run] = ()
    gone: Sequence[FormerError] = ()
    slices: Sequence[Slice] = ()
    outlook: Outlook | None = None
    baseline: Usual | None = None
    episodes: Sequence[Episode] = ()

    @property
    def usual(self) -> Usual | None:
        """What to compare the run with: runs of its hour, where that is known; None while there are too few at all."""
        return self.baseline or usual(self.former)


@dataclass(frozen=True, slots=True)
class BatchSpan:
    """One batch in a run's time (seconds since its start)."""

    number: int
    state: str
    start_s: float
    end_s: float
    claimed: int
    written: int
    quarantined: int
    retried: int
    crashes: int
    replay: bool


@dataclass(frozen=True, slots=True)
class SetAside:
    """A row in quarantine. `payload` is JSON text, the first part of `payload_size` characters."""

    key: str
    state: str
    stage: str
    error_type: str
    message: str
    attempts: int
    opened_at: datetime
    payload: str | None
    payload_size: int


@dataclass(frozen=True, slots=True)
class RunDetail:
    """Everything the page shows: `batches` are all of them, or the slowest ones in order where there are many."""

    report: RunReport
    batches: Sequence[BatchSpan]
    batches_total: int
    batches_busy_s: float
    set_aside: Sequence[SetAside]
    set_aside_total: int
    other: RunReport | None = None
    context: Sequence[tuple[str, str]] = ()


def fewer(slices: Sequence[Slice], at_most: int) -> list[Slice]:
    """Neighbouring parts put together until there are no more than that (but one), all of one length.

    A part shorter than a batch would be empty or a spike.
    """
    size = next(
        (size for size in range(1, len(slices) + 1) if len(slices) % size == 0 and len(slices) // size <= at_most),
        max(1, len(slices)),
    )
    return [
        Slice(
            part[0].start_s,
            part[-1].end_s,
            sum(each.rows for each in part),
            sum(each.quarantined for each in part),
            sum(each.batches for each in part),
        )
        for part in (slices[start : start + size] for start in range(0, len(slices), size))
    ]


def waited(run: Run) -> float | None:
    """Seconds that the first row in line had waited when the run started; None where no column tells."""
    oldest = None if run.backlog_before is None else run.backlog_before.oldest_at
    return None if oldest is None or run.started_at is None else max(0.0, (run.started_at - oldest).total_seconds())


def waited_at_most(run: Run, former: Sequence[Run]) -> float | None:
    """Seconds that no pending row can have waited longer than, when the run started, unless it had been set aside: the
    run before that went through all rows had not met it. None where there was none, or nothing was pending."""
    if run.started_at is None or run.backlog_before is None or not run.backlog_before.rows:
        return None
    begun = [
        each.started_at
        for each in former
        if each.state in (RunState.succeeded, RunState.partial) and each.row_limit is None and each.trigger != REPLAY
        if each.started_at is not None and each.started_at <= run.started_at
    ]
    return (run.started_at - max(begun)).total_seconds() if begun else None


def unusual(run: Run, past: Usual | None) -> str | None:
    """A sentence about what of a run is out of the ordinary; None where nothing is."""
    odd = [] if past is None else oddities(run, past)
    return f"Unusual: {'; '.join(odd)}." if odd else None


def beside_usual(run: Run, past: Usual | None) -> str | None:
    """What is usual, and how a run stands beside that; None where nothing can be said."""
    if past is None:
        return None
    habit = f"Usual: {format_duration(past.duration_s)} at {past.rate:,.0f} rows/s (median of {past.among})"
    pace = rate(run)
    if pace is None or run.duration_s is None or run.trigger == REPLAY:
        return f"{habit}."
    if not run.state.is_final:
        return f"{habit}; {_ratio(pace, past.rate)} of its rate so far."
    known = past.norms.get(Measure.rate)
    word = ("about", "faster than", "slower than")[0 if known is None else known.beyond(pace)]
    long = f"took {_ratio(run.duration_s, past.duration_s)} of the usual time"
    longest = ", longer than any of them" if run.duration_s > past.longest_s else ""
    return f"{habit}. This run {long}{longest}, {word} the usual rate ({_ratio(pace, past.rate)})."


def _ratio(value: float, norm: float) -> str:
    if not norm:
        return "-"
    return "under 1 %" if 0 < value < norm / 100 else f"{100 * value / norm:,.0f} %"


def with_standing(errors: Sequence[ErrorGroup], former: Collection[FormerError], compared: bool) -> list[ErrorGroup]:
    """The groups marked as new or known, new ones first; `compared`: there are former runs at all."""
    if not compared:
        return list(errors)
    known = {each.reason for each in former}
    marked = [replace(group, standing=Standing.known if group.reason in known else Standing.new) for group in errors]
    return sorted(marked, key=lambda group: group.standing is not Standing.new)


def gone(run: Run, errors: Sequence[ErrorGroup], former: Sequence[FormerError]) -> list[FormerError]:
    """What the last run with rows had and this one has not; nothing where this one had no fair chance to meet it."""
    if run.state not in (RunState.succeeded, RunState.partial) or not run.counts.claimed or run.trigger == REPLAY:
        return []
    here = {group.reason for group in errors}
    return [each for each in former if each.in_last and each.reason not in here]


def verdict(run: Run) -> str:
    """One plain sentence about a run."""
    counts = run.counts
    if run.lost:
        return "The process that ran this shows no sign of life; another one will take over."
    handled = _rows(counts.claimed - counts.released)
    match run.state:
        case RunState.queued:
            return "Waits to be started."
        case RunState.running:
            return f"Is running: {_rows(counts.claimed)} claimed so far, {_number(counts.written)} written."
        case RunState.succeeded:
            return _finished(run)
        case RunState.partial:
            aside = f"{_number(counts.quarantined)} of {_rows(counts.claimed)} set aside in quarantine"
            return f"Finished, {aside}{_limited(run)}."
        case RunState.timed_out:
            return f"Stopped by its timeout after {handled}."
        case RunState.cancelled:
            return f"Stopped on request ({run.error or 'no reason given'}) after {handled}."
        case RunState.crashed:
            return f"Its process died with {_rows(counts.released)} in hand; they go to whoever takes over."
        case RunState.failed:
            return f"Failed after {handled}: {run.error_type or 'error'}."
    raise AssertionError(run.state)


def _finished(run: Run) -> str:
    counts = run.counts
    if counts.claimed == 0:
        return "Finished; there was nothing to do."
    return f"Finished: {_number(counts.written)} of {_rows(counts.claimed)} written{_rest(run)}{_limited(run)}."


def _rest(run: Run) -> str:
    counts = run.counts
    parts = [
        f"{_number(count)} {name}"
        for name, count in (
            ("filtered", counts.filtered),
            ("deferred", counts.deferred),
            ("vanished", counts.vanished),
        )
        if count
    ]
    return f", {', '.join(parts)}" if parts else ""


def _limited(run: Run) -> str:
    """Whether more rows may wait: the run took as many as it was asked to."""
    limit = run.row_limit
    return f"; ended at its limit of {_number(limit)}" if limit is not None and run.counts.claimed >= limit else ""


def _rows(count: int) -> str:
    return f"{_number(count)} {'row' if count == 1 else 'rows'}"


def _number(count: int) -> str:
    return f"{count:,}"
