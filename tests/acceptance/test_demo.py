"""The demonstration: real flights, exact books, next steps that work, and nothing of anybody else's touched."""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest

from etl import ConfigurationError
from etl.demo import FLIGHT_COLUMNS, jobs_folder, read_csv
from tests.battery import finished, told
from tests.kit import Finished, Project, eventually

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

BOOKS = {"claimed": 27_004, "written": 25_804, "filtered": 521, "quarantined": 679}

HEADER = ",".join(FLIGHT_COLUMNS)
TO_HOUSTON = "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"
TO_AGUADILLA = "2013,1,1,544,545,-1,1004,1022,-18,B6,725,N804JB,JFK,BQN,183,1576,5,45,2013-01-01T10:00:00Z"
CANCELLED = "2013,1,1,NA,1630,NA,NA,1815,NA,EV,4308,,EWR,RDU,NA,416,16,30,2013-01-01T21:00:00Z"


async def etl(project: Project, *arguments: str, **options: dict[str, str]) -> Finished:
    return await asyncio.to_thread(lambda: project.etl(*arguments, env=options.get("env")))


def next_steps(output: str) -> list[str]:
    """The commands that the demo tells to type, word for word."""
    return [line.strip() for line in output.split("Add what is missing and replay:")[1].splitlines() if line.strip()]


# The whole of January


async def test_january_balances_and_the_printed_next_steps_word_for_word_write_the_rest(
    project: Project, db: Db
) -> None:
    """Then the results are checked against columns of the input that the job does not read."""
    bin_folder = project.folder / "bin"
    bin_folder.mkdir()
    command = bin_folder / "etl"
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from etl.cli import main; main()' \"$@\"\n")
    command.chmod(0o755)
    environment = project.environment | {"PATH": f"{bin_folder}:{os.environ['PATH']}"}

    def shell(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            line, shell=True, cwd=project.folder, env=environment, capture_output=True, text=True, check=False
        )

    shown = await asyncio.to_thread(shell, "etl demo")

    assert 0 == shown.returncode, shown.stderr
    assert "books balance: 27,004 claimed = 25,804 written + 521 filtered + 679 quarantined" in shown.stdout
    assert "679  UnknownAirport in to_instants: no airport 'BQN' (and 3 like it)" in shown.stdout
    marked = "SELECT status, count(*) FROM flights_inbox GROUP BY 1 ORDER BY 1"
    assert [("done", 26_325), ("failed", 679)] == [tuple(row) for row in await db.fetch(marked)]

    steps = next_steps(shown.stdout)
    assert ["etl demo --add-airports", "etl replay flights --error UnknownAirport"] == steps
    results = [await asyncio.to_thread(shell, step) for step in steps]

    assert [0, 0] == [result.returncode for result in results], [result.stderr for result in results]
    assert "books balance: 679 claimed = 679 written" in results[1].stdout
    assert 25_804 + 679 == await db.fetchval("SELECT count(*) FROM flight")
    assert 0 == await db.fetchval("SELECT count(*) FROM etl.row_issue WHERE state = 'open'")
    assert 27_004 == await db.fetchval("SELECT count(*) FROM flights_inbox WHERE status = 'done'")

    checks = await db.fetchrow("""
        SELECT count(*) AS flights,
               count(*) FILTER (WHERE date_trunc('hour', scheduled_departure) = time_hour) AS scheduled_as_filed,
               count(*) FILTER (WHERE departed_at = scheduled_departure + dep_delay * interval '1 minute') AS departed,
               count(*) FILTER (WHERE arr_time IS NULL AND arrived_at IS NULL
                    OR to_char(arrived_at AT TIME ZONE tzone, 'HH24MI')::int = arr_time % 2400
                       AND arrived_at > departed_at AND arrived_at <= departed_at + interval '1 day') AS arrived,
               count(*) FILTER (WHERE delay = CASE WHEN dep_delay < 0 THEN 'early' WHEN dep_delay < 15 THEN 'on_time'
                                                   WHEN dep_delay < 60 THEN 'late' ELSE 'very_late' END) AS classed
          FROM flight f
          JOIN flights_inbox i USING (id)
          JOIN airport ON faa = i.dest""")
    assert checks is not None
    assert [26_483] * 5 == list(checks)


