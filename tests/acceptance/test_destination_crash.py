"""A process that is killed between the COMMIT of another database and that of its own."""

from __future__ import annotations

import signal

from tests.battery import AT_ONCE, Db, lay_out, lost_run, running
from tests.conftest import Where
from tests.faults import FaultProxy
from tests.kit import Project

JOB = """
from etl import BatchProcessingSource, Pipeline, RemotePostgresSink, processor

@processor(inline=True)
def work(context, row):
    return {"id": row["id"], "token": context.batch_token}

job = Pipeline(
    "job",
    BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'", batch_size=4),
    work,
    RemotePostgresSink("there", dsn_env="WAREHOUSE_URL"),
)
"""


async def test_every_row_is_there_once_although_the_process_was_killed_between_the_commits(
    project: Project, db: Db, where: Where
) -> None:
    """The rows are there, and the statement that says so here never arrives. They come back in other pieces and under
    other tokens."""
    project.settings["lease"] = "1s"
    project.write_job(JOB)
    await lay_out(db, 8)
    await db.execute("CREATE TABLE there (id bigint, token uuid)")
    warehouse = {"WAREHOUSE_URL": where.dsn}
    async with FaultProxy(where.host, where.port, threaded=True) as proxy:
        own = {"ETL_DATABASE_URL": proxy.dsn(where.user, where.database)}
        completing = proxy.hold(AT_ONCE)
        async with running(project, "run", "job", env=own | warehouse) as victim:
            await completing.reached()
            written = await db.fetchval("SELECT count(*) FROM there")
            victim.send_signal(signal.SIGKILL)
            await lost_run(db)

    heir = project.etl("run", "job", "--json", env=warehouse)

    assert (0, 4) == (heir.code, written), heir.err
    assert ("succeeded", 8, 8) == (heir.json["status"], heir.json["claimed"], heir.json["written"])
    assert [*range(1, 9)] == [row["id"] for row in await db.fetch("SELECT id FROM there ORDER BY id")]
    assert 0 == await db.fetchval("SELECT count(*) FROM src WHERE status <> 'done'")
    assert where.dsn not in heir.err + heir.out
