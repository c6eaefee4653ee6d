"""How facts of a run are worded, on the screen and on the page alike."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from etl.core.backlog import Backlog
from etl.core.report import ErrorGroup, Outlook, RunReport, waited, waited_at_most
from etl.core.run import REPLAY, Run, RunState
from etl.core.sanitise import showable
from etl.core.stages import StageCounts, quantile
from etl.durations import format_duration

OUTCOMES = ("written", "filtered", "quarantined", "deferred", "released", "vanished")

# From so many seconds on a run is called late.
_LATE = 1.0

# One character for an outcome, for strips of many runs.
MARKS = {
    RunState.queued: "q",
    RunState.running: "r",
    RunState.succeeded: ".",
    RunState.partial: "p",
    RunState.failed: "F",
    RunState.crashed: "C",
    RunState.timed_out: "T",
    RunState.cancelled: "x",
}
LEGEND = "  ".join(f"{mark} {state}" for state, mark in MARKS.items())


def one_line(text: str) -> str:
    """Text of any origin as one line without control or bidirectional characters."""
    return showable(" ".join(text.split()))


def count(value: int) -> str:
    """A count, with a dash for nothing."""
    return f"{value:,}" if value else "-"


def latency(stage: StageCounts) -> str:
    """Median and 95th percentile of one call, in the unit that suits the longer."""
    middle, high = quantile(stage.calls, 0.5), quantile(stage.calls, 0.95)
    if middle is None or high is None:
        return "-"
    scale, unit = next(((s, u) for s, u in ((1.0, "s"), (1e3, "ms"), (1e6, "us")) if high * s >= 1), (1e6, "us"))
    return f"{_short(middle * scale)} / {_short(high * scale)} {unit}"


def waiting(stage: StageCounts) -> str:
    """What a stage waited, with a dash for nothing to speak of."""
    return format_duration(stage.waited_s) if stage.waited_s >= 0.005 else "-"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def books(run: Run) -> str:
    """Where the claimed rows went, and whether that adds up."""
    counts = run.counts
    parts = [f"{value:,} {name}" for name in OUTCOMES if (value := getattr(counts, name))]
    sums = f"{counts.claimed:,} claimed = {' + '.join(parts) or '0'}"
    if not run.state.is_final:
        return f"books so far: {counts.claimed:,} claimed, {counts.accounted:,} accounted for"
    if counts.balanced:
        return f"books balance: {sums}"
    return f"BOOKS DO NOT BALANCE: {sums}, {counts.claimed - counts.accounted:+,} unaccounted for"


def batches(number: int) -> str:
    """`28 batches`."""
    return f"{number:,} {'batch' if number == 1 else 'batches'}"


def rows(number: int) -> str:
    """`1,000 rows`."""
    return f"{number:,} {'row' if number == 1 else 'rows'}"


def group_text(group: ErrorGroup) -> str:
    """An error group on one line."""
    return one_line(f"{group.error_type} in {group.stage}: {group.example}")


def when(run: Run) -> list[str]:
    """Who asked for a run, when and where it ran."""
    parts = [one_line(run.trigger)]
    if run.scheduled_for is not None:
        parts.append(f"scheduled for {run.scheduled_for:%Y-%m-%d %H:%M:%S %Z}")
    if run.started_at is not None:
        late = run.lateness_s
        behind = f" ({format_duration(late)} late)" if late is not None and late >= _LATE else ""
        parts.append(f"started {run.started_at:%Y-%m-%d %H:%M:%S %Z}{behind}")
    if run.duration_s is not None:
        parts.append(("took " if run.ended_at else "for ") + format_duration(run.duration_s))
    if run.host:
        parts.append(f"on {one_line(run.host)} (pid {run.pid})")
    if run.trace_id:
        parts.append(f"trace {one_line(run.trace_id)[:8]}")
    if run.attempt > 1:
        parts.append(f"attempt {run.attempt}")
    if run.parent_id is not None:
        parts.append(f"after run {str(run.parent_id)[:8]}")
    return parts


def took(run: Run) -> str | None:
    """What a run took besides time, and by which code; None where nothing of it is known."""
    parts = []
    if run.database_s is not None:
        parts.append(f"{format_duration(run.database_s)} in transactions")
    if run.peak_memory_bytes is not None:
        parts.append(f"{run.peak_memory_bytes / 1e6:,.0f} MB of memory at most")
    if run.code_version is not None:
        parts.append(f"code {one_line(run.code_version)}")
    return ", ".join(parts) or None


def backlog_of(run: Run, former: Sequence[Run]) -> str | None:
    """What a run found before it and left; None where nobody could tell."""
    if run.backlog_before is None:
        return None
    told = f"{_pending(run.backlog_before)} before"
    if run.backlog_after is not None:
        told += f", {_pending(run.backlog_after)} after"
    if (exact := waited(run)) is not None:
        return f"{told}; the oldest had waited {format_duration(exact)}"
    if (most := waited_at_most(run, former)) is not None:
        return f"{told}; none had waited longer than {format_duration(most)}, unless set aside"
    return told


def _pending(backlog: Backlog) -> str:
    return f"{'' if backlog.exact else 'about '}{backlog.rows:,}"


def backlog(outlook: Outlook) -> str | None:
    """How many rows wait now; None where nobody could count them."""
    if outlook.pending is None:
        return None
    rows = "row" if outlook.pending == 1 else "rows"
    held = f", {outlook.held:,} of them set aside" if outlook.held else ""
    return f"{outlook.pending:,} {rows} pending now{held}"


def upcoming(outlook: Outlook) -> str | None:
    """When the job fires next, or since when it does not."""
    if outlook.paused_at is not None:
        by = f" by {one_line(outlook.paused_by)}" if outlook.paused_by else ""
        return f"paused since {outlook.paused_at:%Y-%m-%d %H:%M %Z}{by}"
    moments = [moment for moment, _ in outlook.fire_times]
    zones = {f"{moment:%Z}" for moment in moments}
    if len(zones) == 1:
        return ", ".join(f"{moment:%Y-%m-%d %H:%M:%S}" for moment in moments) + f" {zones.pop()}"
    return ", ".join(f"{moment:%Y-%m-%d %H:%M:%S %Z}" for moment in moments) or None


def follow_up(report: RunReport, program: str) -> list[str]:
    """What to type next, so that it can be pasted."""
    run = report.run
    commands = []
    still_open = [group for group in report.errors if group.open_rows]
    if still_open:
        commands.append(f"{program} quarantine {run.job} --run {str(run.run_id)[:8]}")
        types = dict.fromkeys(group.error_type for group in still_open)
        commands += [replay_command(run, name, program) for name in list(types)[:3]]
    if run.state in (RunState.failed, RunState.timed_out, RunState.cancelled) and run.trigger != REPLAY:
        commands.append(f"{program} run {run.job}")
    return commands


def replay_command(run: Run, error_type: str, program: str) -> str:
    """The command that replays the rows with an error."""
    return f"{program} replay {run.job} --error {shlex.quote(one_line(error_type))}"


def strip(states: Sequence[RunState]) -> str:
    """One character a run."""
    return "".join(MARKS[state] for state in states)