async def test_a_demo_that_was_killed_in_the_middle_is_repeated_cleanly_and_a_finished_one_too(
    project: Project, db: Db
) -> None:
    """The killed one leaves a run, a lease and half of the rows."""
    killed = project.start("demo")
    await eventually(lambda: db.fetchval("SELECT count(*) > 3 FROM etl.batch WHERE state = 'done'"))
    killed.kill()
    killed.communicate()
    await db.execute("UPDATE etl.run SET lease_until = clock_timestamp() + interval '1 hour' WHERE state = 'running'")
    (lost,) = [row["run_id"] for row in await db.fetch("SELECT run_id FROM etl.run WHERE state = 'running'")]

    repeating = project.start("demo", "--json")
    await told(repeating, f"process {killed.pid} died in the middle of flights; waiting until its lease has run out")
    await db.execute("UPDATE etl.run SET lease_until = clock_timestamp() WHERE state = 'running'")
    repeated = Finished(*await finished(repeating))

    assert 0 == repeated.code, repeated.err
    assert BOOKS == {name: repeated.json[name] for name in BOOKS}
    assert "partial" == repeated.json["status"], "and yet the demo is done: exit code 0"
    assert lost not in [row["run_id"] for row in await db.fetch("SELECT run_id FROM etl.run")]

    added = await etl(project, "demo", "--add-airports")
    again = await etl(project, "demo", "--flights", write(project, [TO_AGUADILLA]), "--json")

    assert (0, "") == (added.code, added.out)
    assert (1, 1) == (again.json["claimed"], again.json["quarantined"]), "the airports were forgotten, too"
    assert 1 == await db.fetchval("SELECT count(*) FROM etl.run")


async def test_a_demo_that_is_running_elsewhere_is_not_disturbed(project: Project, db: Db) -> None:
    first = await etl(project, "demo", "--flights", write(project, [TO_HOUSTON]), "--json")
    alive = f"""
        INSERT INTO etl.run (run_id, job, trigger, overlap_key, state, started_at, lease_until, host, pid)
        VALUES (gen_random_uuid(), 'flights', 'manual', 'flights', 'running', now(), now() + interval '1 hour',
                'elsewhere', {os.getpid()})"""
    await db.execute(alive)

    refused = await etl(project, "demo")

    assert (0, 2, "") == (first.code, refused.code, refused.out)
    assert "etl: demo: run " in refused.err
    assert "on elsewhere" in refused.err
    assert 1 == await db.fetchval("SELECT count(*) FROM flight")


# Other people's tables


@pytest.mark.parametrize(
    ("theirs", "named"),
    [
        ("CREATE TABLE airport (faa text)", "airport"),
        ("CREATE TABLE flight (id int); COMMENT ON TABLE flight IS 'flights of stairs'", "flight"),
        ("CREATE VIEW flights_inbox AS SELECT 1 AS id", "flights_inbox"),
    ],
)
async def test_tables_of_these_names_that_the_demo_did_not_make_are_left_alone(
    project: Project, db: Db, theirs: str, named: str
) -> None:
    await db.execute(theirs)

    refused = await etl(project, "demo")
    missing = await etl(project, "demo", "--add-airports")

    assert [(2, "")] * 2 == [(refused.code, refused.out), (missing.code, missing.out)]
    assert f"etl: demo: the database has tables of its own named {named} in schema public (use another" in refused.err
    assert "the demo's tables are not here (run: " in missing.err
    relations = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
    assert [named] == [row["relname"] for row in await db.fetch(relations)]
    assert 0 == await db.fetchval("SELECT count(*) FROM etl.run")


