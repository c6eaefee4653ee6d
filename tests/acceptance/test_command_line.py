"""The command line as a user meets it: every command, its output for people and for programs, and its exit codes."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg
import pytest
from typer.testing import CliRunner

from etl.cli.commands import app
from etl.postgres.migrator import known_migrations
from tests.conftest import Where
from tests.kit import Project, eventually

COMMANDS = ("demo", "migrate", "check", "jobs", "run", "worker", "runs", "report", "quarantine", "replay")

RUN_KEYS = [
    "run_id",
    "job",
    "status",
    "trigger",
    "scheduled_for",
    "started_at",
    "ended_at",
    "duration_s",
    "claimed",
    "written",
    "filtered",
    "quarantined",
    "deferred",
    "released",
    "vanished",
    "retried",
    "batches",
    "balanced",
    "trace_id",
    "error",
    "attempt",
    "parent_id",
    "host",
    "pid",
    "code_version",
    "lateness_s",
    "backlog_before",
    "backlog_before_exact",
    "oldest_before",
    "backlog_after",
    "backlog_after_exact",
    "oldest_after",
    "database_s",
    "peak_memory_bytes",
]

# What a report has besides.
REPORT_KEYS = [
    "verdict",
    "rows_per_s",
    "oldest_waited_s",
    "oldest_waited_at_most_s",
    "usual",
    "unusual",
    "episodes",
    "stages",
    "errors",
    "gone",
    "throughput",
    "outlook",
    "next",
]

TABLES = """
    CREATE TABLE src (id bigint PRIMARY KEY, v text, status text NOT NULL DEFAULT 'pending');
    CREATE TABLE dst (id bigint PRIMARY KEY, v text)"""

# What a row says decides what happens to it: poison is refused, skip is filtered, wait waits for the file `go`.
JOBS = """
    import os, time
    from etl import BatchProcessingSource, CronTrigger, Pipeline, PostgresSink, PPrintSink, processor

    print("somebody prints at import")

    @processor
    def act(context, row):
        if row["v"] == "poison":
            raise ValueError(f"row {row['id']} is no good")
        while row["v"] == "wait" and not os.path.exists("go"):
            time.sleep(0.01)
        return None if row["v"] == "skip" else {"id": row["id"], "v": row["v"]}

    def job(name, sink=None, *triggers, **options):
        source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'", batch_size=4)
        return Pipeline(name, source.on(*triggers), act, sink or PostgresSink("dst", key="id"), **options)

    copy = job("copy", None, CronTrigger("30 4 * * *", timezone="Europe/Prague"))
    strict = job("strict", max_quarantined=0)
    hurried = job("hurried", timeout="0.3s")
    printed = job("printed", PPrintSink())
"""


@pytest.fixture
async def shop(project: Project, db: asyncpg.Connection[asyncpg.Record]) -> Project:
    """A project with jobs and a table of 10 rows, none of them odd."""
    await db.execute(TABLES)
    await db.execute("INSERT INTO src SELECT g, 'v' || g FROM generate_series(1, 10) g")
    project.write_job(JOBS)
    return project


@pytest.fixture
async def empty(where: Where, tmp_path: Path) -> AsyncIterator[Project]:
    """A project on a database without the schema `etl`."""
    name = f"empty_{uuid4().hex[:12]}"
    server = await asyncpg.connect(where.dsn)
    await server.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    yield Project(tmp_path, Where(where.host, where.port, where.user, where.password, name).dsn)
    await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await server.close()


async def in_thread(project: Project, *arguments: str, **options: Any) -> Any:
    """`project.etl`, with this event loop free meanwhile."""
    return await asyncio.to_thread(project.etl, *arguments, **options)


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Read a process's standard error up to the line with these words."""
    assert process.stderr is not None
    while words not in (line := process.stderr.readline()):
        assert line, f"ended without {words!r}"


# What it says about itself


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_shows_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])

    assert 0 == result.exit_code
    assert f"Example: etl {command}" in result.stdout
    assert "--help" in result.stdout


