"""Settings about jobs as people write them: in three files and in variables, and what the commands make of them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from tests.kit import Project, eventually

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

JOBS = """
    from etl import BatchProcessingSource, CronTrigger, Pipeline, PostgresSink, PubSubTrigger

    def job(name, *triggers):
        source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'", batch_size=4)
        return Pipeline(name, source.on(*triggers), lambda context, row: {"id": row["id"]}, PostgresSink("dst"))

    copy = job("copy", CronTrigger("30 4 * * *", timezone="Europe/Prague"), PubSubTrigger("copies"))
    other = job("other", CronTrigger("@daily"))
"""
TABLES = """
    CREATE TABLE src (id bigint PRIMARY KEY, status text NOT NULL DEFAULT 'pending');
    CREATE TABLE dst (id bigint PRIMARY KEY);
    INSERT INTO src SELECT generate_series(1, 10)"""

FILES = {
    "etl.toml": '[pipeline.copy]\nschedule = "15 6 * * mon-fri"\nbatch_size = 500\n',
    "etl.ini": "[pipeline:copy]\nschedule = 15 6 * * mon-fri\nbatch_size = 500\n",
    "pyproject.toml": '[tool.etl.pipeline.copy]\nschedule = "15 6 * * mon-fri"\nbatch_size = 500\n',
}
SECTIONS = {"etl.toml": "[pipeline.copy]", "etl.ini": "[pipeline:copy]", "pyproject.toml": "[tool.etl.pipeline.copy]"}


@pytest.fixture
def offline(tmp_path: Path) -> Project:
    """A project whose database is nowhere."""
    project = Project(tmp_path, "postgresql://u:S3cret@127.0.0.1:1/nothing")
    project.write_job(JOBS)
    return project


@pytest.fixture
async def shop(project: Project, db: Db) -> Project:
    await db.execute(TABLES)
    project.write_job(JOBS)
    return project


async def in_thread(project: Project, *arguments: str, **env: str) -> Any:
    return await asyncio.to_thread(project.etl, *arguments, env=env)


@pytest.mark.parametrize("file", FILES)
def test_jobs_are_listed_as_settings_have_them_with_the_place_each_value_comes_from(
    offline: Project, file: str
) -> None:
    (offline.folder / file).write_text(FILES[file])
    origin, module = f"{file} {SECTIONS[file]}", "jobs/work.py:6"
    env = {"ETL_PIPELINE__COPY__MISSED": "none", "ETL_LEASE": "9s"}

    shown, told = offline.etl("jobs", "--verbose", env=env), offline.etl("jobs", "--verbose", "--json", env=env)

    assert (0, 0) == (shown.code, told.code), shown.err + told.err
    lines = shown.out.splitlines()
    assert "cron 15 6 * * mon-fri in Europe/Prague" in lines[1]
    assert f"settings file: {file}" in lines
    assert {"lease": "ETL_LEASE", "grace": "default", "database_url": "ETL_DATABASE_URL"} == {
        cells[0]: cells[-1]
        for line in lines[: lines.index("copy (jobs.work)")]
        if (cells := line.split()) and cells[0] in ("lease", "grace", "database_url")
    }
    block = lines[lines.index("copy (jobs.work)") + 1 :][:17]
    start = block[0].index(origin)
    assert {
        "schedule": ("15 6 * * mon-fri", origin),
        "timezone": ("Europe/Prague", module),
        "missed": ("none", "ETL_PIPELINE__COPY__MISSED"),
        "batch_size": ("500", origin),
        "enabled": ("true", "default"),
    }.items() <= {
        line.split()[0]: (line.split(maxsplit=1)[1][: start - len(line)].strip(), line[start:]) for line in block
    }.items()
    copy, other = told.json
    assert {"value": 500, "from": origin} == copy["settings"]["batch_size"]
    assert {"value": "none", "from": "ETL_PIPELINE__COPY__MISSED"} == copy["settings"]["missed"]
    assert {"value": "9s", "from": "ETL_LEASE"} == other["general"]["lease"]
    assert "S3cret" not in shown.out + told.out


@pytest.mark.parametrize("command", [("run", "copy"), ("worker",), ("jobs",), ("next",), ("check",)])
async def test_what_cannot_be_right_is_told_at_once_and_nothing_is_run(
    shop: Project, db: Db, command: tuple[str, ...]
) -> None:
    (shop.folder / "etl.ini").write_text("[pipeline:copi]\npool = x\n[pipeline:copy]\nbatchsize = 5\ntimeout = soon\n")

    result = await in_thread(shop, *command, ETL_PIPELINE__OTHER__TIMEZONE="Europe/Pragu")

    told = result.out + result.err
    assert 2 == result.code
    assert [] == [
        words
        for words in (
            "etl.ini [pipeline:copi]: there is no job 'copi' (did you mean copy?)",
            "etl.ini [pipeline:copy] batchsize: there is no key 'batchsize' (did you mean batch_size?)",
            "etl.ini [pipeline:copy] timeout: 'soon' is not a duration",
            "ETL_PIPELINE__OTHER__TIMEZONE: no time zone 'Europe/Pragu'",
        )
        if words not in told
    ], told
    assert 0 == await db.fetchval("SELECT count(*) FROM etl.run")
    assert 0 == await db.fetchval("SELECT count(*) FROM etl.worker")


async def test_a_run_takes_the_batch_size_that_settings_give(shop: Project, db: Db) -> None:
    (shop.folder / "etl.toml").write_text("[pipeline.copy]\nbatch_size = 5\n")

    run = (await in_thread(shop, "run", "copy", "--json")).json

    assert ("succeeded", 10, 2) == (run["status"], run["written"], run["batches"])


async def test_a_job_that_is_not_enabled_is_run_by_hand_only_and_that_is_said(shop: Project, db: Db) -> None:
    (shop.folder / "etl.toml").write_text("[pipeline.copy]\nenabled = false\n")
    worker = shop.start("worker")
    try:
        await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.worker WHERE stopped_at IS NULL"))

        published = await in_thread(shop, "publish", "copies")
        run = await in_thread(shop, "run", "copy", "--json")
    finally:
        worker.terminate()
        worker.communicate(timeout=30)

    assert "nobody wants it" in published.err
    assert (0, 10) == (run.code, run.json["written"])
    assert "copy is disabled (etl.toml [pipeline.copy]): its triggers ask for nothing" in run.err
    assert ["other"] == [row["job"] for row in await db.fetch("SELECT job FROM etl.schedule ORDER BY 1")]
    assert ["manual"] == [row["trigger"] for row in await db.fetch("SELECT trigger FROM etl.run")]


async def test_check_judges_the_job_as_settings_have_it(shop: Project) -> None:
    (shop.folder / "etl.toml").write_text('[pools]\napi = 2\n[pipeline.copy]\npool = "apj"\n')

    wrong = await in_thread(shop, "check", "--json")
    right = await in_thread(shop, "check", ETL_PIPELINE__COPY__POOL="api")
    (shop.folder / "etl.toml").write_text('[pools]\napi = 2\n[pipeline.copy]\npool = "api"\n')
    corrected = await in_thread(shop, "check")

    [fault] = json.loads(wrong.out)["faults"]
    assert fault.startswith("etl.toml [pipeline.copy] pool: there is no pool 'apj' (did you mean api?")
    assert (2, 2, 0) == (wrong.code, right.code, corrected.code), "a wrong value is one though another place wins"
