"""Bad input gets a clear error naming job, setting and remedy, exit code 2, and changes nothing."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import asyncpg
import psycopg
import pytest

from etl import BatchProcessingSource, ConfigurationError, EtlError, Pipeline, PostgresSink, PPrintSink
from etl.app import Application, HandControls, connection_settings
from etl.config import Settings
from etl.core.sink import Sink
from etl.postgres.database import Database
from etl.postgres.embedded import EmbeddedServer
from tests.conftest import PATIENT, Where
from tests.kit import NoTracing, Project
from tests.places import fast_place

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TABLES = """
    CREATE TABLE src (id bigint PRIMARY KEY, v text, other bigint, status text NOT NULL DEFAULT 'pending');
    CREATE TABLE dst (id bigint PRIMARY KEY, v text, other bigint, status text);
    CREATE UNIQUE INDEX ON src (other);
    INSERT INTO src SELECT g, 'v' || g, g FROM generate_series(1, 5) g;
    CREATE VIEW a_view AS SELECT * FROM src;
    CREATE MATERIALIZED VIEW kept AS SELECT * FROM src;
    CREATE SEQUENCE counter;
    CREATE TABLE no_key (k int NOT NULL, status text);
    CREATE TABLE key_json (k jsonb PRIMARY KEY, status text);
    CREATE TABLE key_float (k float8 PRIMARY KEY, status text);
    CREATE TABLE key_partial (k int NOT NULL, status text);
    CREATE UNIQUE INDEX ON key_partial (k) WHERE k > 1;
    CREATE TABLE key_deferrable (k int NOT NULL UNIQUE DEFERRABLE, status text);
    CREATE TABLE key_invalid (k int NOT NULL, status text);
    CREATE UNIQUE INDEX key_invalid_index ON key_invalid (k);
    UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'key_invalid_index'::regclass;
    CREATE TABLE key_collated (k text NOT NULL, status text);
    CREATE UNIQUE INDEX ON key_collated (k COLLATE "POSIX");
    CREATE TABLE key_mixed (a int NOT NULL, b int NOT NULL, status text);
    CREATE UNIQUE INDEX ON key_mixed (a, b DESC);
    CREATE TABLE parent (k int PRIMARY KEY, status text);
    CREATE TABLE child () INHERITS (parent);
    CREATE TABLE generated (id bigint PRIMARY KEY, done boolean GENERATED ALWAYS AS (id > 3) STORED)"""

NASTY = 'src"; DROP TABLE src; --'
LONG = "x" * 100


@dataclass(frozen=True)
class Wrong:
    """A job that cannot work: what is wrong with it, as the fault must name it."""

    setting: str
    problem: str
    remedy: str
    pipeline: Pipeline


def job(
    setting: str, problem: str, remedy: str, /, table: str = "src", sink: Sink | None = None, **options: Any
) -> Wrong:
    given = {"pending": "status = 'pending'", "done": "status = 'done'"} | options
    return Wrong(setting, problem, remedy, Pipeline("bad", BatchProcessingSource(table, **given), sink or PPrintSink()))


# fmt: off
WRONG = {
    "unknown table": job("table", "no table 'scr'", "did you mean 'src'?", "scr"),
    "unknown schema": job("table", "no table 'nowhere.src'", "catalog", "nowhere.src"),
    "table named as SQL": job("table", f"no table {NASTY!r}", "catalog", NASTY),
    "table in capitals": job("table", "no table 'SRC'", "did you mean 'src'?", "SRC"),
    "quoted table": job("table", "no table '\"src\"'", "did you mean 'src'?", '"src"'),
    "long table": job("table", f"no table '{LONG[:80]}", "catalog", LONG),
    "long table with dots": job("table", "no table ", "catalog", ".".join([LONG, LONG])),
    "dots only": job("table", "no table '...'", "catalog", "..."),
    "table with newlines": job("table", "no table 'src\\n; DROP TABLE src'", "catalog", "src\n; DROP TABLE src"),
    "view": job("table", "'a_view' is a view", "query=", "a_view"),
    "materialized view": job("table", "'kept' is a materialized view", "query=", "kept"),
    "sequence": job("table", "'counter' is a sequence", "name the table", "counter"),
    "index": job("table", "'src_pkey' is an index", "name the table", "src_pkey"),
    "system table": job("key", "of type oid has no order", "bigint", "pg_class"),
    "unknown key": job("key", "table public.src has no column 'idd'", "did you mean 'id'?", key="idd"),
    "key named as SQL": job("key", f"has no column {NASTY!r}", "it has id, v, other, status", key=NASTY),
    "key with NUL": job("key", "has no column 'i\\x00d'", "did you mean 'id'?", key="i\x00d"),
    "key with a surrogate": job("key", "has no column 'a\\udc80'", "it has id", key="a\udc80"),
    "long key": job("key", f"has no column '{LONG}'", "it has id", key=LONG),
    "half of a composite key": job("key", "no unique index on (a)", "CREATE UNIQUE INDEX", "key_mixed", key="a"),
    "nullable key": job("key", "column 'other' may be null", "SET NOT NULL", key="other"),
    "json key": job("key", "column 'k' of type jsonb has no order", "use a column of a type such as bigint", "key_json"),
    "float key": job("key", "column 'k' of type float8 has no order", "use a column of a type", "key_float"),
    "no key": job("key", "table public.no_key has no primary key", "give key=", "no_key"),
    "no unique index": job("key", "no unique index on (k)", "CREATE UNIQUE INDEX", "no_key", key="k"),
    "partial index": job("key", "the unique index on (k) is partial", "CREATE UNIQUE", "key_partial", key="k"),
    "deferrable index": job("key", "the unique index on (k) is deferrable", "CREATE", "key_deferrable", key="k"),
    "invalid index": job("key", "the unique index on (k) is not valid", "CREATE", "key_invalid", key="k"),
    "other collation": job("key", "is not in the columns' plain order", "CREATE", "key_collated", key="k"),
    "mixed directions": job("key", "is not in the columns' plain order", "CREATE", "key_mixed", key=("a", "b")),
    "inheritance": job("key", "has inheritance children", "partitions", "parent"),
    "unknown column in pending": job("pending", 'column "statuss" does not exist', "src.status", pending="statuss = 1"),
    "syntax of pending": job("pending", "syntax error", "write a condition", pending="status ="),
    "two statements in pending": job("pending", "syntax error", "condition", pending="true; DROP TABLE dst; --"),
    "unclosed comment": job("pending", "unterminated", "write a condition", pending="true /*"),
    "parameter in pending": job("pending", "contains a parameter", "write the value", pending="id = $1"),
    "type of pending": job("pending", "must be type boolean", "write a condition", pending="'yes' || v"),
    "unknown column in done": job("done", 'column "stat" of relation "src" does not exist', "catalog", done="stat = 1"),
    "syntax of done": job("done", "syntax error", "write a SET list", done="status"),
    "two statements in done": job("done", "syntax error", "SET list", done="status = 'x'; DROP TABLE dst; --"),
    "done sets the key": job("done", "sets 'id', a column of the key", "keeps its key", done="status = 'x', id = 4"),
    "done sets a generated column": job("done", 'column "done" can only be updated to DEFAULT', "SET list", "generated",
                                        pending="NOT done", done="done = true"),
    "parameter in done": job("done", "contains a parameter", "write the value", done="status = $9"),
    "unknown column in failed": job("failed", 'column "nope" of relation', "catalog", failed="nope = 1"),
    "failed sets the key": job("failed", "sets 'id', a column of the key", "keeps its key", failed="id = -id"),
    "query of an unknown table": job("query", 'relation "nowhere" does not exist', "catalog", query="TABLE nowhere"),
    "query that is no SELECT": job("query", "syntax error", "SELECT", query="DELETE FROM src RETURNING id"),
    "query that writes": job("query", "data-modifying", "SELECT", query="WITH d AS (DELETE FROM src RETURNING *) TABLE d"),
    "two queries": job("query", "syntax error", "SELECT", query="TABLE src; DROP TABLE src"),
    "query without the key": job("query", "does not give the key 'id'", "SELECT list", query="SELECT v FROM src"),
    "query with a column twice": job("query", "gives 'id' more than once", "once", query="SELECT id, id FROM src"),
    "parameter in query": job("query", "contains a parameter", "the value", query="SELECT id FROM src WHERE id = $3"),
    "unknown sink": job("sink", "no table 'dest'", "did you mean 'dst'?", sink=PostgresSink("dest")),
    "sink named as SQL": job("sink", f"no table {NASTY!r}", "catalog", sink=PostgresSink(NASTY)),
    "sink with NUL": job("sink", "no table 'd\\x00st'", "catalog", sink=PostgresSink("d\x00st")),
    "sink with a surrogate": job("sink", "no table 'd\\ud800st'", "catalog", sink=PostgresSink("d\ud800st")),
    "view as sink": job("sink", "'a_view' is a view", "name the table", sink=PostgresSink("a_view")),
    "unknown sink key": job("sink key", "has no column 'idd'", "did you mean 'id'?", sink=PostgresSink("dst", key="idd")),
    "sink key as SQL": job("sink key", f"has no column {NASTY!r}", "it has", sink=PostgresSink("dst", key=NASTY)),
    "sink key not unique": job("sink key", "no unique index on (v)", "CREATE", sink=PostgresSink("dst", key="v")),
}
# fmt: on


@pytest.fixture
async def application(db: Db, database: Database) -> Application:
    await db.execute("SET allow_system_table_mods = on;" + TABLES)
    return Application(Settings(lease=PATIENT), database, NoTracing())


def everything(dsn: str) -> list[tuple[Any, ...]]:
    """What is in a database: each relation with its columns, each row of each table, each function and privilege."""
    with psycopg.connect(dsn) as connection:
        relations = connection.execute("""
            SELECT c.oid::regclass::text, c.relkind::text, c.relacl::text,
                   array_agg(a.attname || ' ' || a.atttypid::regtype || ' ' || a.attnotnull ORDER BY a.attnum)::text
              FROM pg_class c
              JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname IN ('public', 'etl')
              LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
             GROUP BY c.oid
             ORDER BY 1""").fetchall()
        tables = [name for name, kind, *_ in relations if kind == "r"]
        rows = [
            (name, *connection.execute(f"SELECT array_agg(t::text || xmin ORDER BY t::text) FROM {name} t").fetchall())
            for name in tables
        ]
        others = connection.execute("""
            SELECT (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_namespace), (SELECT count(*) FROM pg_trigger)
            """).fetchall()
        return [*relations, *rows, *others]


# What the catalog says


async def test_each_fault_names_job_setting_and_remedy_whoever_looks_first(
    application: Application, where: Where
) -> None:
    """`etl check` reports the fault, `etl run` refuses with the same words; neither changes anything."""
    before = everything(where.dsn)
    said: dict[str, str] = {}

    for name, wrong in WRONG.items():
        findings = await application.check(wrong.pipeline)
        with pytest.raises(ConfigurationError) as refusal:
            await application.run_job(wrong.pipeline, HandControls())
        assert [str(refusal.value)] == [str(fault) for fault in findings.faults], name
        said[name] = str(refusal.value)

    missing = {
        name: (said[name], wrong.problem, wrong.remedy)
        for name, wrong in WRONG.items()
        if not (
            said[name].startswith(f"job bad: {wrong.setting}: ")
            and wrong.problem in said[name]
            and wrong.remedy in said[name].replace(wrong.problem, "")
            and said[name].endswith(")")
            and "\n" not in said[name]
        )
    }
    assert {} == missing
    assert before == everything(where.dsn)


async def test_all_faults_of_one_job_are_reported_at_once(application: Application) -> None:
    source = BatchProcessingSource("src", pending="status = 'pending'", done="stat = 1", failed="nope = 1")

    findings = await application.check(Pipeline("many", source, PostgresSink("dest")))

    assert ["done", "failed", "sink"] == [fault.setting for fault in findings.faults]


@pytest.mark.parametrize("text", ["true -- comment", "true /* comment */", "status = ';' OR v = '$1'", "(\n true\n)"])
async def test_sql_that_only_looks_odd_is_no_fault(application: Application, text: str) -> None:
    source = BatchProcessingSource("src", pending=f"status = 'pending' AND {text}", done="status = 'done' -- comment")

    findings = await application.check(Pipeline("odd", source, PPrintSink()))

    assert [] == findings.faults


@pytest.mark.parametrize(
    "text", ["or\x00ders", "or\udc80ders", "", "  "], ids=["NUL", "a lone surrogate", "nothing", "blanks"]
)
@pytest.mark.parametrize("setting", ["table", "pending", "done", "failed", "query", "name"])
def test_text_that_no_server_takes_is_refused_where_it_is_written(setting: str, text: str) -> None:
    given: dict[str, Any] = {"table": "t", "pending": "p", "done": "d"} | {setting: text}

    with pytest.raises(ConfigurationError, match=f"BatchProcessingSource {setting}: .* \\(.*\\)$"):
        BatchProcessingSource(**given)


# Privileges


@dataclass(frozen=True)
class Limited:
    """A role that may use schema etl and read `src`, and nothing more."""

    role: str
    dsn: str


@pytest.fixture
def limited(where: Where, application: Application) -> Iterator[Limited]:
    role = f"limited_{abs(hash(where.database)):x}"
    with psycopg.connect(where.dsn, autocommit=True) as server:
        server.execute(f"""
            CREATE ROLE {role};
            GRANT USAGE ON SCHEMA etl TO {role};
            GRANT ALL ON ALL TABLES IN SCHEMA etl TO {role};
            GRANT SELECT ON src TO {role}""")
        try:
            yield Limited(role, f"{where.dsn}&role={role}")
        finally:
            server.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


JOB = """
    from etl import BatchProcessingSource, Pipeline, PostgresSink
    copy = Pipeline(
        "copy", BatchProcessingSource("{table}", pending="status = 'pending'", done="status = 'done'"),
        PostgresSink("dst", key="id"),
    )