def test_the_program_lists_all_commands_and_what_its_exit_codes_mean(project: Project) -> None:
    result = project.etl("--help")

    assert (0, "") == (result.code, result.err)
    assert [] == [command for command in COMMANDS if not re.search(rf"^  {command}  ", result.out, re.MULTILINE)]
    assert "2 misuse" in result.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["run"], "Missing argument 'JOB'"),
        (["run", "copy", "--limit", "0"], "--limit"),
        (["run", "copy", "--limit", "many"], "--limit"),
        (["runs", "-n", "-1"], "--limit"),
        (["migrate", "extra"], "extra"),
        (["runs", "--wat"], "--wat"),
    ],
)
def test_what_is_mistyped_is_misuse_and_says_where_to_look(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, arguments)

    assert (2, "") == (result.exit_code, result.stdout)
    assert said in result.stderr
    assert "-h' for help" in result.stderr


# Exit codes, each provoked for real


async def test_exit_0_a_run_that_handled_every_row_prints_one_json_object_and_nothing_else(shop: Project) -> None:
    result = await in_thread(shop, "run", "copy", "--json")

    assert 0 == result.code, result.err
    assert 1 == len(result.out.splitlines())
    assert RUN_KEYS == list(result.json)
    run = result.json
    assert ("copy", "succeeded", "manual", None, 10, 10, 3, True, None) == tuple(
        run[name] for name in (
            "job", "status", "trigger", "scheduled_for", "claimed", "written", "batches", "balanced", "error")
    )  # fmt: skip
    started, ended = (datetime.fromisoformat(run[name]) for name in ("started_at", "ended_at"))
    assert started.utcoffset() is not None
    assert run["duration_s"] == pytest.approx((ended - started).total_seconds(), abs=0.001)
    assert re.fullmatch("[0-9a-f]{32}", run["trace_id"])
    assert (10, True, 0, True) == tuple(
        run[f"backlog_{name}"] for name in ("before", "before_exact", "after", "after_exact")
    )
    digest = hashlib.sha256((shop.folder / "jobs/work.py").read_bytes()).hexdigest()
    assert f"file:{digest[:12]}" == run["code_version"]
    assert run["database_s"] > 0
    assert 10_000_000 < run["peak_memory_bytes"] < 1_000_000_000