# Flights of one's own


def write(project: Project, lines: list[str], header: str = HEADER, name: str = "own.csv") -> str:
    path = project.folder / name
    text = "\n".join([header, *lines]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(path)


async def test_a_file_of_ones_own_is_run_plain_or_gzipped_in_its_own_order(project: Project, db: Db) -> None:
    """Its books are worked out from the file, so a file without unknown airports is a success."""
    mixed = await etl(
        project, "demo", "--flights", write(project, [TO_AGUADILLA, CANCELLED, TO_HOUSTON], name="o.csv.gz")
    )
    inbox = [tuple(row) for row in await db.fetch("SELECT id, dest, dep_time, tailnum FROM flights_inbox ORDER BY id")]

    fine = await etl(project, "demo", "--flights", write(project, [TO_HOUSTON]), "--json")

    name = await db.fetchval("SELECT current_database()")
    assert 0 == mixed.code
    first = mixed.err.splitlines()[0]
    assert first.startswith(f"the demonstration goes into database {name}")
    assert first.endswith(" (ETL_DATABASE_URL)")
    assert "books balance: 3 claimed = 1 written + 1 filtered + 1 quarantined" in mixed.out
    assert "1 flight goes to an airport that the list lacks" in mixed.out
    assert [(1, "BQN", 544, "N804JB"), (2, "RDU", None, None), (3, "IAH", 517, "N14228")] == inbox
    assert (0, "succeeded", 1) == (fine.code, fine.json["status"], fine.json["written"])
    assert 0 == await db.fetchval("SELECT count(*) FROM airport WHERE faa IN ('BQN', 'PSE', 'SJU', 'STT')")


BAD_FILES = {
    "another header": (HEADER.replace("tailnum", "tail"), [TO_HOUSTON], "the header is year,month", "it must be year"),
    "no header": (TO_HOUSTON, [], "the header is 2013,1,1", "it must be year"),
    "nothing at all": ("", [], "the header is missing", "it must be year"),
    "a word for a number": (
        HEADER,
        [TO_HOUSTON, TO_HOUSTON.replace("517", "noon")],
        "line 3: dep_time is 'noon'",
        "NA",
    ),
    "a time that is none": (HEADER, [TO_HOUSTON.replace("00Z", "61Z")], "line 2: time_hour is '2013-", "correct the"),
    "a cell too few": (
        HEADER,
        [TO_HOUSTON, TO_HOUSTON, TO_HOUSTON[:-21]],
        "line 4 has 18 cells, not 19",
        "correct the",
    ),
    "a line break in quotes": (HEADER, ['"a\nb"', TO_HOUSTON], "line 3 has 1 cells, not 19", "correct the line"),
    "a number beyond all columns": (
        HEADER,
        [TO_HOUSTON.replace("1545", "9" * 20)],
        "line 2: flight is '999",
        "correct",
    ),
    "a NUL": (HEADER, [TO_HOUSTON.replace("N14228", "N\x00")], "line 2: tailnum is 'N\\x00'", "correct the"),
}


def test_other_copies_of_the_data_are_read_too(tmp_path: Path) -> None:
    """With a byte order mark, Windows line ends, and times as the clock in New York shows them."""
    line = TO_HOUSTON.replace("2013-01-01T10:00:00Z", "2013-01-01 05:00:00")
    path = write(Project(tmp_path, ""), [line + "\r"], "\ufeff" + HEADER + "\r")

    (row,) = read_csv(Path(path), FLIGHT_COLUMNS)

    assert datetime(2013, 1, 1, 10, tzinfo=UTC) == row[-1]


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_read_is_told_with_its_line_and_a_remedy(tmp_path: Path, name: str) -> None:
    header, lines, problem, remedy = BAD_FILES[name]
    path = write(Project(tmp_path, ""), lines, header)

    with pytest.raises(ConfigurationError) as refusal:
        list(read_csv(Path(path), FLIGHT_COLUMNS))

    assert str(refusal.value).startswith(f"{path}: {problem}")
    assert remedy in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (gzip.compress(HEADER.encode())[:-4], "end-of-stream"),
        (b"\x1f\x8bnot gzip at all", "cannot be read"),
        (HEADER.encode("utf-16"), "can't decode"),
    ],
    ids=["missing", "cut off", "not gzip", "not UTF-8"],
)
def test_a_file_that_is_missing_or_damaged_is_told_as_that(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "flights.csv"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=said) as refusal:
        list(read_csv(path, FLIGHT_COLUMNS))

    assert str(path) in str(refusal.value)