"""


async def test_each_missing_privilege_is_named_with_the_grant_that_gives_it(
    limited: Limited, where: Where, tmp_path: Path, db: Db
) -> None:
    """What `check` demands is enough: after exactly these grants the job runs."""
    project = Project(tmp_path, limited.dsn)
    project.write_job(JOB.format(table="src"))
    before = everything(where.dsn)

    checked = await asyncio.to_thread(project.etl, "check", "--json")
    refused = await asyncio.to_thread(project.etl, "run", "copy")

    after = everything(where.dsn)
    faults = checked.json["faults"]
    assert (2, 2, "") == (checked.code, refused.code, refused.out)
    assert [f"etl: {fault}" for fault in faults] == refused.err.splitlines()
    assert [
        "job copy: done: no privilege UPDATE (status) on public.src",
        "job copy: sink: no privilege INSERT on public.dst",
        "job copy: sink: no privilege SELECT, UPDATE on public.dst",
    ] == [fault.split(" (GRANT")[0] for fault in faults]
    assert before == after

    for fault in faults:
        grant = fault[fault.index("GRANT") : -1].replace("the database user of this program", limited.role)
        await db.execute(grant)
    ran = await asyncio.to_thread(project.etl, "run", "copy", "--json")

    assert (0, 5) == (ran.code, ran.json["written"]), ran.err


async def test_a_user_who_may_not_use_the_schema_or_make_it_is_told_so(
    limited: Limited, db: Db, tmp_path: Path
) -> None:
    project = Project(tmp_path, limited.dsn)
    project.write_job(JOB.format(table="src"))
    await db.execute(f"REVOKE ALL ON SCHEMA etl FROM {limited.role}")

    answers = await asyncio.gather(
        *(asyncio.to_thread(project.etl, *arguments) for arguments in (["run", "copy"], ["migrate"]))
    )

    assert [(2, "")] * 2 == [(answer.code, answer.out) for answer in answers]
    assert all("permission denied for schema etl (grant the privilege" in answer.err for answer in answers)


# The whole project at once


async def test_a_malicious_identifier_is_just_an_unknown_table_on_the_command_line(
    application: Application, project: Project, where: Where
) -> None:
    project.write_job(JOB.format(table='src\\"; DROP TABLE src; --'))
    before = everything(where.dsn)

    refused = await asyncio.to_thread(project.etl, "run", "copy", "--json")

    assert (2, "") == (refused.code, refused.out)
    assert f"etl: job copy: table: no table {NASTY!r} (" in refused.err
    assert before == everything(where.dsn)


BROKEN = {
    "imports": "import not_there_at_all\n",
    "syntax": "def f(:\n",
    "exits": "import sys\nsys.exit(0)\n",
    "recurses": "def f():\n    f()\nf()\n",
    "cron": "from etl import CronTrigger\n\nx = CronTrigger('61 * * * *')\n",
    "zone": "from etl import CronTrigger\n\nx = CronTrigger('* * * * *', timezone='Mars/Olympus')\n",
}


async def test_check_reports_the_faults_of_all_jobs_and_modules_at_once_and_the_good_job_still_runs(
    application: Application, project: Project, where: Where
) -> None:
    project.write_job(JOB.format(table="src"))
    project.write_job(JOB.format(table="scr").replace('"copy"', '"lost"').replace('"dst"', '"dest"'), "lost")
    for name, text in BROKEN.items():
        project.write_job(text, name)
    for name in ("twin_1", "twin_2"):
        project.write_job(JOB.format(table="src").replace('"copy"', '"twin"'), name)
    before = everything(where.dsn)

    checked, words, one, listed = await asyncio.gather(
        *(
            asyncio.to_thread(project.etl, *arguments)
            for arguments in (["check", "--json"], ["check"], ["check", "copy"], ["jobs", "--json"])
        )
    )

    assert [2, 2, 0, 2] == [answer.code for answer in (checked, words, one, listed)]
    found = checked.json
    assert ["copy", "lost"] == found["jobs"]
    folder = project.folder / "jobs"
    places = f"{folder / 'twin_1.py'}:3, {folder / 'twin_2.py'}:3"
    assert [
        f"job twin: 2 jobs have this name: {places} (give each its own; until then none of them runs)",
        "job lost: table: no table 'scr' (did you mean 'src'?)",
        "job lost: sink: no table 'dest' (did you mean 'dst'?)",
    ] == found["faults"]
    broken = {each["module"].removeprefix("jobs."): each["problem"] for each in found["broken_modules"]}
    assert set(BROKEN) == set(broken)
    assert broken["imports"].startswith("Traceback")
    assert "No module named 'not_there_at_all'" in broken["imports"]
    assert f"{folder / 'cron.py'}:3: CronTrigger: '61 * * * *'" in broken["cron"]
    assert f"{folder / 'zone.py'}:3: CronTrigger timezone: no time zone 'Mars/Olympus' (use an" in broken["zone"]
    assert not any("Traceback" in broken[name] for name in ("cron", "zone"))
    assert all(fault in words.out for fault in found["faults"])
    assert all(line in words.out for problem in broken.values() for line in problem.splitlines())
    assert ("1 job, no faults\n", "") == (one.out, one.err)
    services = {each["name"] or each["module"].removeprefix("jobs."): each["enabled"] for each in listed.json}
    assert {"copy": True, "lost": True, "twin": False} | dict.fromkeys(BROKEN, False) == services
    assert before == everything(where.dsn)

    ran = await asyncio.to_thread(project.etl, "run", "copy", "--json")
    twin = await asyncio.to_thread(project.etl, "run", "twin")

    assert (0, 5) == (ran.code, ran.json["written"])
    assert "the jobs of jobs.imports are out of service:\nTraceback" in ran.err
    assert (2, True) == (twin.code, "job twin: is out of service" in twin.err)


async def test_check_without_faults_exits_0_and_says_how_many_jobs_that_was(
    application: Application, project: Project
) -> None:
    project.write_job(JOB.format(table="src"))

    words, facts = await asyncio.gather(
        asyncio.to_thread(project.etl, "check"), asyncio.to_thread(project.etl, "check", "--json")
    )

    assert (0, "1 job, no faults\n") == (words.code, words.out)
    assert {"jobs": ["copy"], "faults": [], "advice": [], "broken_modules": []} == facts.json


# Servers that say no


@pytest.fixture(scope="module")
def strict_server() -> Iterator[EmbeddedServer]:
    """A server of its own that asks role `clerk` for a password and never lets role `stranger` in."""
    made = Path(tempfile.mkdtemp(prefix="etl-strict-", dir=fast_place()))
    server = EmbeddedServer(made / "pg", durable=False)
    made.chmod(0o711)
    server.start()
    try:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE ROLE clerk LOGIN PASSWORD 'right/S3cret'; CREATE ROLE stranger LOGIN")
            row = connection.execute("SHOW hba_file").fetchone()
            assert row is not None
            rules = Path(row[0])
            asks = "local all clerk scram-sha-256\nlocal all stranger reject\n"
            rules.write_text(asks + rules.read_text())
            connection.execute("SELECT pg_reload_conf()")
            assert ("local all clerk scram-sha-256",) == connection.execute(
                "SELECT 'local all ' || user_name[1] || ' ' || auth_method FROM pg_hba_file_rules LIMIT 1"
            ).fetchone()
        yield server
    finally:
        server.stop()
        EmbeddedServer.reap(server.root)
        shutil.rmtree(made)


def test_a_server_that_refuses_the_password_is_named_the_password_never(
    strict_server: EmbeddedServer, tmp_path: Path
) -> None:
    place = f"postgres?host={quote(strict_server.host, safe='')}&port={strict_server.port}"
    wrong = Project(tmp_path, f"postgresql://clerk:wr0ng-S3cret@/{place}")
    none = Project(tmp_path, f"postgresql://clerk@/{place}")
    rejected = Project(tmp_path, f"postgresql://stranger:wr0ng-S3cret@/{place}")
    right = Project(tmp_path, f"postgresql://clerk:{quote('right/S3cret', safe='')}@/{place}")
    wrong.write_job(JOB.format(table="src"))
    processes = [
        project.start(*arguments)
        for project, arguments in (
            (wrong, ["run", "copy"]), (wrong, ["worker"]), (none, ["check"]), (rejected, ["migrate"]), (right, ["runs"]),
        )
    ]  # fmt: skip

    said = [process.communicate(timeout=60) for process in processes]

    assert [2] * 5 == [process.returncode for process in processes]
    refused = 'database: cannot connect: password authentication failed for user "clerk" (check ETL_DATABASE_URL)'
    assert [("", f"etl: {refused}\n")] * 3 == said[:3]
    assert "rejects connection" in said[3][1]
    assert "no etl schema yet" in said[4][1], "the right one lets in"
    assert "S3cret" not in str(said)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:p4ss-W0rd@127.0.0.1:1/x", "no connection to the database at 127.0.0.1:1"),
        ("postgresql://u:p4ss-W0rd@/x?host=/nowhere/at/all", "no connection to the database at /nowhere/at/all"),
        ("postgresql://u:p4ss-W0rd@127.0.0.1:99999/x", "ETL_DATABASE_URL: cannot be read as a URL"),
        ("postgresql://u:p4ss/W0rd@127.0.0.1/x", "ETL_DATABASE_URL: cannot be read as a URL"),
        ("postgresql://u:p4ss:W0rd/p4ss@127.0.0.1/x", "ETL_DATABASE_URL: cannot be read as a URL"),
        ("postgresql://u:p4ss@W0rd@127.0.0.1/x", "ETL_DATABASE_URL: cannot be read as a URL"),
        ("postgresql://u:1/p4ss-W0rd@127.0.0.1/x", "ETL_DATABASE_URL: cannot be read as a URL"),
        ("postgresql:/u:p4ss-W0rd@127.0.0.1/x", "(write postgresql://USER@HOST:PORT/DATABASE"),
        ("mysql://u:p4ss-W0rd@127.0.0.1/x", "(write postgresql://USER@HOST:PORT/DATABASE"),
        ("host=127.0.0.1 password=p4ss-W0rd", "(write postgresql://USER@HOST:PORT/DATABASE"),
        ("postgresql://u:p4ss-W0rd@127.0.0.1:1/x?sslmode=wat", "`sslmode` parameter must be one of"),
    ],
)
async def test_a_server_that_cannot_be_reached_or_a_url_that_cannot_be_read_is_told_without_the_password(
    url: str, said: str
) -> None:
    database = Database(connection_settings(Settings(), url))

    with pytest.raises(EtlError) as refusal:
        await database.open()

    text = str(refusal.value)
    assert said in text
    assert "ETL_DATABASE_URL" in text
    assert not any(piece in text for piece in ("p4ss", "W0rd"))


def test_a_refused_connection_is_misuse_and_shows_no_traceback(tmp_path: Path) -> None:
    project = Project(tmp_path, "postgresql://u:p4ss-W0rd@127.0.0.1:1/x")

    result = project.etl("runs", "--json")

    assert (2, "", 1) == (result.code, result.out, len(result.err.splitlines()))
    assert result.err.startswith("etl: no connection to the database at 127.0.0.1:1: ")
    assert "p4ss" not in result.err