async def test_exit_2_nothing_is_recorded_for_a_job_that_does_not_exist(
    shop: Project, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    result = await in_thread(shop, "run", "cpoy", "--json")

    assert (2, "") == (result.code, result.out)
    assert "no job 'cpoy' (did you mean copy?)" in result.err
    assert 0 == await db.fetchval("SELECT count(*) FROM etl.run")


async def test_lists_of_a_misspelt_job_are_refused_with_the_nearest_name_and_of_a_known_one_are_empty(
    shop: Project,
) -> None:
    commands = ("runs", "ticks", "quarantine")

    misspelt = [await in_thread(shop, command, "cpoy") for command in commands]
    known = [await in_thread(shop, command, "copy") for command in commands]

    assert [2] * 3 == [each.code for each in misspelt]
    assert all("no job 'cpoy' (did you mean copy?)" in each.err for each in misspelt)
    assert [(0, "")] * 3 == [(each.code, each.out) for each in known]


def test_a_misspelt_job_makes_no_server(tmp_path: Path) -> None:
    """A folder without a database is left as it was."""
    stranger = Project(tmp_path, "")

    results = [stranger.etl(*words) for words in (("run", "nothing"), ("replay", "nothing"))]

    assert [2, 2] == [result.code for result in results]
    assert all(result.err.startswith("etl: JOB: no job 'nothing' (no job modules in ") for result in results)
    assert [] == list(tmp_path.iterdir())


async def test_exit_3_a_partial_run_leads_through_quarantine_report_and_replay_to_the_end(
    shop: Project, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    """The whole way a person goes after a partial run, by the commands that the report prints."""
    await db.execute("UPDATE src SET v = 'poison' WHERE id IN (3, 7); UPDATE src SET v = 'skip' WHERE id = 5")

    ran = await in_thread(shop, "run", "copy")

    assert 3 == ran.code
    assert "books balance: 10 claimed = 7 written + 1 filtered + 2 quarantined" in ran.out
    assert "2  ValueError in act: row " in ran.out
    follow_up = [line.split()[1:] for line in ran.out.splitlines() if line.startswith("   etl ")]
    run_id = str(await db.fetchval("SELECT run_id FROM etl.run"))
    assert [["quarantine", "copy", "--run", run_id[:8]], ["replay", "copy", "--error", "ValueError"]] == follow_up

    listed = await in_thread(shop, *follow_up[0])

    assert (0, ["key", "7", "3"]) == (listed.code, [line.split()[0] for line in listed.out.splitlines()])
    assert "row 7 is no good" in listed.out

    mistyped = await in_thread(shop, "quarantine", "copy", "--error", "ValueEror")

    expected = "nothing in quarantine of copy with error ValueEror; there are: 2 ValueError"
    assert (0, expected) == (mistyped.code, mistyped.err.splitlines()[-1])

    facts = (await in_thread(shop, *follow_up[0], "--json")).json
    assert ["7", "3"] == [each["key"][0] for each in facts]
    expected = "job source key state stage error_type message traceback attempts run_id opened_at due_at payload"
    assert set(expected.split()) == set(facts[0])
    assert ("copy", "public.src", "ValueError", 1, run_id) == tuple(
        facts[0][name] for name in ("job", "source", "error_type", "attempts", "run_id")
    )
    assert 'raise ValueError(f"row' in facts[0]["traceback"]
    assert {"id": 7, "v": "poison", "status": "pending"} == facts[0]["payload"]

    report = await in_thread(shop, "report", run_id[:6])

    assert (0, ran.out) == (report.code, report.out)

    await db.execute("UPDATE src SET v = 'better' WHERE id IN (3, 7)")
    replayed = await in_thread(shop, *follow_up[1], "--json")

    assert (0, "replay", "succeeded", 2, 2) == (
        replayed.code, *(replayed.json[name] for name in ("trigger", "status", "claimed", "written")),
    )  # fmt: skip
    assert RUN_KEYS == list(replayed.json)
    assert ["better"] * 2 == [row["v"] for row in await db.fetch("SELECT v FROM dst WHERE id IN (3, 7)")]

    again = await in_thread(shop, "replay", "copy", "--json")

    assert (0, None) == (again.code, again.json)
    assert "nothing to replay" in again.err


async def test_exit_4_a_run_that_sets_aside_too_much_fails_and_gives_its_rows_back(
    shop: Project, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    await db.execute("UPDATE src SET v = 'poison' WHERE id = 6")

    result = await in_thread(shop, "run", "strict", "--json")

    assert (4, "failed", 4, 0) == (
        result.code, *(result.json[name] for name in ("status", "written", "quarantined")),
    )  # fmt: skip
    assert result.json["released"] in (4, 6), "the batch in hand, and the one that may have been claimed ahead"
    assert result.json["error"].startswith("TooManyQuarantinedError: ")
    assert 6 == await db.fetchval("SELECT count(*) FROM src WHERE status = 'pending'")


async def test_exit_5_a_run_that_outlives_its_timeout_is_told_apart_from_one_that_failed(
    shop: Project, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    await db.execute("UPDATE src SET v = 'wait' WHERE id = 1")

    process = shop.start("run", "hurried")
    await eventually(lambda: db.fetchval("SELECT true FROM etl.run WHERE state = 'timed_out'"))
    (shop.folder / "go").touch()  # a thread cannot be taken back: the process ends when its row lets it
    out, err = await asyncio.to_thread(process.communicate)

    assert 5 == process.returncode, err
    assert "TIMED_OUT" in out
    assert "took longer than its timeout of 0.3 s" in out
    assert 10 == await db.fetchval("SELECT count(*) FROM src WHERE status = 'pending'"), "given back"


async def test_exit_7_while_a_run_is_active_and_exit_6_when_that_is_told_to_stop(
    shop: Project, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    """One long story, for the sake of time: run, skipped run, skipped replay, SIGTERM, drain."""
    await db.execute("UPDATE src SET v = 'wait' WHERE id = 2; UPDATE src SET v = 'poison' WHERE id = 1")
    first = shop.start("run", "copy", "--json", env={"ETL_LEASE": "9s"})
    await eventually(lambda: db.fetchval("SELECT true FROM etl.batch WHERE state = 'open'"))
    run_id = str(await db.fetchval("SELECT run_id FROM etl.run"))

    lease = await db.fetchval("SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM etl.run")
    skipped, words = await asyncio.gather(in_thread(shop, "run", "copy", "--json"), in_thread(shop, "run", "copy"))
    listed = await in_thread(shop, "runs", "--json")

    assert 4 < lease <= 9, "ETL_LEASE is what the run holds"
    assert (7, 7) == (skipped.code, words.code)
    assert [*RUN_KEYS, "blocked_by"] == list(skipped.json)
    assert (None, "copy", "skipped_overlap", "manual", 0, True) == tuple(
        skipped.json[name] for name in ("run_id", "job", "status", "trigger", "claimed", "balanced")
    )
    assert (run_id, "running", first.pid) == tuple(skipped.json["blocked_by"][n] for n in ("run_id", "status", "pid"))
    assert ("", True) == (words.out, f"run {run_id} of copy is running" in words.err)
    assert [(run_id, "running", None)] == [(run["run_id"], run["status"], run["ended_at"]) for run in listed.json]

    first.send_signal(signal.SIGTERM)
    await asyncio.to_thread(read_until, first, "stopping: finishing what is in hand")
    (shop.folder / "go").touch()
    out, _ = await asyncio.to_thread(first.communicate)

    assert 6 == first.returncode
    run = json.loads(out)
    assert ("cancelled", 4, 3, 1, 0, True) == tuple(
        run[name] for name in ("status", "claimed", "written", "quarantined", "released", "balanced")
    ), "what was in hand was finished, and nothing more begun"


async def test_exit_4_a_run_that_somebody_else_ended_is_crashed_and_writes_nothing_more(
    shop: Project, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    """What the reaper does to a process that was asleep: here the test does it by hand."""
    await db.execute("UPDATE src SET v = 'wait' WHERE id = 6")
    process = shop.start("run", "copy", "--json")
    await eventually(lambda: db.fetchval("SELECT count(*) >= 2 FROM etl.batch"))

    async with db.transaction():
        await db.execute("UPDATE etl.batch SET state = 'expired' WHERE state = 'open'")
        await db.execute("UPDATE etl.run SET state = 'crashed', ended_at = clock_timestamp(), error = 'gone'")
    await asyncio.to_thread(read_until, process, "run ended")
    (shop.folder / "go").touch()
    out, _ = await asyncio.to_thread(process.communicate)

    assert (4, "crashed", "gone") == (process.returncode, json.loads(out)["status"], json.loads(out)["error"])
    assert 4 == await db.fetchval("SELECT count(*) FROM dst")


# Runs, limits, jobs, reports


async def test_runs_are_listed_newest_first_and_can_be_narrowed_down(
    shop: Project, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    await db.execute("""
        INSERT INTO etl.run (run_id, job, trigger, overlap_key, state, queued_at, started_at, ended_at, scheduled_for)
        SELECT md5(g::text)::uuid, CASE g % 2 WHEN 0 THEN 'even' ELSE 'odd' END, 'cron', 'x',
               CASE WHEN g < 4 THEN 'failed' ELSE 'succeeded' END,
               timestamptz '2024-01-01 UTC' + g * interval '1 hour', timestamptz '2024-01-01 UTC' + g * interval '1 hour',
               timestamptz '2024-01-01 UTC' + g * interval '61 minutes', timestamptz '2024-01-01 UTC' + g * interval '1 h'
          FROM generate_series(1, 25) g""")

    everything, odd_failures, words = await asyncio.gather(
        in_thread(shop, "runs", "--json", "-n", "100"),
        in_thread(shop, "runs", "odd", "--status", "failed", "--status", "crashed", "--json"),
        in_thread(shop, "runs"),
    )

    hours = [datetime.fromisoformat(run["started_at"]).timestamp() for run in everything.json]
    assert (25, sorted(hours, reverse=True)) == (len(hours), hours)
    assert all(list(run) == RUN_KEYS for run in everything.json)
    assert everything.json[0]["scheduled_for"] == everything.json[0]["started_at"]
    assert [("odd", "failed")] * 2 == [(run["job"], run["status"]) for run in odd_failures.json]
    table = words.out.splitlines()
    assert table[0].startswith("run       job   status     trigger  started (UTC)")
    assert (20, [run["run_id"][:8] for run in everything.json[:20]]) == (
        len(table) - 1,
        [line.split()[0] for line in table[1:]],
    )


async def test_a_limit_claims_so_many_rows_and_not_one_more(
    shop: Project, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Seven is more than one batch of four and no multiple of it."""
    limited = await in_thread(shop, "run", "copy", "--limit", "7", "--json")
    rest = await in_thread(shop, "run", "copy", "--limit", "1000", "--json")

    assert (7, 7, 2) == tuple(limited.json[name] for name in ("claimed", "written", "batches"))
    assert (3, 3, 1) == tuple(rest.json[name] for name in ("claimed", "written", "batches"))
    assert [*range(1, 11)] == [row["id"] for row in await db.fetch("SELECT id FROM dst ORDER BY id")]


def test_jobs_are_listed_whether_or_not_a_database_answers(tmp_path: Path) -> None:
    project = Project(tmp_path, "postgresql://nobody@127.0.0.1:1/nothing")
    project.write_job(JOBS)

    words, facts = project.etl("jobs", env={"ETL_LAESE": "9s"}), project.etl("jobs", "--json")

    assert (0, 0) == (words.code, facts.code)
    assert 1 == words.err.count("there is no variable ETL_LAESE, it is not looked at (did you mean ETL_LEASE?)")
    assert "which jobs are paused is not known: no connection to the database at 127.0.0.1:1" in words.err
    assert words.out.splitlines()[0].split("  ")[0] == "job"
    assert ["copy", "hurried", "printed", "strict"] == [line.split()[0] for line in words.out.splitlines()[1:]]
    copy, printed = facts.json[0], facts.json[2]
    assert ("copy", True, "jobs.work", "src", ["act"], "dst", {"cron": "cron 30 4 * * * in Europe/Prague"}) == tuple(
        copy[name] for name in ("name", "enabled", "module", "source", "processors", "sink", "triggers")
    )
    assert copy["declared_at"].startswith(str(tmp_path / "jobs/work.py:"))
    next_at = datetime.fromisoformat(copy["next_at"])
    assert (30, True) == (next_at.minute, next_at.utcoffset() is not None)
    assert ("PPrintSink", {}, None) == tuple(printed[name] for name in ("sink", "triggers", "next_at"))


async def test_a_report_is_of_the_newest_run_or_of_the_one_whose_id_begins_so(shop: Project) -> None:
    nothing = await in_thread(shop, "report")
    run = (await in_thread(shop, "run", "copy", "--json")).json
    newest, named, none, misspelt = await asyncio.gather(
        in_thread(shop, "report", "--json"),
        in_thread(shop, "report", run["run_id"]),
        in_thread(shop, "report", "00000000"),
        in_thread(shop, "report", "the last one"),
    )

    assert (2, "", True) == (nothing.code, nothing.out, "no run is recorded yet" in nothing.err)
    assert [*RUN_KEYS, *REPORT_KEYS] == list(newest.json)
    assert run == {name: newest.json[name] for name in RUN_KEYS}
    assert {"pending": 0, "held": 0, "paused_at": None, "paused_by": None} == {
        name: value for name, value in newest.json["outlook"].items() if name != "fire_times"
    }
    assert ["cron"] * 3 == [each["trigger"] for each in newest.json["outlook"]["fire_times"]]
    assert ["claim", "act", "-> dst"] == [stage["name"] for stage in newest.json["stages"]]
    keys = "name in out filtered fanned_out retried quarantined busy_s waited_s p50_s p95_s max_s"
    assert all(keys.split() == list(stage) for stage in newest.json["stages"])
    assert 0 == named.code
    assert named.out.startswith(f"copy   run {run['run_id']}   SUCCEEDED\nFinished: 10 of 10 rows written.\n")
    assert "books balance: 10 claimed = 10 written" in named.out
    assert (2, 2) == (none.code, misspelt.code)
    assert "no run '00000000' (see: etl runs)" in none.err
    assert "'the last one' is not a run id, nor a job (see: etl runs, etl jobs)" in misspelt.err


async def test_lists_that_are_empty_say_so_to_people_and_are_empty_lists_to_programs(project: Project) -> None:
    answers = await asyncio.gather(
        *(in_thread(project, command, *json) for command in ("runs", "quarantine") for json in ([], ["--json"]))
    )

    assert [0] * 4 == [answer.code for answer in answers]
    assert ["", []] * 2 == [answer.json if answer.out else answer.out for answer in answers]
    assert ["no runs yet\n", "nothing in quarantine\n"] == [answer.err for answer in answers[::2]]


# Streams, terminals, colours


async def test_data_goes_to_standard_output_and_talk_to_standard_error(shop: Project) -> None:
    result = await in_thread(shop, "run", "copy", env={"FORCE_COLOR": "", "TERM": "xterm-256color"})

    assert result.out.startswith("copy   run ")
    talk = result.err.splitlines()
    assert "somebody prints at import" == talk[0]
    assert ["run.started", "run.ended"] == [json.loads(line)["event"] for line in talk[1:]]
    assert "\x1b" not in result.out + result.err, "no colour unless a terminal"


def without_verdicts(environment: dict[str, str]) -> dict[str, str]:
    """Variables that tell a terminal what to be, as the machine of the tests may have them, are left out."""
    return {name: value for name, value in environment.items() if name not in ("CI", "NO_COLOR", "FORCE_COLOR")}


class Terminal:
    """A command on a pseudo-terminal of 120 columns; `text` is what it wrote there, escapes included."""

    def __init__(self, project: Project, *arguments: str, stdout: int | None = None, **variables: str) -> None:
        parent, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._screen = parent
        self.process = subprocess.Popen(
            [sys.executable, "-m", "etl", *arguments],
            cwd=project.folder,
            env={**without_verdicts(project.environment), "TERM": "xterm-256color", "COLUMNS": "120", **variables},
            stdin=child,
            stdout=child if stdout is None else stdout,
            stderr=child,
        )
        os.close(child)
        self.text = ""

    def read_until(self, pattern: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, f"no {pattern!r} in {seconds} s:\n{self.text[-5_000:]}"
            assert self._read(seconds), f"ended without {pattern!r}:\n{self.text}"

    def finish(self) -> int:
        while self._read(30):
            pass
        os.close(self._screen)
        return self.process.wait(30)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._screen], [], [], seconds)
        assert ready, f"silent for {seconds} s after:\n{self.text}"
        try:
            data = os.read(self._screen, 65536)
        except OSError:  # EIO: nobody holds the other side any more
            return False
        self.text += data.decode()
        return bool(data)


def screen_of(text: str) -> list[str]:
    """What stands on a terminal after this was written to it: the escapes that redrawing takes, and no others."""
    rows, y, x = [""], 0, 0
    for escape, count, final, char in re.findall(r"(\x1b\[\??(\d*)[\d;]*([A-Za-z]))|([^\x1b])", text):
        if final == "A":
            y -= int(count or 1)
        elif final == "K":
            rows[y] = ""
        elif final in ("m", "h", "l"):  # colours; the cursor's looks
            continue
        elif char == "\r":
            x = 0
        elif char == "\n":
            y += 1
            rows += [""] * (y + 1 - len(rows))
        else:
            assert not escape, f"unknown escape {escape!r}"
            rows[y] = rows[y].ljust(x)[:x] + char + rows[y][x + 1 :]
            x += 1
    return rows


async def test_on_a_terminal_the_run_is_redrawn_below_whole_log_lines_and_leaves_nothing(
    shop: Project, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    """While it waits, somebody locks the sink's table: the screen says who it is."""
    await db.execute("UPDATE src SET v = 'wait' WHERE id = 9")
    work = shop.folder / "jobs/work.py"
    aloud = """    logging.getLogger("mine").info("row %s", row["id"])\n    if row["v"] == "poison":"""
    text = work.read_text().replace('    if row["v"] == "poison":', aloud)
    work.write_text("import logging\nlogging.basicConfig(level='INFO')\n" + text)
    locker = await asyncpg.connect(shop.dsn, server_settings={"application_name": "night shift"})
    await locker.execute("BEGIN; LOCK TABLE dst IN EXCLUSIVE MODE")

    def look(terminal: Terminal, pattern: str) -> list[str]:
        terminal.read_until(pattern)
        return screen_of(terminal.text)

    terminal = Terminal(shop, "run", "copy")
    locked = await asyncio.to_thread(look, terminal, "night shift")
    await locker.execute("COMMIT")
    await locker.close()
    during = await asyncio.to_thread(look, terminal, "8 of about 10 rows")
    (shop.folder / "go").touch()
    code = await asyncio.to_thread(terminal.finish)

    assert 0 == code
    pid = "[0-9]+"
    assert re.search(
        rf" database: waiting for a table lock held by pid {pid} \(application night shift\)", "\n".join(locked)
    )
    assert re.search(r"^ \[#+\.+\]  8 of about 10 rows +80 %$", "\n".join(during), re.MULTILINE)
    assert 1 == sum(line.startswith("copy   running for ") for line in during), "drawn over itself"
    after = screen_of(terminal.text)
    logged = [line for line in after if re.match(r"\d\d:\d\d:\d\d run (started|ended)  job=copy run_id=", line)]
    assert 2 == len(logged), "each log line stands alone, above the rest"
    assert [f"INFO:mine:row {n}" for n in range(1, 11)] == [line for line in after if "INFO:mine" in line]
    assert "{" not in "".join(logged), "readable on a terminal"
    assert not [line for line in after if "running for" in line or "of about" in line], "gone when the report comes"
    assert [line for line in after if line.startswith("copy   run ")]
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l"), "the cursor is back"
    assert "\x1b" not in terminal.text.rsplit("copy   run ", 1)[-1]


async def test_ctrl_c_finishes_what_is_in_hand_and_leaves_a_clean_screen(
    shop: Project, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    await db.execute("UPDATE src SET v = 'wait' WHERE id = 3")

    def interrupt() -> tuple[int, str]:
        terminal = Terminal(shop, "run", "copy")
        terminal.read_until("running")
        terminal.read_until("run started")
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until("stopping: finishing what is in hand")
        (shop.folder / "go").touch()
        return terminal.finish(), terminal.text

    code, text = await asyncio.to_thread(interrupt)

    assert 6 == code
    after = screen_of(text)
    assert 1 == sum(line.startswith("stopping: finishing what is in hand") for line in after)
    assert not [line for line in after if "running for" in line or "stopping after" in line]
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is back"


async def test_a_dumb_terminal_and_one_without_colour_get_no_control_characters(shop: Project) -> None:
    def text_of(job: str, variable: str, value: str) -> str:
        terminal = Terminal(shop, "run", job, stdout=None, **{variable: value})
        assert 0 == terminal.finish()
        return terminal.text

    texts = await asyncio.gather(
        asyncio.to_thread(text_of, "copy", "TERM", "dumb"), asyncio.to_thread(text_of, "strict", "NO_COLOR", "1")
    )

    assert [] == [text for text in texts if "\x1b" in text]


async def test_what_a_job_prints_goes_where_the_shell_sent_it_although_there_is_a_bar(shop: Project) -> None:
    """Standard output is a file, standard error a terminal: `etl run printed > rows.txt`."""
    with (shop.folder / "rows.txt").open("wb") as rows:
        terminal = Terminal(shop, "run", "printed", stdout=rows.fileno())
        code = await asyncio.to_thread(terminal.finish)

    assert 0 == code
    printed = (shop.folder / "rows.txt").read_text()
    assert [f"{{'id': {n}, 'v': 'v{n}'}}" for n in range(1, 11)] == printed.splitlines()[:10]
    assert "'v1'" not in terminal.text


# Settings on the way


async def test_settings_come_from_files_in_the_folder_and_the_environment_wins(shop: Project) -> None:
    dsn = shop.dsn
    (shop.folder / "etl.toml").write_text(f'database_url = "{dsn}"\njobs = ["work"]\nlease = "zero"\n')
    (shop.folder / "jobs/work.py").rename(shop.folder / "work.py")
    environment = {name: value for name, value in shop.environment.items() if not name.startswith("ETL_")}

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "etl", "run", "copy", "--json"]
        return subprocess.run(
            command, cwd=shop.folder, env=environment | variables, capture_output=True, text=True, check=False
        )

    wrong = await asyncio.to_thread(run)
    right = await asyncio.to_thread(run, ETL_LEASE="5s")

    assert (2, "") == (wrong.returncode, wrong.stdout)
    assert "lease: 'zero' is not a duration" in wrong.stderr
    assert (0, 10) == (right.returncode, json.loads(right.stdout)["written"])
    assert not (shop.folder / ".etl").exists(), "no server is made where one is named"


# Migrations


def schema(dsn: str) -> list[tuple[Any, ...]]:
    """Everything in schema `etl` that a migration made, as the catalog tells it."""
    with psycopg.connect(dsn) as connection:
        return connection.execute("""
            SELECT 'column', table_name::text, column_name::text, data_type::text,
                   is_nullable || coalesce(column_default, '') || is_identity
              FROM information_schema.columns WHERE table_schema = 'etl'
            UNION ALL
            SELECT 'index', tablename, indexname, indexdef, '' FROM pg_indexes WHERE schemaname = 'etl'
            UNION ALL
            SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), ''
              FROM pg_constraint WHERE connamespace = 'etl'::regnamespace
            UNION ALL
            SELECT 'view', viewname, '', definition, '' FROM pg_views WHERE schemaname = 'etl'
            UNION ALL
            SELECT 'comment', objoid::regclass::text, '', description, ''
              FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid::regclass::text LIKE 'etl.%'
            UNION ALL
            SELECT 'migration', version::text, name, sha256, '' FROM etl.migration
             ORDER BY 1, 2, 3, 4, 5""").fetchall()


def test_several_processes_may_migrate_at_once_and_each_migration_is_applied_once(empty: Project) -> None:
    processes = [empty.start("migrate") for _ in range(4)]

    told = [process.communicate(timeout=60)[1] for process in processes]

    newest = known_migrations()[-1].version
    assert [0] * 4 == [process.returncode for process in processes], told
    assert len(known_migrations()) == sum(text.count("applied ") for text in told)
    assert all(text.endswith(f"the schema etl is at version {newest}\n") for text in told)


def test_sql_that_is_printed_instead_and_applied_by_hand_gives_the_same_schema(empty: Project, where: Where) -> None:
    """`where` was migrated by the migrator. Printing needs no database at all."""
    printed = Project(empty.folder, "postgresql://nobody@127.0.0.1:1/nothing").etl("migrate", "--sql")
    with psycopg.connect(empty.dsn, autocommit=True) as connection:
        connection.execute(printed.out.encode())

    after = empty.etl("migrate")

    assert (0, "") == (printed.code, printed.err)
    assert schema(where.dsn) == schema(empty.dsn)
    assert (0, "") == (after.code, after.out)
    assert f"the schema etl is at version {known_migrations()[-1].version}\n" == after.err, "nothing left to apply"


async def test_a_database_that_was_not_migrated_is_named_as_that_and_left_as_it_is(empty: Project) -> None:
    empty.write_job(JOBS)

    answers = await asyncio.gather(
        *(in_thread(empty, *arguments) for arguments in (["run", "copy"], ["check"], ["runs", "--json"]))
    )

    assert [(2, "")] * 3 == [(answer.code, answer.out) for answer in answers]
    assert all("no etl schema yet (run: etl migrate)" in answer.err for answer in answers)
    with psycopg.connect(empty.dsn) as connection:
        assert connection.execute("SELECT to_regnamespace('etl')").fetchone() == (None,)


@pytest.mark.parametrize(
    ("change", "said", "commands"),
    [
        (
            "INSERT INTO etl.migration (version, name, sha256) VALUES (9999, 'of_tomorrow', 'x')",
            "upgrade pg-etl",
            ["migrate", "run copy", "worker", "demo"],
        ),
        ("UPDATE etl.migration SET sha256 = 'another'", "was changed after it was applied", ["migrate", "run copy"]),
    ],
)
async def test_a_schema_that_is_newer_or_another_than_the_programs_is_refused_by_every_command(
    shop: Project, db: asyncpg.Connection[asyncpg.Record], change: str, said: str, commands: list[str]
) -> None:
    await db.execute(change)
    before = schema(shop.dsn)

    answers = await asyncio.gather(*(in_thread(shop, *command.split()) for command in commands))

    assert [(2, "")] * len(commands) == [(answer.code, answer.out) for answer in answers]
    assert all(said in answer.err for answer in answers)
    assert before == schema(shop.dsn)
    assert 10 == await db.fetchval("SELECT count(*) FROM src WHERE status = 'pending'")
