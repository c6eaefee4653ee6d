"""A report as text: it keeps to the terminal it is shown on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from etl.core.counts import Counts
from etl.core.report import RunReport, verdict
from etl.core.run import Run, RunState
from etl.reports.terminal import render_report

STARTED = datetime(2013, 1, 31, 5, tzinfo=UTC)


def run(claimed: int = 10, limit: int | None = None) -> Run:
    """A run of the cron trigger with everything there is to say about it."""
    return Run(
        UUID(int=7), "flights", "cron", RunState.succeeded, scheduled_for=STARTED, started_at=STARTED,
        ended_at=STARTED + timedelta(seconds=2), duration_s=2.0, trace_id="f" * 32, row_limit=limit,
        host="a-rather-long-name-of-a-host", pid=4_194_304, counts=Counts(claimed=claimed, written=claimed),
    )  # fmt: skip


@pytest.mark.parametrize("width", [70, 80, 100])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = render_report(RunReport(run(), [], []), width=width)

    assert not [line for line in lines if len(line) > width]
    told = " ".join(lines)
    assert "cron, scheduled for 2013-01-31 05:00:00 UTC, started 2013-01-31 05:00:00 UTC, took 2.00 s, on a-" in told
    assert "(pid 4194304), trace ffffffff" in told


def test_a_run_that_ended_at_its_limit_says_so() -> None:
    limited, below, unlimited = (verdict(run(10, limit)) for limit in (10, 11, None))

    assert "Finished: 10 of 10 rows written; ended at its limit of 10." == limited
    assert "Finished: 10 of 10 rows written." == below == unlimited
