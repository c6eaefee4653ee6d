"""Facts of a run in words and in JSON: how long rows had waited, what it took, and whose time it was."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from etl.core.backlog import Backlog, estimated
from etl.core.blocker import Blocker
from etl.core.report import waited, waited_at_most
from etl.core.run import Run, RunState
from etl.core.spent import SPENT
from etl.reports.facts import run_facts, skipped_facts
from etl.reports.words import backlog_of, took, when
from etl.runtime.accounts import Accounts

STARTED = datetime(2024, 2, 29, 4, 30, tzinfo=UTC)
RUN = Run(UUID(int=1), "job", "cron", RunState.succeeded, started_at=STARTED, backlog_before=Backlog(1_200))
EARLIER = replace(RUN, run_id=UUID(int=2), started_at=STARTED - timedelta(minutes=5))


def after(seconds: float, **changes: Any) -> Run:
    """A former run that began so long before."""
    return replace(EARLIER, started_at=STARTED - timedelta(seconds=seconds), **changes)


@pytest.mark.parametrize(
    ("former", "expected"),
    [
        ([], None),
        ([after(600), after(300)], 300.0),
        ([after(100, state=RunState.failed), after(300)], 300.0),
        ([after(100, row_limit=10), after(300)], 300.0),
        ([after(100, trigger="replay"), after(300, state=RunState.partial)], 300.0),
        ([after(-5)], None),
    ],
    ids=["none", "the last", "not a failed one", "nor a limited one", "nor a replay", "nor a later one"],
)
def test_no_row_can_have_waited_longer_than_since_the_last_run_that_went_through_all(
    former: list[Run], expected: float | None
) -> None:
    assert expected == waited_at_most(RUN, former)


def test_where_nothing_was_pending_nothing_had_waited() -> None:
    assert None is waited_at_most(replace(RUN, backlog_before=Backlog(0)), [EARLIER])
    assert None is waited_at_most(replace(RUN, backlog_before=None), [EARLIER])


@pytest.mark.parametrize(
    ("before", "behind", "expected"),
    [
        (Backlog(1_200, oldest_at=STARTED - timedelta(seconds=90)), Backlog(0),
         "1,200 before, 0 after; the oldest had waited 1 min 30 s"),
        (Backlog(1_200, oldest_at=STARTED + timedelta(seconds=90)), None,
         "1,200 before; the oldest had waited 0.00 s"),
        (Backlog(200_000, exact=False), Backlog(3),
         "about 200,000 before, 3 after; none had waited longer than 5 min 00 s, unless set aside"),
        (Backlog(0), Backlog(0), "0 before, 0 after"),
        (None, None, None),
    ],
    ids=["known", "not due yet", "estimated", "nothing", "no table"],
)  # fmt: skip
def test_the_backlog_is_told_as_it_is_known(
    before: Backlog | None, behind: Backlog | None, expected: str | None
) -> None:
    run = replace(RUN, backlog_before=before, backlog_after=behind)

    assert expected == backlog_of(run, [EARLIER])


def test_rows_wait_from_the_first_ones_time_on() -> None:
    assert 90.0 == waited(replace(RUN, backlog_before=Backlog(1, oldest_at=STARTED - timedelta(seconds=90))))
    assert None is waited(RUN)


def test_an_estimate_is_never_less_than_what_was_counted() -> None:
    counted = Backlog(100_001, oldest_at=STARTED)

    assert Backlog(100_001, exact=False, oldest_at=STARTED) == estimated(counted, 12.0)
    assert Backlog(700_000, exact=False, oldest_at=STARTED) == estimated(counted, 7e5)
    assert Backlog(100_001, exact=False, oldest_at=STARTED) == estimated(counted, None)
    assert (Backlog(12, exact=False), None) == (estimated(None, 12.0), estimated(None, None))
    assert Backlog(12, exact=False, oldest_at=STARTED) == estimated(None, 12.0, STARTED)


def test_what_a_run_took_is_told_as_far_as_it_is_known() -> None:
    known = replace(RUN, database_s=1.5, peak_memory_bytes=84_000_000, code_version="git:3f9c2ab1d2e4")

    assert "1.50 s in transactions, 84 MB of memory at most, code git:3f9c2ab1d2e4" == took(known)
    assert "84 MB of memory at most" == took(replace(RUN, peak_memory_bytes=84_000_000))
    assert None is took(RUN)


@pytest.mark.parametrize(("late", "said"), [(0.9, ""), (1.0, " (1.00 s late)"), (90.0, " (1 min 30 s late)")])
def test_a_run_is_late_from_a_second_on(late: float, said: str) -> None:
    run = replace(RUN, scheduled_for=STARTED - timedelta(seconds=late), parent_id=UUID(int=5 << 96))

    told = when(run)

    assert f"started 2024-02-29 04:30:00 UTC{said}" == told[2]
    assert "after run 00000005" == told[-1]
    assert late == run_facts(run)["lateness_s"]


def test_a_skipped_run_has_the_same_keys_in_the_same_order() -> None:
    blocker = Blocker(UUID(int=9), "job", RunState.running, STARTED, None, None, lost=False, waiting=timedelta())

    assert [*run_facts(RUN), "blocked_by"] == list(skipped_facts("job", blocker))


async def test_each_run_of_a_process_has_its_own_account() -> None:
    """Tasks that a run begins spend for it, and others for nobody."""

    async def spend(seconds: float) -> None:
        await asyncio.sleep(0)
        if (spent := SPENT.get()) is not None:
            spent.database_s += seconds

    async def drive(seconds: float) -> float | None:
        accounts = Accounts()
        with accounts.open():
            await asyncio.gather(spend(seconds), asyncio.create_task(spend(seconds)))
        await spend(100.0)
        return (await accounts.close()).database_s

    assert (2.0, 8.0) == tuple(await asyncio.gather(drive(1.0), drive(4.0)))
