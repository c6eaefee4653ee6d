"""A process that is stopped for longer than its lease, and then goes on as if nothing had happened."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.battery import (
    AT_ONCE,
    JOB_HEAD,
    Db,
    at,
    finished,
    in_turn,
    lay_out,
    lost_run,
    resume,
    running,
    runs,
    states,
    stop,
    violations,
)
from tests.conftest import Where
from tests.faults import FaultProxy
from tests.kit import Project

WRITES = (
    JOB_HEAD
    + """
@processor(inline=True)
def work(context, row):
    return {"id": row["id"], "token": context.batch_token}

job = Pipeline("job", source(), work, PostgresSink("dst"))
"""
)
RENEWAL = at("renew_runs")
CLAIM = at("lock_run_and_source")
LAST_OF_CLAIM = at("insert_batch")
COMPLETION = at("lock_batch")
LAST_OF_COMPLETION = at("complete_batch")


@pytest.fixture
async def proxy(where: Where) -> AsyncIterator[FaultProxy]:
    """What the first process talks to the server through."""
    async with FaultProxy(where.host, where.port, threaded=True) as proxy:
        yield proxy


@pytest.fixture
def through_proxy(proxy: FaultProxy, where: Where) -> dict[str, str]:
    """The environment of the first process."""
    return {"ETL_DATABASE_URL": proxy.dsn(where.user, where.database)}


@pytest.fixture
def zombies(project: Project) -> Project:
    """A project with a short lease."""
    project.settings["lease"] = "1s"
    project.write_job(WRITES)
    return project


async def take_over(project: Project) -> dict[str, Any]:
    """Run the job to its end in another process, which meets the run that looks dead."""
    result = await asyncio.to_thread(project.etl, "run", "job", "--json")
    assert result.code == 0, result.err
    return dict(json.loads(result.out))


def verdict(out: str) -> tuple[str, str]:
    """How a run says that it ended."""
    facts = json.loads(out)
    return facts["status"], facts["error"].split(":")[0]


@pytest.mark.parametrize("completion", [AT_ONCE, COMPLETION], ids=["at once", "in turn"])
async def test_a_zombie_is_refused_the_completion_of_its_batch(
    zombies: Project, db: Db, proxy: FaultProxy, through_proxy: dict[str, str], completion: str
) -> None:
    """It was stopped with a processed batch in hand, and completing that is the first thing it tries."""
    await lay_out(db, 8)
    if completion == COMPLETION:
        await in_turn(db)
    completing = proxy.hold(completion)
    async with running(zombies, "run", "job", "--json", env=through_proxy) as zombie:
        await completing.reached()
        stop(zombie)
        await lost_run(db)

        heir = await take_over(zombies)
        renewing = proxy.hold(RENEWAL, every=True)
        resume(zombie)
        completing.release()
        code, out, err = await finished(zombie)
        renewing.release()

    assert (8, 8) == (heir["claimed"], heir["written"])
    assert (4, ("crashed", "LeaseExpired")) == (code, verdict(out))
    assert re.search("run failed: batch .* is replaced", err)
    closings = await db.fetch("SELECT status FROM etl.span WHERE name = 'etl.run' AND failed")
    assert ["LeaseExpired"] == [row["status"].split(":")[0] for row in closings], "closed once, by who ended the run"
    assert await violations(db) == []


async def test_a_zombie_is_refused_its_next_claim(
    zombies: Project, db: Db, proxy: FaultProxy, through_proxy: dict[str, str]
) -> None:
    """It was stopped between two batches: there is nothing to take over from it, and no row may go to it any more."""
    await lay_out(db, 8)
    claiming = proxy.hold(CLAIM, nth=2)
    async with running(zombies, "run", "job", "--json", env=through_proxy) as zombie:
        await claiming.reached()
        stop(zombie)
        await lost_run(db)

        heir = await take_over(zombies)
        await db.execute("INSERT INTO src (id) VALUES (9)")
        renewing = proxy.hold(RENEWAL, every=True)
        resume(zombie)
        claiming.release()
        code, out, err = await finished(zombie)
        renewing.release()

    assert (4, 4) == (heir["claimed"], heir["written"])
    assert (4, ("crashed", "LeaseExpired")) == (code, verdict(out))
    assert re.search("run failed: run .* is not running here any more", err)
    assert await db.fetchval("SELECT status FROM src WHERE id = 9") == "pending"
    assert await violations(db, at_rest=False) == []


async def test_a_zombie_is_refused_the_renewal_of_its_lease_and_drops_its_work(
    zombies: Project, db: Db, proxy: FaultProxy, through_proxy: dict[str, str]
) -> None:
    """What it had sent already reaches the server only when it is gone, and changes nothing."""
    await lay_out(db, 8)
    completing = proxy.hold(AT_ONCE)
    async with running(zombies, "run", "job", "--json", env=through_proxy) as zombie:
        await completing.reached()
        stop(zombie)
        await lost_run(db)

        heir = await take_over(zombies)
        ended = [dict(run) for run in await runs(db)]
        resume(zombie)
        code, out, err = await finished(zombie)
        completing.release()

    assert (8, 8) == (heir["claimed"], heir["written"])
    assert (4, ("crashed", "LeaseExpired")) == (code, verdict(out))
    assert "LeaseExpired" in err
    assert ended == [dict(run) for run in await runs(db)]
    assert await violations(db) == []


@pytest.mark.parametrize("inside", [LAST_OF_COMPLETION, LAST_OF_CLAIM], ids=["completion", "claim"])
async def test_a_zombie_stopped_inside_a_transaction_holds_nobody_up_and_its_effects_are_undone(
    zombies: Project, db: Db, proxy: FaultProxy, through_proxy: dict[str, str], inside: str
) -> None:
    """All is done but COMMIT when it stops, with the batch, its rows and their results (or the source) locked. The
    server ends the idle transaction; until then nobody may take over.
    """
    await lay_out(db, 8)
    await in_turn(db)
    committing = proxy.hold(inside, after=True)
    async with running(zombies, "run", "job", "--json", env=through_proxy) as zombie:
        await committing.reached()
        stop(zombie)
        await lost_run(db)

        heir = await take_over(zombies)
        resume(zombie)
        committing.release()
        code, out, _ = await finished(zombie)

    assert (8, 8) == (heir["claimed"], heir["written"])
    assert (4, ("crashed", "LeaseExpired")) == (code, verdict(out))
    assert ["crashed", "succeeded"] == await states(db)
    assert await violations(db) == []


async def test_a_process_stopped_for_less_than_its_lease_goes_on(
    project: Project, db: Db, proxy: FaultProxy, through_proxy: dict[str, str]
) -> None:
    """Nobody judges by a missing heartbeat, only by a lease that is over."""
    project.settings["lease"] = "10s"
    project.write_job(WRITES)
    await lay_out(db, 8)
    completing = proxy.hold(AT_ONCE)
    async with running(project, "run", "job", "--json", env=through_proxy) as sleeper:
        await completing.reached()
        stop(sleeper)
        other = await asyncio.to_thread(project.etl, "run", "job", "--json")

        resume(sleeper)
        completing.release()
        code, _, _ = await finished(sleeper)

    assert (7, 0) == (other.code, code)
    assert ["succeeded"] == await states(db)
    assert await violations(db) == []
