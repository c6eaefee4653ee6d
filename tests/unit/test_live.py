"""The screen of a run that is going on: golden files, any width, and no more said than is known.

A screen that changed on purpose is written anew by: GOLDEN=write ./dev test tests/unit/test_live.py
"""

from __future__ import annotations

import io
import os
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from etl.app import HandControls
from etl.cli.live import Progress, can_redraw
from etl.core.counts import Counts
from etl.core.pace import Pace
from etl.core.stages import StageCounts, histogram
from etl.core.waits import SessionWait, describe_waits
from etl.reports.live import LiveFacts, one_line, render_live, time_left
from etl.reports.terminal import ansi, plain
from tests.unit.test_report_screens import GOLDEN, uncoloured

STAGES = (
    StageCounts("claim", rows_out=12_800, busy_s=1.1, calls=histogram([0.05] * 13)),
    StageCounts("geocode", 12_400, 12_310, 57, 214, 33, 118.0, histogram([0.008] * 90 + [0.041] * 10)),
)
COUNTS = Counts(claimed=12_400, written=12_310, filtered=57, quarantined=33, retried=214, batches=13)
LOCK = "waiting for a row lock held by pid 4711 (application nightly report), which is idle in its transaction"
UNDERWAY = LiveFacts("orders-geocode", 132.4, COUNTS, 40_000, STAGES, 94.2, 101.0, 287.0, LOCK)
SCREENS = {
    "live": UNDERWAY,
    "live-beginning": LiveFacts("orders-geocode", 0.8, Counts(), 40_000, waits="nothing to do, Python is busy"),
    "live-unknown": replace(UNDERWAY, total=None, left_s=None, stopping=True, waits="writing WAL", elapsed_s=4000.0),
}


@pytest.mark.parametrize("paint", [plain, ansi], ids=["plain", "colour"])
@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", SCREENS)
def test_the_live_screen_is_as_it_was_agreed_and_fits(name: str, width: int, paint: Any) -> None:
    lines = render_live(SCREENS[name], width=width, paint=paint)
    shown = "\n".join(lines) + "\n"
    golden = GOLDEN / f"{name}-{width}{'-colour' if paint is ansi else ''}.txt"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(shown, encoding="utf-8")

    assert golden.read_text(encoding="utf-8") == shown
    assert [] == [line for line in map(uncoloured, lines) if len(line) > width]


@pytest.mark.parametrize("width", [*range(20, 80, 3), 200])
@pytest.mark.parametrize("name", SCREENS)
def test_no_line_is_wider_than_the_screen_however_narrow(name: str, width: int) -> None:
    huge = replace(
        SCREENS[name],
        job="a job with a long name " * 3,
        counts=Counts(10**9, 10**9, 10**8, 10**7, 10**6, 0, 10**5, 10**4),
        waits="x" * 100,
    )

    for facts in (SCREENS[name], huge):
        assert [] == [line for line in render_live(facts, width=width) if len(line) > width]


def test_colour_changes_nothing_but_colour() -> None:
    assert render_live(UNDERWAY, width=80) == [uncoloured(line) for line in render_live(UNDERWAY, width=80, paint=ansi)]


def test_what_steers_a_terminal_is_shown_as_text() -> None:
    odd = replace(UNDERWAY, job="a\x1b[2Jb\nc", waits="lock held by \x1b]0;x\x07")

    assert not [line for line in render_live(odd, width=80) if "\x1b" in line or "\n" in line]


def test_a_run_that_waits_for_a_dead_one_says_so_and_not_that_there_is_nothing_to_do() -> None:
    awaits = "run 0190a1b2 shows no sign of life, taking over its rows in 12 s"
    waiting = replace(SCREENS["live-beginning"], waits="nothing to do, the job itself waits", awaits=awaits)

    screen = render_live(waiting, width=80)

    assert f" waiting: {awaits}" == screen[-1]
    assert "nothing to do" not in "".join(screen)
    assert one_line(waiting).endswith(f", waiting: {awaits}")


def test_rows_that_came_meanwhile_make_no_share_over_the_whole() -> None:
    lines = render_live(replace(UNDERWAY, total=12_000, left_s=None), width=80)

    assert "12,400 rows" in lines[1]
    assert "%" not in "".join(lines)


def test_where_nothing_can_be_redrawn_one_line_says_it() -> None:
    expected = "orders-geocode: 12,400 of about 40,000 rows, 94 rows/s now, 101 on average, about 5 min left"

    assert expected == one_line(UNDERWAY)


@pytest.mark.parametrize(
    ("expected", "seconds"),
    [
        ("a few seconds left", 0.4), ("a few seconds left", 9.9), ("about 10 s left", 12), ("about 50 s left", 54),
        ("about 1 min left", 56), ("about 1 min left", 89), ("about 5 min left", 287), ("about 10 min left", 599),
        ("about 10 min left", 610), ("about 55 min left", 3_400), ("about 1 h left", 3_500), ("about 2.5 h left", 9_100),
        ("about 11 h left", 39_000), ("about 2 days left", 48 * 3600),
    ],
)  # fmt: skip
def test_the_time_left_is_rounded_as_an_estimate_deserves(expected: str, seconds: float) -> None:
    assert expected == time_left(seconds)


# How fast


def pace(*points: tuple[float, int]) -> Pace:
    found = Pace()
    for at, rows in points:
        found.note(at, rows)
    return found


def test_before_the_first_batch_there_is_no_rate_and_no_time_left() -> None:
    assert (None, None, None) == (Pace().recently(5), Pace().mean(5), Pace().left(5, 100))


