"""SIGTERM: what is in hand is finished or given back, within a grace time, and somebody else does the rest."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from etl.postgres.embedded.home import Home
from tests.battery import (
    JOB_HEAD,
    Db,
    begun,
    finished,
    job_on,
    lay_out,
    queue,
    running,
    runs,
    told,
    until,
    violations,
)
from tests.kit import Project
from tests.places import fast_place

# Each batch tells that it has begun, and goes on when the test says so.
PATIENT = (
    JOB_HEAD
    + """
@processor
async def work(context, row):
    Path(f"begun-{context.job}").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return {"id": row["id"], "token": context.batch_token}
"""
)
# A processor that hears of nothing and never returns.
DEAF = (
    JOB_HEAD
    + """
@processor
def work(context, row):
    Path(f"begun-{context.job}").touch()
    while True:
        wait_for("never")
"""
)


async def test_a_run_told_to_stop_finishes_the_batch_in_hand_and_takes_no_other(project: Project, db: Db) -> None:
    project.write_job(PATIENT + job_on("job"))
    await lay_out(db, 12)
    async with running(project, "run", "job", "--json") as process:
        await begun(project)

        process.send_signal(signal.SIGTERM)
        (project.folder / "go").touch()
        code, out, _ = await finished(process)

    facts = json.loads(out)
    assert (6, "cancelled") == (code, facts["status"])
    assert (4, 4, 0) == (facts["claimed"], facts["written"], facts["released"])
    assert 4 == await db.fetchval("SELECT count(*) FROM dst")
    assert 8 == await db.fetchval("SELECT count(*) FROM src WHERE status = 'pending'")
    assert await violations(db, at_rest=False) == []


async def test_a_run_told_twice_to_stop_gives_back_what_is_in_hand_at_once(project: Project, db: Db) -> None:
    """Nothing is lost: the rows are pending and nobody's, and the next run takes them without waiting for anything."""
    project.settings["lease"] = "30s"
    project.write_job(PATIENT + job_on("job"))
    await lay_out(db, 12)
    async with running(project, "run", "job", "--json") as process:
        await begun(project)

        process.send_signal(signal.SIGTERM)
        await told(process, "stopping")
        process.send_signal(signal.SIGTERM)
        code, out, _ = await finished(process)
    (project.folder / "go").touch()
    after = project.etl("run", "job", "--json")

    facts = json.loads(out)
    assert (6, "cancelled") == (code, facts["status"])
    assert (4, 0, 4) == (facts["claimed"], facts["written"], facts["released"])
    assert (0, 12) == (after.code, json.loads(after.out)["written"])
    assert await violations(db) == []


async def test_a_worker_told_to_stop_leaves_the_rest_to_another(project: Project, db: Db) -> None:
    """It finishes the batch in hand, ends its run and asks for one that goes on, which the other worker starts."""
    project.settings["lease"] = "30s"
    project.write_job(PATIENT + job_on("job"))
    await lay_out(db, 12)
    await queue(db, "job")
    async with running(project, "worker") as first:
        await begun(project)
        async with running(project, "worker") as second:
            await told(second, "worker")

            first.send_signal(signal.SIGTERM)
            await told(first, "stopping")
            (project.folder / "go").touch()
            code, _, _ = await finished(first)
            await until(db, "SELECT count(*) = 0 FROM etl.run WHERE ended_at IS NULL")

    assert 0 == code
    stopped, continued = await runs(db)
    assert ("cancelled", 4, 4) == (stopped["state"], stopped["claimed"], stopped["written"])
    assert ("succeeded", "continuation", 8) == (continued["state"], continued["trigger"], continued["written"])
    assert (stopped["run_id"], second.pid) == (continued["parent_id"], continued["pid"])
    assert await violations(db) == []


async def test_a_worker_told_twice_to_stop_gives_back_what_is_in_hand_at_once(project: Project, db: Db) -> None:
    project.settings |= {"lease": "30s", "grace": "30s"}
    project.write_job(PATIENT + job_on("job"))
    await lay_out(db, 4)
    await queue(db, "job")
    async with running(project, "worker") as worker:
        await begun(project)

        worker.send_signal(signal.SIGTERM)
        await told(worker, "stopping")
        worker.send_signal(signal.SIGTERM)
        code, _, _ = await finished(worker)

    assert 0 == code
    stopped, continued = await runs(db)
    assert ("cancelled", 4, 0, 4) == (stopped["state"], stopped["claimed"], stopped["written"], stopped["released"])
    assert ("queued", "continuation") == (continued["state"], continued["trigger"])
    assert ["released"] == [batch["state"] for batch in await db.fetch("SELECT state FROM etl.batch")]
    assert await violations(db, at_rest=False) == []


@pytest.mark.parametrize("command", [("run", "job"), ("worker",)], ids=["run", "worker"])
async def test_a_thread_that_hears_of_nothing_does_not_outlast_the_grace_time(
    project: Project, db: Db, command: tuple[str, ...]
) -> None:
    """The rows are given back, the run is ended, and the process goes although the processor never returns."""
    project.settings |= {"lease": "30s", "grace": "1s"}
    project.write_job(DEAF + job_on("job"))
    await lay_out(db, 8)
    if command == ("worker",):
        await queue(db, "job")
    async with running(project, *command) as process:
        await begun(project)

        process.send_signal(signal.SIGTERM)
        code, _, err = await finished(process, within=20)

    assert {("run", "job"): 6, ("worker",): 0}[command] == code
    assert "Traceback" not in err
    stopped = (await runs(db))[0]
    assert ("cancelled", 4, 4) == (stopped["state"], stopped["claimed"], stopped["released"])
    assert timedelta(seconds=1) <= stopped["ended_at"] - stopped["started_at"] < timedelta(seconds=10)
    assert await violations(db, at_rest=False) == []


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the account of an embedded server can reach, with a short name; the server is gone at the end."""
    made = Path(tempfile.mkdtemp(prefix="etl-", dir=fast_place()))
    made.chmod(0o711)
    yield made
    for root in made.glob(".etl"):
        Home.find(root).server.destroy()
    shutil.rmtree(made)


def lives(process: psutil.Process) -> bool:
    """Whether it still runs; one whose parent was killed may stay as a zombie."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def test_the_embedded_server_stops_when_its_last_user_leaves_and_not_when_one_is_killed(folder: Path) -> None:
    """Two workers of a project without any setting share a server that the first one makes."""
    project = Project(folder, "")
    project.write_job(PATIENT + job_on("job"))
    async with running(project, "worker") as first:
        await told(first, "worker")
        server = psutil.Process(int(next(folder.rglob("postmaster.pid")).read_text().split()[0]))
        async with running(project, "worker") as second:
            await told(second, "worker")

            first.send_signal(signal.SIGKILL)
            first.wait()
            alive_after_a_kill = lives(server)
            second.send_signal(signal.SIGTERM)
            code, _, _ = await finished(second)

    assert alive_after_a_kill
    assert 0 == code
    assert not lives(server)