async def test_books_that_do_not_come_out_as_counted_beforehand_are_no_success(project: Project, db: Db) -> None:
    """A flight that left, but nobody knows how late: the job fails on it, which the count in SQL does not foresee."""
    result = await etl(
        project, "demo", "--flights", write(project, [TO_HOUSTON, TO_HOUSTON.replace("515,2", "515,NA")])
    )

    assert 3 == result.code
    assert "books balance: 2 claimed = 1 written + 1 quarantined" in result.out
    assert "should have come to 2 claimed = 2 written + 0 filtered + 0 quarantined" in result.err
    assert "replay" not in result.out.split("errors")[0]


async def test_a_wrong_file_leaves_a_loaded_demo_as_it_was(project: Project, db: Db) -> None:
    await etl(project, "demo", "--flights", write(project, [TO_HOUSTON]))
    before = await db.fetch("SELECT run_id, state FROM etl.run")

    missing, wrong = await asyncio.gather(
        etl(project, "demo", "--flights", "nowhere.csv"),
        etl(project, "demo", "--flights", write(project, [TO_HOUSTON.replace("EWR", "EWR,x")], name="wrong.csv")),
    )

    assert [(2, "")] * 2 == [(missing.code, missing.out), (wrong.code, wrong.out)]
    assert (
        "etl: nowhere.csv: cannot be read: No such file or directory (give a CSV file, plain or gzipped)" in missing.err
    )
    assert "loading" not in missing.err
    assert "wrong.csv: line 2 has 20 cells, not 19 (correct the line)" in wrong.err
    assert before == await db.fetch("SELECT run_id, state FROM etl.run")
    assert 1 == await db.fetchval("SELECT count(*) FROM flight")


async def test_the_loaded_flights_job_can_be_run_checked_and_replayed_from_anywhere_but_is_nobody_elses_job(
    project: Project,
) -> None:
    project.write_job("""
        from etl import BatchProcessingSource, Pipeline, PPrintSink
        mine = Pipeline("mine", BatchProcessingSource("airport", pending="false", done="name = name"), PPrintSink())
    """)
    before = await etl(project, "run", "flights")
    await etl(project, "demo", "--flights", write(project, [TO_HOUSTON]))

    run, checked, everything, listed = await asyncio.gather(
        etl(project, "run", "flights", "--json"),
        etl(project, "check", "flights"),
        etl(project, "check", "--json"),
        etl(project, "jobs", "--json"),
    )

    assert (2, "no job 'flights' (there are: mine)") == (before.code, before.err.strip().removeprefix("etl: JOB: "))
    assert (0, 0, "1 job, no faults\n") == (run.code, checked.code, checked.out)
    assert ["mine"] == everything.json["jobs"] == [job["name"] for job in listed.json]


def test_the_data_lies_beside_the_job_and_is_what_it_was() -> None:
    rows = list(read_csv(jobs_folder() / "flights-2013-01.csv.gz", FLIGHT_COLUMNS))

    assert (27_004, {2013}, {1}) == (len(rows), {row[0] for row in rows}, {row[1] for row in rows})
    assert 521 == sum(row[3] is None for row in rows)