def test_the_rate_now_is_that_of_the_last_seconds_and_the_mean_that_of_all() -> None:
    slow_then_fast = pace(*((n, 10 * n) for n in range(1, 51)), *((50 + n, 500 + 100 * n) for n in range(1, 11)))

    assert (100.0, 25.0) == (slow_then_fast.recently(60.0), slow_then_fast.mean(60.0))


def test_long_batches_are_looked_at_over_several_of_them() -> None:
    assert pytest.approx(10.0) == pace((20, 200), (40, 400), (60, 600), (80, 800)).recently(80.0)


def test_the_time_left_rests_on_the_last_minute() -> None:
    fast_then_slow = pace((1, 10_000), *((1 + n, 10_000 + 10 * n) for n in range(1, 101)))

    left = fast_then_slow.left(101.0, 12_000)

    assert left is not None
    assert pytest.approx(100.0, rel=0.05) == left


@pytest.mark.parametrize(
    ("points", "at", "total"),
    [
        ([(1, 50)], 1.0, 100),  # too soon
        ([(5, 50)], 5.0, None),  # nobody counted
        ([(5, 100)], 5.0, 100),  # done
        ([(5, 120)], 5.0, 100),  # more came
    ],
)
def test_no_time_left_is_told_where_it_cannot_be_known(
    points: list[tuple[float, int]], at: float, total: int | None
) -> None:
    assert pace(*points).left(at, total) is None


def test_what_is_kept_for_the_rate_does_not_grow_with_the_run() -> None:
    long = pace(*((n / 10, n) for n in range(100_000)))

    assert len(long._points) < 1_000


def test_progress_adds_up_stages_and_begins_anew_with_the_next_run() -> None:
    progress = Progress("job", 10, HandControls())
    stage = StageCounts("act", 2, 2, busy_s=1.0, calls={3: 2})

    progress.note(Counts(claimed=2, written=2, batches=1), [stage])
    progress.note(Counts(claimed=4, written=4, batches=2), [stage])
    first = progress.facts()
    progress.note(Counts(claimed=1, written=1, batches=1), [stage])

    assert (4, 4, {3: 4}) == (first.counts.written, first.stages[0].rows_in, first.stages[0].calls)
    assert (1, 2) == (progress.facts().counts.written, progress.facts().stages[0].rows_in)


# What the database waits for


def session(state: str = "active", kind: str | None = None, event: str | None = None, **blocker: Any) -> SessionWait:
    return SessionWait(1, state, kind, event, **blocker)


@pytest.mark.parametrize(
    ("expected", "seen"),
    [
        ("waiting for a row lock held by pid 7 (application psql)",
         session(kind="Lock", event="transactionid", blocker_pid=7, blocker_name="psql", blocker_state="active")),
        ("waiting for a table lock held by pid 7, which is idle in its transaction",
         session(kind="Lock", event="relation", blocker_pid=7, blocker_name="", blocker_state="idle in transaction")),
        ("waiting for a row lock held by this run itself", session(kind="Lock", event="tuple", blocker_pid=2)),
        ("waiting for a row lock held by a prepared transaction",
         session(kind="Lock", event="transactionid", blocker_pid=0)),
        ("waiting for a lock", session(kind="Lock", event="virtualxid")),
        ("writing WAL", session(kind="IO", event="WALSync")),
        ("writing WAL", session(kind="LWLock", event="WALWrite")),
        ("waiting for a standby to confirm", session(kind="IPC", event="SyncRep")),
        ("reading from disk", session(kind="IO", event="DataFileRead")),
        ("writing to disk", session(kind="IO", event="DataFileExtend")),
        ("waiting for other sessions (BufferContent)", session(kind="LWLock", event="BufferContent")),
        ("waiting (VacuumDelay)", session(kind="Timeout", event="VacuumDelay")),
        ("sending rows to this program", session(kind="Client", event="ClientWrite")),
        ("computing", session()),
        ("nothing to do, Python is busy", session(kind="Client", event="ClientRead")),
        ("nothing to do, Python is busy", session("idle in transaction", "Client", "ClientRead")),
        ("nothing to do, Python is busy", session("idle", "Client", "ClientRead")),
    ],
)  # fmt: skip
def test_what_a_session_waits_for_is_said_in_words(expected: str, seen: SessionWait) -> None:
    assert expected == describe_waits([seen], own={1, 2})


def test_of_several_sessions_the_one_that_waits_for_the_worst_is_told_of() -> None:
    sessions = [session(), session("idle"), session(kind="Lock", event="tuple"), session(kind="IO", event="WALSync")]

    assert "waiting for a row lock" == describe_waits(sessions)


def test_where_neither_the_database_nor_python_works_the_job_itself_waits() -> None:
    assert "nothing to do, the job itself waits" == describe_waits([session("idle")], cpu=0.05)
    assert "nothing to do, Python is busy" == describe_waits([], cpu=0.99)


# Where it may be redrawn


@pytest.mark.parametrize(
    ("expected", "variables"),
    [
        (True, {}),
        (False, {"NO_COLOR": "1"}),
        (False, {"CI": "true"}),
        (False, {"TERM": "dumb"}),
        (True, {"NO_COLOR": ""}),
    ],
)
def test_a_terminal_is_redrawn_unless_somebody_said_no(
    expected: bool, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "CI", "TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", **variables}.items():
        monkeypatch.setenv(name, value)

    assert expected is can_redraw(Console(file=io.StringIO(), force_terminal=True))
    assert not can_redraw(Console(file=io.StringIO()))
