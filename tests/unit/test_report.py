"""A run on one screen: a sentence, the stages, the books, what went wrong and what to type next."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl.core.counts import Counts
from etl.core.report import ErrorGroup, RunReport, verdict
from etl.core.run import Run, RunState
from etl.core.stages import StageCounts, histogram
from etl.reports.terminal import render_report

RUN_ID = UUID("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
RUN = Run(
    run_id=RUN_ID,
    job="flights",
    trigger="cron",
    state=RunState.succeeded,
    started_at=datetime(2024, 2, 29, 4, 30, tzinfo=UTC),
    ended_at=datetime(2024, 2, 29, 4, 30, 2, tzinfo=UTC),
    duration_s=2.0,
)
GROUP = ErrorGroup("to_utc", "UnknownAirport", "no airport 'XYZ'", messages=4, rows=679, open_rows=679, key="k")


def run(state: RunState = RunState.succeeded, *, counts: Counts | None = None, **changes: Any) -> Run:
    return replace(RUN, state=state, counts=counts or Counts(), **changes)


def report(shown: Run, *, stages: list[StageCounts] | None = None, errors: list[ErrorGroup] | None = None) -> list[str]:
    return render_report(RunReport(shown, stages or [], errors or []))


def line(lines: list[str], start: str) -> str:
    """The one line that begins so."""
    (found,) = [each.strip() for each in lines if each.strip().startswith(start)]
    return found


# The sentence

JANUARY = Counts(claimed=27_004, written=25_804, filtered=521, quarantined=679)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (run(RunState.queued), "Waits to be started."),
        (
            run(RunState.running, counts=Counts(claimed=2_000, written=1_000)),
            "Is running: 2,000 rows claimed so far, 1,000 written.",
        ),
        (
            run(RunState.running, lost=True),
            "The process that ran this shows no sign of life; another one will take over.",
        ),
        (run(), "Finished; there was nothing to do."),
        (run(counts=Counts(claimed=1, written=1)), "Finished: 1 of 1 row written."),
        (
            run(counts=Counts(claimed=10, written=4, filtered=3, deferred=2, vanished=1)),
            "Finished: 4 of 10 rows written, 3 filtered, 2 deferred, 1 vanished.",
        ),
        (run(RunState.partial, counts=JANUARY), "Finished, 679 of 27,004 rows set aside in quarantine."),
        (
            run(RunState.timed_out, counts=Counts(claimed=30, written=20, released=10)),
            "Stopped by its timeout after 20 rows.",
        ),
        (
            run(RunState.cancelled, counts=Counts(claimed=1, written=1), error="the worker is shutting down"),
            "Stopped on request (the worker is shutting down) after 1 row.",
        ),
        (run(RunState.cancelled), "Stopped on request (no reason given) after 0 rows."),
        (
            run(RunState.crashed, counts=Counts(claimed=8, written=4, released=4), error_type="LeaseExpired"),
            "Its process died with 4 rows in hand; they go to whoever takes over.",
        ),
        (
            run(RunState.failed, counts=Counts(claimed=4, released=4), error_type="KeyError"),
            "Failed after 0 rows: KeyError.",
        ),
        (run(RunState.failed), "Failed after 0 rows: error."),
    ],
    ids=lambda value: str(value.state) if isinstance(value, Run) else "",
)
def test_a_sentence_says_what_a_run_amounts_to(shown: Run, expected: str) -> None:
    assert expected == verdict(shown)


@pytest.mark.parametrize("state", RunState)
def test_every_state_has_a_sentence_and_a_screen(state: RunState) -> None:
    lines = report(run(state))

    assert f"flights   run {RUN_ID}   {state.upper()}" == lines[0]
    assert verdict(run(state)) == lines[1]


# Head


def test_the_head_tells_who_asked_for_it_when_it_ran_and_where() -> None:
    shown = run(
        scheduled_for=datetime(2024, 2, 29, 4, 25, tzinfo=UTC), host="box", pid=7, trace_id="0123456789abcdef" * 2
    )

    assert (
        "cron, scheduled for 2024-02-29 04:25:00 UTC, started 2024-02-29 04:30:00 UTC (5 min 00 s late), took 2.00 s, "
        "on box (pid 7), trace 01234567"
    ) == " ".join(report(shown)[2:4])


def test_a_run_in_progress_is_told_by_how_long_it_has_been_going() -> None:
    assert "cron, started 2024-02-29 04:30:00 UTC, for 2.00 s" == report(run(RunState.running, ended_at=None))[2]


def test_a_run_that_has_not_begun_has_no_times() -> None:
    assert "cron" == report(run(RunState.queued, started_at=None, ended_at=None, duration_s=None))[2]


def test_an_error_is_shown_on_a_few_lines_that_fit() -> None:
    lines = report(run(RunState.failed, error_type="ValueError", error="word " * 300))

    told = lines[3 : lines.index("")]
    assert 4 == len(told)
    assert told[0].startswith("ValueError: word word")
    assert all(len(each) <= 120 for each in told)


def test_a_run_that_was_told_to_stop_shows_the_reason_once() -> None:
    lines = report(run(RunState.cancelled, error_type="Stopped", error="the worker is shutting down"))

    assert 1 == "\n".join(lines).count("the worker is shutting down")


# Stages


def test_stages_are_a_table_with_a_dash_for_nothing() -> None:
    stages = [
        StageCounts("claim", rows_out=27_004, busy_s=1.5, calls=histogram([0.05] * 20)),
        StageCounts("to_utc", 27_004, 25_804, filtered=521, retried=3, quarantined=679, busy_s=95.0),
        StageCounts("-> flight", 25_804, 25_804, busy_s=0.25, calls=histogram([2.0])),
    ]

    lines = report(run(counts=JANUARY), stages=stages)

    table = lines[lines.index("") + 1 :][:4]
    assert [
        ["stage", "in", "out", "filtered", "retried", "quarantined", "p50 / p95", "busy"],
        ["claim", "-", "27,004", "-", "-", "-", "48 / 48 ms", "1.50 s", "#"],
        ["to_utc", "27,004", "25,804", "521", "3", "679", "-", "1 min 35 s", "#" * 20],
        ["-> flight", "25,804", "25,804", "-", "-", "-", "2.2 / 2.2 s", "0.25 s", "#"],
    ] == [[cell.strip() for cell in each.split("  ") if cell.strip()] for each in table]
    assert 1 == len({len(each.rstrip("# ")) for each in table}), "the last column of numbers is flush right"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([3e-6], "2.9 / 2.9 us"), ([2e-3, 40.0], "0.0 / 41 s"), ([0.0], "0.1 / 0.1 us"), ([0.9], "915 / 915 ms")],
)
def test_latencies_are_in_the_unit_that_suits_the_longer_one(seconds: list[float], expected: str) -> None:
    stage = StageCounts("sink", calls=histogram(list(seconds)))

    assert any(expected in each for each in report(run(), stages=[stage]))


def test_a_long_name_of_a_stage_does_not_push_the_table_off_the_screen() -> None:
    lines = report(run(), stages=[StageCounts("a" * 200, 10**6, 10**6, 10**6, 10**6, 10**6, 10**6)])

    assert all(len(each) <= 125 for each in lines)


# Books


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (JANUARY, "books balance: 27,004 claimed = 25,804 written + 521 filtered + 679 quarantined"),
        (Counts(), "books balance: 0 claimed = 0"),
        (
            Counts(claimed=6, written=1, filtered=1, quarantined=1, deferred=1, released=1, vanished=1),
            "books balance: 6 claimed = 1 written + 1 filtered + 1 quarantined + 1 deferred + 1 released + 1 vanished",
        ),
        (Counts(claimed=5, written=3), "BOOKS DO NOT BALANCE: 5 claimed = 3 written, +2 unaccounted for"),
        (Counts(claimed=3, written=4), "BOOKS DO NOT BALANCE: 3 claimed = 4 written, -1 unaccounted for"),
    ],
)
def test_the_books_are_shown_and_say_so_when_they_do_not_balance(counts: Counts, expected: str) -> None:
    assert expected in [each.strip() for each in report(run(counts=counts))]


def test_books_of_a_run_in_progress_are_not_called_unbalanced() -> None:
    lines = report(run(RunState.running, counts=Counts(claimed=2_000, written=900, filtered=100)))

    assert "books so far: 2,000 claimed, 1,000 accounted for" == line(lines, "books")


@pytest.mark.parametrize(
    ("batches", "duration", "expected"),
    [(28, 2.0, "13,502 rows/s in 28 batches"), (1, 0.5, "54,008 rows/s in 1 batch")],
)
def test_the_rate_is_rows_claimed_by_the_clock_on_the_wall(batches: int, duration: float, expected: str) -> None:
    assert expected in [
        each.strip() for each in report(run(counts=replace(JANUARY, batches=batches), duration_s=duration))
    ]


@pytest.mark.parametrize(("counts", "duration"), [(Counts(), 2.0), (JANUARY, 0.0), (JANUARY, None)])
def test_without_rows_or_time_there_is_no_rate(counts: Counts, duration: float | None) -> None:
    assert "rows/s" not in "\n".join(report(run(counts=counts, duration_s=duration)))


# Errors and what to do about them


def test_rows_set_aside_are_shown_by_reason_with_the_commands_that_lead_on() -> None:
    lines = report(run(RunState.partial, counts=JANUARY), errors=[GROUP])

    assert "679  UnknownAirport in to_utc: no airport 'XYZ' (and 3 like it)" == line(lines, "679")
    assert [
        " next",
        "   etl quarantine flights --run 0190a1b2",
        "   etl replay flights --error UnknownAirport",
    ] == lines[-3:]


def test_what_has_been_settled_since_is_told_and_asks_for_nothing() -> None:
    some = report(run(RunState.partial), errors=[replace(GROUP, open_rows=9)])
    none = report(run(RunState.partial), errors=[replace(GROUP, open_rows=0)])

    assert line(some, "679").endswith("(and 3 like it) [670 settled since]")
    assert line(none, "679").endswith("(and 3 like it) [679 settled since]")
    assert (True, False) == (" next" in some, " next" in none)


def test_a_long_message_is_cut_so_that_its_line_still_fits() -> None:
    group = replace(GROUP, example="x" * 500, open_rows=9, frame="jobs/flights.py:33 in to_utc")

    told = line(report(run(), errors=[group]), "679")

    assert len(told) <= 120
    assert "x... (and 3 like it) [670 settled since]" in told


def test_what_a_server_names_at_the_end_of_a_long_message_is_on_a_second_line() -> None:
    refused = (
        'new row for relation "flight" violates check constraint "flight_leaves_before_it_lands"\nDETAIL:  Failing'
    )
    groups = [replace(GROUP, example=refused), replace(GROUP, example="x" * 500)]

    lines = report(run(), errors=groups)

    at = next(number for number, each in enumerate(lines) if "679" in each)
    assert lines[at].endswith("violates check constraint")
    assert '"flight_leaves_before_it_lands" DETAIL: Failing (and 3 like it)' == lines[at + 1].strip()
    assert [True, True, False] == ["x" * 50 in each for each in lines[at + 2 : at + 5]]
    assert lines[at + 3].endswith("x... (and 3 like it)")
    assert 120 >= max(map(len, lines))


def test_of_many_reasons_the_rest_is_counted_and_each_kind_is_replayed_by_one_command() -> None:
    groups = [replace(GROUP, error_type=f"Error{n // 2}", key=str(n)) for n in range(20)]

    lines = report(run(RunState.partial), errors=groups)

    assert 8 == sum(each.strip().startswith("679") for each in lines)
    assert "and 12 more kinds: see etl quarantine" == line(lines, "and")
    assert [f"etl replay flights --error Error{n}" for n in range(3)] == [
        each.strip() for each in lines if "replay" in each
    ]


@pytest.mark.parametrize("state", [RunState.failed, RunState.timed_out, RunState.cancelled])
def test_a_run_that_came_to_no_end_can_be_run_again(state: RunState) -> None:
    assert [" next", "   etl run flights"] == report(run(state))[-2:]


@pytest.mark.parametrize(
    "shown", [run(), run(RunState.crashed), run(RunState.queued), run(RunState.failed, trigger="replay")],
    ids=["succeeded", "crashed", "queued", "failed replay"],
)  # fmt: skip
def test_where_there_is_nothing_to_type_no_command_is_shown(shown: Run) -> None:
    assert " next" not in report(shown)


@pytest.mark.parametrize(
    ("name", "typed"),
    [("KeyError", "KeyError"), ("Bad; rm -rf", "'Bad; rm -rf'"), ("Bad\x1b[2J", "'Bad\\x1b[2J'")],
    ids=["plain", "with a space", "with an escape code"],
)
def test_a_command_is_one_that_can_be_pasted_whatever_an_error_is_called(name: str, typed: str) -> None:
    lines = report(run(RunState.partial), errors=[replace(GROUP, error_type=name)])

    assert f"   etl replay flights --error {typed}" == lines[-1]


def test_commands_begin_with_the_program_that_was_called() -> None:
    lines = render_report(RunReport(run(RunState.failed), [], []), program="python -m etl")

    assert "   python -m etl run flights" == lines[-1]


UNSAFE = {"Cc", "Cs"}  # control characters, half characters
BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
texts = st.text(st.characters() | st.sampled_from("\x1b\r\n\t\x00" + BIDIRECTIONAL), max_size=60)


@given(texts, texts, texts, texts)
def test_whatever_errors_and_names_hold_the_screen_stays_whole(name: str, kind: str, message: str, error: str) -> None:
    """Escape codes, line breaks and half characters come from users' data and must not reach a terminal as they are."""
    group = ErrorGroup(name, kind, message, messages=1, rows=1, open_rows=1, key="k")
    shown = run(RunState.failed, error_type="ValueError", error=error)

    lines = report(shown, stages=[StageCounts(name)], errors=[group])

    for each in lines:
        each.encode("utf-8")
        assert not UNSAFE & {unicodedata.category(character) for character in each}, repr(each)
        assert not set(BIDIRECTIONAL) & set(each), repr(each)
        assert each == each.rstrip()
