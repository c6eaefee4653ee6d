"""The facts of a run, and the sentence that says what they amount to."""

from __future__ import annotations

from dataclasses import dataclass

from etl.core.run import Run, RunState
from etl.core.stages import StageCounts


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Rows that were set aside for the same reason: stage, type, message with its variable parts masked."""

    stage: str
    error_type: str
    example: str
    messages: int
    rows: int
    open_rows: int
    key: str


@dataclass(frozen=True, slots=True)
class RunReport:
    """Everything the terminal report shows."""

    run: Run
    stages: list[StageCounts]
    errors: list[ErrorGroup]


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
        return "Finished; nothing was pending."
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
