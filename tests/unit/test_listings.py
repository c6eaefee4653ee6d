"""Lists as golden files at 80 and 120 columns; on a narrower screen columns go, in a pipe nothing does.

A list that changed on purpose is written anew by: GOLDEN=write ./dev test tests/unit/test_listings.py
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from uuid import UUID

import pytest

from etl.cli.viewing import issue_row
from etl.reports.listings import FIRE_TIMES, JOBS, QUARANTINE, RUNS, TICKS, Listing
from tests.unit.test_report_screens import GOLDEN

REASON = "run 0197c41e of orders-geocode is running since 2024-02-29 04:30:00 UTC on box (pid 7)"
LISTS: dict[str, tuple[Listing, list[list[str]]]] = {
    "runs": (
        RUNS,
        [
            ["0197c41e", "orders-geocode", "partial", "cron", "2024-02-29 04:30:00", "2 min 12 s", "12,400", "12,310",
             "33", "..p..F..Cx..p..r...p"],
            ["0197c41d", "flights", "timed_out", "PubSubTrigger", "2024-02-29 04:25:00", "10 min 00 s", "1,827,004",
             "1,825,804", "1,200", "....................."],
            ["0197c41c", "orders-geocode", "succeeded", "cron", "2024-02-29 04:20:00", "0.42 s", "0", "0", "0", ""],
        ],
    ),
    "jobs": (
        JOBS,
        [
            ["orders-geocode", "orders_inbox", "order", "*/5 * * * *; orders.arrived", "2024-02-29 04:35:00"],
            ["invoices-and-reminders", "billing.invoice_to_send", "a sink of one's own",
             "0 6 1-7 * mon Europe/Prague; every 90 s between 06:00 and 22:00", "2024-03-04 05:00:00"],
            ["by-hand", "a query", "pprint", "by hand", "-"],
        ],
    ),
    "quarantine": (
        QUARANTINE,
        [
            ["4711", "orders-geocode", "TimeoutError", "geocode", "5", "2024-02-29 04:30:00", "0197c41e",
             "upstream did not answer within thirty seconds, and neither did the other one"[:70]],
            ['["cz", "2024-02-29", "Masarykova 12, Brno"]'[:40], "invoices-and-reminders", "NotNullViolationError",
             "-> order", "1", "2024-02-28 23:59:59", "0197c41d", "null value in column \u202e\"street\"\nof relation"],
        ],
    ),
    "ticks": (
        TICKS,
        [
            ["2024-02-29 04:35:00", "orders-geocode", "cron", "skipped_overlap", "-", REASON],
            ["2024-02-29 04:30:00", "orders-geocode", "cron", "ran", "0197c41e", ""],
        ],
    ),
    "fire-times": (
        FIRE_TIMES,
        [
            ["Sun 2024-03-31 03:30:00 CEST", "2024-03-31 01:30:00", "orders-geocode", "cron", "clocks go forward on this day"],
            ["Mon 2024-04-01 03:30:00 CEST", "2024-04-01 01:30:00", "orders-geocode", "cron", ""],
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_as_it_was_agreed_and_fits(name: str, width: int) -> None:
    listing, rows = LISTS[name]

    lines = listing.lines(rows, width)

    shown = "\n".join(lines) + "\n"
    golden = GOLDEN / f"{name}-{width}.txt"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(shown, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == shown
    assert [] == [line for line in lines if len(line) > width]


@pytest.mark.parametrize("width", range(20, 160, 7))
@pytest.mark.parametrize("name", LISTS)
def test_a_list_fits_any_width_and_keeps_its_first_column(name: str, width: int) -> None:
    listing, rows = LISTS[name]

    lines = listing.lines(rows, width)

    assert len(rows) + 1 == len(lines)
    assert [] == [line for line in lines if len(line) > width]
    assert all(line.startswith(("...", row[0][:4], row[0][5:9])) for line, row in zip(lines[1:], rows, strict=True))


@pytest.mark.parametrize("name", LISTS)
def test_without_a_screen_nothing_is_cut(name: str) -> None:
    listing, rows = LISTS[name]

    lines = listing.lines(rows, None)

    for header in listing.header:
        assert header in lines[0]
    for line, row in zip(lines[1:], rows, strict=True):
        assert row[0] in line
        assert "..." not in line or "..." in "".join(row)


def test_of_the_recent_runs_the_newest_are_kept() -> None:
    listing, rows = LISTS["runs"]

    lines = listing.lines(rows, 125)

    assert lines[1].endswith("..p..r...p")
    assert len(lines[1]) <= 125


def test_a_list_of_rows_set_aside_has_the_name_at_the_end_of_a_servers_message() -> None:
    refused = (
        'new row for relation "flight" violates check constraint "flight_leaves_before_it_lands"\nDETAIL:  Failing'
    )
    issue = {"key": ["7"], "job": "flights", "error_type": "CheckViolationError", "stage": "-> flight", "attempts": 1}
    issue |= {"opened_at": datetime(2024, 2, 29, tzinfo=UTC), "run_id": UUID(int=7)}

    whole, long = (issue_row({**issue, "message": message})[-1] for message in (refused, "x" * 500))

    assert " ".join(refused.split()) == whole
    assert "x" * 197 + "..." == long
