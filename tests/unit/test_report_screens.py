"""The screen of a run as golden files: at 80 and 120 columns, with and without colour.

A screen that changed on purpose is written anew by: GOLDEN=write ./dev test tests/unit/test_report_screens.py
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from etl.core.backlog import Backlog
from etl.core.comparison import compare
from etl.core.counts import Counts
from etl.core.report import (
    ErrorGroup,
    FormerError,
    Outlook,
    RunReport,
    Slice,
    beside_usual,
    fewer,
    gone,
    usual,
    with_standing,
)
from etl.core.run import Run, RunState
from etl.core.stages import StageCounts, histogram
from etl.reports.terminal import ansi, plain, render_comparison, render_report

GOLDEN = Path(__file__).parents[1] / "golden"
STARTED = datetime(2024, 2, 29, 4, 30, tzinfo=UTC)


def a_run(number: int = 1, seconds: float = 132.0, claimed: int = 12_400, **changes: object) -> Run:
    counts = Counts(
        claimed=claimed, written=claimed - 90, filtered=57, quarantined=33, retried=216, batches=13 if claimed else 0
    )
    begun = STARTED - timedelta(minutes=5 * number)
    run = Run(
        UUID(int=number), "orders-geocode", "cron", RunState.partial, scheduled_for=begun, started_at=begun,
        ended_at=begun + timedelta(seconds=seconds), duration_s=seconds, host="box", pid=7, trace_id="3f9c2ab1" * 4,
        counts=counts, code_version="git:3f9c2ab1d2e4 file:5d41402abc4b",
        backlog_before=Backlog(1_200_000, exact=False), backlog_after=Backlog(40), database_s=23.4,
        peak_memory_bytes=84_000_000,
    )  # fmt: skip
    return replace(run, **changes)  # type: ignore[arg-type]


FORMER = [a_run(number, 100.0 + number) for number in range(2, 9)]
NEW = ErrorGroup(
    "geocode", "TimeoutError", "upstream 7 did not answer", 28, 28, 28, "4711", "a", "jobs/orders.py:41 in geocode"
)
KNOWN = ErrorGroup(
    "geocode", "BadAddress", "no such postcode \u202e12345\x1b[2J", 1, 5, 2, "12", "b", "jobs/orders.py:58 in geocode"
)
GONE = FormerError("-> dst", "UniqueViolation", "c", "duplicate key", 2, STARTED - timedelta(days=1), in_last=True)
SEEN = FormerError("geocode", "BadAddress", "b", "no such postcode", 4, STARTED, in_last=True)
REPORT = RunReport(
    a_run(),
    [
        StageCounts("claim", rows_out=12_400, busy_s=1.1, calls=histogram([0.05] * 13)),
        StageCounts("geocode", 12_400, 12_310, 57, 214, 33, 118.0, histogram([0.008] * 90 + [0.041] * 10)),
        StageCounts("-> dst", 12_310, 12_310, 0, 2, 0, 9.7, histogram([0.7] * 13)),
    ],
    with_standing([KNOWN, NEW], [SEEN, GONE], compared=True),
    FORMER,
    [GONE],
    [Slice(n * 2.2, (n + 1) * 2.2, (n % 10) * 46, n % 3, n % 2) for n in range(60)],
    Outlook(40, 31, [(STARTED + timedelta(minutes=n), "cron") for n in (5, 10, 15)]),
)


@pytest.mark.parametrize("paint", [plain, ansi], ids=["plain", "colour"])
@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_screen_is_as_it_was_agreed_and_fits(name: str, width: int, paint: object) -> None:
    colour = "-colour" if paint is ansi else ""
    other = RunReport(FORMER[0], REPORT.stages[:2], [KNOWN])
    lines = (
        render_report(REPORT, width=width, paint=ansi if colour else plain)
        if name == "report"
        else render_comparison(compare(REPORT, other), width=width, paint=ansi if colour else plain)
    )
    shown = "\n".join(lines) + "\n"
    golden = GOLDEN / f"{name}-{width}{colour}.txt"
    if os.environ.get("GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(shown, encoding="utf-8")

    assert golden.read_text(encoding="utf-8") == shown
    assert [] == [line for line in map(uncoloured, lines) if len(line) > width]


def test_two_runs_by_different_code_say_so() -> None:
    newer = replace(REPORT, run=replace(REPORT.run, code_version="git:5d41402abc4b file:7d793037a076"))

    told = [
        (fact.name, fact.this, fact.other) for fact in compare(newer, REPORT).facts if fact.name.startswith("code:")
    ]

    assert [
        ("code: git", "5d41402abc4b", "3f9c2ab1d2e4"),
        ("code: file", "7d793037a076", "5d41402abc4b"),
    ] == told
    assert [] == [fact.name for fact in compare(REPORT, REPORT).facts if fact.name.startswith("code:")]
    assert [] == [line for line in render_comparison(compare(newer, REPORT), width=80) if len(line) > 80]


def uncoloured(line: str) -> str:
    return re.sub(r"\x1b\[\d+m", "", line)


def test_colour_changes_nothing_but_colour() -> None:
    assert render_report(REPORT) == [uncoloured(line) for line in render_report(REPORT, paint=ansi)]


@pytest.mark.parametrize("size", [10**6, 10**9])
def test_the_table_of_stages_of_a_huge_run_fits_a_narrow_screen(size: int) -> None:
    stages = [StageCounts("a stage with a long name", size, size, size, size, size, 90_000.0, histogram([0.01]))] * 3

    lines = render_report(replace(REPORT, stages=stages), width=80)

    assert [] == [line for line in lines if len(line) > 80]


# Against the past


def test_two_former_runs_are_no_habit_and_three_are() -> None:
    assert usual(FORMER[:2]) is None
    past = usual(FORMER[:3])
    assert past is not None
    assert (3, 103.0, 104.0) == (past.runs, past.duration_s, past.longest_s)


@pytest.mark.parametrize(
    "odd",
    [{"state": RunState.failed}, {"state": RunState.crashed}, {"trigger": "replay"}, {"counts": Counts()}],
    ids=["failed", "crashed", "replay", "idle"],
)
def test_runs_that_came_to_nothing_are_no_part_of_a_habit(odd: dict[str, object]) -> None:
    assert usual([*FORMER[:2], a_run(9, **odd)]) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "said"), [(300.0, "slower than"), (20.0, "faster than"), (110.0, "about")], ids=str
)
def test_a_run_is_called_slow_or_fast_by_its_rate(seconds: float, said: str) -> None:
    sentence = beside_usual(a_run(seconds=seconds), usual(FORMER))

    assert sentence is not None
    assert f"{said} the usual rate" in sentence
    assert (seconds > 108) is ("longer than any of them" in sentence)


def test_an_error_is_new_if_no_former_run_had_it_and_unmarked_if_there_are_none() -> None:
    marked = with_standing([KNOWN, NEW], [SEEN], compared=True)

    assert [("TimeoutError", "new"), ("BadAddress", "known")] == [(g.error_type, g.standing) for g in marked]
    assert [None] == [group.standing for group in with_standing([NEW], [], compared=False)]


def test_what_the_run_before_had_is_gone_only_where_this_one_could_have_met_it() -> None:
    older = replace(GONE, in_last=False, fingerprint="d")

    assert [GONE] == gone(a_run(), [KNOWN], [SEEN, GONE, older])
    for odd in (a_run(claimed=0, counts=Counts()), a_run(state=RunState.failed), a_run(trigger="replay")):
        assert [] == gone(odd, [], [GONE])


@pytest.mark.parametrize("at_most", [0, 1, 7, 13, 29, 60, 100])
def test_parts_of_time_put_together_lose_nothing(at_most: int) -> None:
    folded = fewer(REPORT.slices, at_most)

    assert len(folded) <= max(1, at_most)
    for name in ("rows", "quarantined", "batches"):
        assert sum(getattr(s, name) for s in REPORT.slices) == sum(getattr(s, name) for s in folded)
    assert (0.0, 132.0) == (folded[0].start_s, folded[-1].end_s)


def test_no_number_is_parted_from_its_percent_sign() -> None:
    for width in range(60, 121):
        assert not [line for line in render_report(REPORT, width=width) if line.lstrip().startswith("%")], width
