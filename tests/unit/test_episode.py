"""When something begins to be wrong with a job, and when that is over: decisions over values."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl.core.counts import Counts
from etl.core.episode import Change, Closing, Episode, LateRun, Opening, Standing, after_run, judged, judged_backlog
from etl.core.event import EventKind
from etl.core.limits import Limits
from etl.core.report import RunReport
from etl.core.run import REPLAY, Run, RunState
from etl.reports.terminal import ansi, render_report

NOW = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
RUN_ID = UUID(int=7)
HOUR = timedelta(hours=1)
LIMITS = Limits(finish_within=HOUR, backlog_limit=HOUR, quiet_for=HOUR)
LATE = LateRun(RUN_ID, NOW - 2 * HOUR, 2 * HOUR)


def known(kind: EventKind, subject: str = "", number: int = 1) -> Episode:
    return Episode(number, "job", kind, subject, RUN_ID)


def kinds(changes: list[Change]) -> list[str]:
    """`+late`, `-late`."""
    return [f"+{each.kind}" if isinstance(each, Opening) else f"-{each.episode.kind}" for each in changes]


def a_run(state: RunState, **changes: object) -> Run:
    return replace(Run(RUN_ID, "job", "cron", state, duration_s=5.0), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (Standing("job", NOW), []),
        (Standing("job", NOW, late=[LATE]), ["+late"]),
        (Standing("job", NOW, late=[LATE], paused=True), ["+late"]),
        (Standing("job", NOW, late=[LATE], open=[known(EventKind.late, str(RUN_ID))]), []),
        (Standing("job", NOW, late=[LATE], open=[known(EventKind.late, str(UUID(int=8)))]), ["+late"]),
        (Standing("job", NOW, open=[known(EventKind.late, str(RUN_ID))], over={1}), ["-late"]),
        (Standing("job", NOW, last_sign=NOW - 2 * HOUR), ["+quiet"]),
        (Standing("job", NOW, last_sign=NOW - 2 * HOUR, paused=True), []),
        (Standing("job", NOW, last_sign=NOW - 2 * HOUR, open=[known(EventKind.quiet)]), []),
        (Standing("job", NOW, last_sign=NOW - HOUR), []),
        (Standing("job", NOW, last_sign=NOW - HOUR, open=[known(EventKind.quiet)]), ["-quiet"]),
        (Standing("job", NOW, last_sign=NOW, open=[known(EventKind.quiet)], paused=True), ["-quiet"]),
    ],
)
def test_what_the_records_tell(at: Standing, expected: list[str]) -> None:
    assert expected == kinds(judged(LIMITS, at))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (Standing("job", NOW), []),
        (Standing("job", NOW, oldest=NOW - 2 * HOUR), ["+backlog"]),
        (Standing("job", NOW, oldest=NOW - 2 * HOUR, paused=True), []),
        (Standing("job", NOW, oldest=NOW - 2 * HOUR, open=[known(EventKind.backlog)]), []),
        (Standing("job", NOW, oldest=NOW - 2 * HOUR, open=[known(EventKind.backlog)], paused=True), []),
        (Standing("job", NOW, open=[known(EventKind.backlog)]), ["-backlog"]),
    ],
)
def test_what_the_table_tells(at: Standing, expected: list[str]) -> None:
    assert expected == kinds(judged_backlog(LIMITS, at))


def test_without_limits_nothing_is_judged() -> None:
    at = Standing("job", NOW, late=[LATE], last_sign=NOW - 2 * HOUR, oldest=NOW - 2 * HOUR)

    assert [] == [*judged(Limits(), at), *judged_backlog(Limits(), at)]


FAILED = [known(EventKind.failed), known(EventKind.crashed), known(EventKind.quarantined)]
WROTE = Counts(claimed=1, written=1)


@pytest.mark.parametrize(
    ("run", "open_", "expected"),
    [
        (a_run(RunState.succeeded), [], []),
        (a_run(RunState.failed), [], ["+failed"]),
        (a_run(RunState.timed_out), [], ["+failed"]),
        (a_run(RunState.crashed), [], ["+crashed"]),
        (a_run(RunState.failed, error_type="TooManyQuarantinedError"), [], ["+quarantined"]),
        (a_run(RunState.cancelled), FAILED, []),
        (a_run(RunState.succeeded), FAILED, ["-failed", "-crashed", "-quarantined"]),
        (a_run(RunState.partial), FAILED, ["-failed", "-crashed", "-quarantined"]),
        (a_run(RunState.succeeded, trigger=REPLAY), FAILED, []),
        (a_run(RunState.succeeded), [known(EventKind.quiet), known(EventKind.backlog)], []),
        (a_run(RunState.succeeded, counts=WROTE), [known(EventKind.quiet), known(EventKind.backlog)], ["-quiet"]),
        (a_run(RunState.failed), [known(EventKind.late, str(RUN_ID))], ["-late", "+failed"]),
        (a_run(RunState.succeeded), [known(EventKind.late, str(UUID(int=8)))], []),
    ],
)
def test_what_the_end_of_a_run_begins_and_ends(run: Run, open_: list[Episode], expected: list[str]) -> None:
    assert expected == kinds(after_run(run, open_))


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=30),
)
def test_what_begins_is_open_once_and_ends_once(looks: list[tuple[bool, int]]) -> None:
    """Whatever is seen, in whatever order: no beginning while open, no end but of what is open."""
    open_: list[Episode] = []
    for number, (paused, hours) in enumerate(looks, start=1):
        at = Standing("job", NOW, paused=paused, last_sign=NOW - hours * HOUR, open=list(open_))
        for change in judged(LIMITS, at):
            if isinstance(change, Closing):
                open_.remove(change.episode)
            else:
                open_.append(known(change.kind, number=number))
        assert len(open_) <= 1
        assert hours <= 1 or paused or len(open_) == 1
        assert hours > 1 or not open_


def test_a_report_says_what_is_wrong_and_what_was() -> None:
    since = known(EventKind.failed)._replace(opened_at=NOW, text="run 1 of job failed:\n\x1b[2J no luck")
    over = since._replace(kind=EventKind.late, closed_at=NOW + HOUR)

    lines = render_report(RunReport(a_run(RunState.failed), [], [], episodes=[since, over]), paint=ansi)

    assert "\x1b[31mFAILED since 2024-02-29 12:00 UTC: run 1 of job failed: \\x1b[2J no luck\x1b[0m" in lines
    assert 'was late from 2024-02-29 12:00:00 to 13:00:00 UTC: "run 1 of job failed: \\x1b[2J no luck"' in lines


def test_a_closing_says_what_became_of_it_and_facts_are_json() -> None:
    (closing,) = after_run(a_run(RunState.timed_out), [known(EventKind.late, str(RUN_ID))])[:1]

    assert isinstance(closing, Closing)
    assert "run 00000000 of job, which was late, ran into its timeout after 5.00 s" == closing.text
    assert ("timed_out", 5.0, None) == tuple(closing.facts[name] for name in ("status", "duration_s", "scheduled_for"))
