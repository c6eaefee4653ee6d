"""A worker as it is: what it watches and tells of, while a run goes on that knows nothing of it."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import asyncpg

from tests.kit import Project, eventually

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

JOBS = """
    import asyncio, json, pathlib, time
    from etl import PeriodicTrigger, Pipeline, PPrintSink, RunOnceTrigger, TriggerSource

    def tell(event):
        with open("told", "a") as told:
            told.write(json.dumps([event.kind, event.job, str(event.run_id), event.text]) + "\\n")

    def hang(event):
        time.sleep(1000)

    class Waits(TriggerSource):
        async def cycle(self, **kwargs):
            while not pathlib.Path("go").exists():
                await asyncio.sleep(0.05)

    class Fails(TriggerSource):
        async def cycle(self, **kwargs):
            raise ValueError("no luck")

    slow = Pipeline("slow", Waits().on(RunOnceTrigger()), PPrintSink(), finish_within="500ms", on_event=tell)
    stuck = Pipeline("stuck", Fails().on(RunOnceTrigger()), PPrintSink(), on_event=hang)
"""


async def test_a_run_is_told_of_as_late_while_it_goes_on_and_a_function_that_hangs_keeps_nobody(
    project: Project, db: Db
) -> None:
    project.write_job(JOBS)
    worker = project.start("worker")
    try:
        (late,) = await eventually(lambda: told(project, 1))
        state = await db.fetchval("SELECT state FROM etl.run WHERE run_id = $1::text::uuid", late[2])
        (project.folder / "go").touch()
        _, over = await eventually(lambda: told(project, 2))
        failed = await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.run WHERE state = 'failed'"))
        worker.terminate()
        _, err = worker.communicate(timeout=30)
    finally:
        worker.kill()
        worker.communicate()

    assert ("late", "slow", "running") == (*late[:2], state)
    assert ("recovered", "slow", late[2]) == tuple(over[:3])
    assert 1 == failed
    assert 0 == worker.returncode, err
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert [("episode.opened", "late"), ("episode.closed", "late")] == [
        (line["event"], line["kind"]) for line in lines if line.get("job") == "slow" and "kind" in line
    ]


async def told(project: Project, number: int) -> list[Any]:
    """What the function was told so far; nothing while that is less than so much."""
    path = project.folder / "told"
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return events if len(events) >= number else []
