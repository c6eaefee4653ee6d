"""The demonstration: real flights, loaded into an inbox and worked off by the job in `jobs/flights.py`."""

from __future__ import annotations

import asyncio
import csv
import gzip
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from zoneinfo import ZoneInfo

from etl.app import Application
from etl.core.pipeline import Pipeline
from etl.core.run import Run
from etl.errors import ConfigurationError
from etl.late import late
from etl.postgres.asking import find_blocker
from etl.postgres.database import Connection
from etl.postgres.statements import statement

if TYPE_CHECKING:
    import psutil
else:
    psutil = late("psutil")

JOB = "flights"
_TABLES = ("airport", "flights_inbox", "flight")
_MISSING = ("", "NA", r"\N")
_NEW_YORK = ZoneInfo("America/New_York")  # what times without an offset mean in the published tables
_LOOK_AGAIN = 0.2  # seconds
_LONGEST_WAIT = 60.0


def _text(cell: str) -> str | None:
    if "\x00" in cell:
        raise ValueError("a NUL")
    return None if cell in _MISSING else cell


def _integer(cell: str) -> int | None:
    number = None if cell in _MISSING else int(cell)
    if number is not None and not -(2**31) <= number < 2**31:
        raise ValueError("more than an integer column holds")
    return number


def _number(cell: str) -> float | None:
    return None if cell in _MISSING else float(cell)


def _instant(cell: str) -> datetime | None:
    if cell in _MISSING:
        return None
    moment = datetime.fromisoformat(cell)
    return moment.replace(tzinfo=_NEW_YORK) if moment.tzinfo is None else moment


Reader = Callable[[str], Any]
FLIGHT_COLUMNS: dict[str, Reader] = {
    "year": _integer, "month": _integer, "day": _integer, "dep_time": _integer, "sched_dep_time": _integer,
    "dep_delay": _integer, "arr_time": _integer, "sched_arr_time": _integer, "arr_delay": _integer, "carrier": _text,
    "flight": _integer, "tailnum": _text, "origin": _text, "dest": _text, "air_time": _integer, "distance": _integer,
    "hour": _integer, "minute": _integer, "time_hour": _instant,
}  # fmt: skip
AIRPORT_COLUMNS: dict[str, Reader] = {
    "faa": _text, "name": _text, "lat": _number, "lon": _number, "alt": _integer, "tz": _number, "dst": _text,
    "tzone": _text,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Expected:
    """The books the demonstration must come to, counted in SQL."""

    claimed: int
    written: int
    filtered: int
    quarantined: int

    def __str__(self) -> str:
        parts = f"{self.written:,} written + {self.filtered:,} filtered + {self.quarantined:,} quarantined"
        return f"{self.claimed:,} claimed = {parts}"

    def met_by(self, run: Run) -> bool:
        """Whether the run's books are these, and balance."""
        counts = run.counts
        found = (counts.claimed, counts.written, counts.filtered, counts.quarantined)
        return counts.balanced and found == (self.claimed, self.written, self.filtered, self.quarantined)


def jobs_folder() -> Path:
    """`jobs/`: inside the package in a wheel, beside it in a checkout."""
    packaged = Path(str(files("etl"))) / "_jobs"
    return packaged if packaged.is_dir() else Path(str(files("etl"))).parent / "jobs"


def flights_job() -> Pipeline:
    """The job of the demonstration, wherever one stands."""
    spec = importlib.util.spec_from_file_location("etl_demo_flights", jobs_folder() / "flights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    job = module.flights
    assert isinstance(job, Pipeline)
    return job


async def is_loaded(application: Application) -> bool:
    """Whether this database holds the demonstration's tables."""
    found = await application.database.unit(lambda connection: connection.fetch(statement("demo_find")))
    return len(found) == len(_TABLES) and all(row["ours"] for row in found)


async def load(application: Application, flights: Path, tell: Callable[[str], None] = lambda text: None) -> Expected:
    """Make the tables anew and fill them. Nothing is changed when a file is wrong or a table is somebody else's.

    Raises `ConfigurationError`.
    """
    airports = list(read_csv(jobs_folder() / "airports.csv", AIRPORT_COLUMNS))
    rows = list(read_csv(flights, FLIGHT_COLUMNS))
    await _outwait_killed(application, tell)

    async def fill(connection: Connection) -> None:
        await _clear(connection)
        await connection.execute(statement("demo_create"))
        await _copy(connection, "airport", AIRPORT_COLUMNS, airports)
        await _copy(connection, "flights_inbox", FLIGHT_COLUMNS, rows)
        await connection.execute("ANALYZE public.airport, public.flights_inbox")

    await application.database.unit(fill)
    return await expected(application)


async def expected(application: Application) -> Expected:
    """What the job must come to with the tables as they are."""
    row = await application.database.unit(lambda connection: connection.fetchrow(statement("demo_expect")))
    assert row is not None
    return Expected(row["claimed"], row["written"], row["filtered"], row["quarantined"])


async def add_airports(application: Application) -> int:
    """Add the airports that the list lacks; how many were new."""
    status = await application.database.unit(lambda connection: connection.execute(statement("demo_add_airports")))
    return int(status.split()[-1])


async def _outwait_killed(application: Application, tell: Callable[[str], None]) -> None:
    """A demonstration that was killed leaves a run with a lease (of the length it was started with): wait it out."""
    deadline = time.monotonic() + max(_LONGEST_WAIT, application.settings.lease.total_seconds())
    told = False
    while time.monotonic() < deadline:
        blocker = await application.database.unit(lambda connection: find_blocker(connection, JOB))
        if blocker is None or blocker.lost or blocker.host != application.worker.host or blocker.pid is None:
            return
        if psutil.pid_exists(blocker.pid):
            return
        if not told:
            told = True
            tell(f"process {blocker.pid} died in the middle of {JOB}; waiting until its lease has run out")
        await asyncio.sleep(_LOOK_AGAIN)


async def _clear(connection: Connection) -> None:
    foreign = [row["name"] for row in await connection.fetch(statement("demo_find")) if not row["ours"]]
    if foreign:
        raise ConfigurationError(
            f"the database has tables of its own named {', '.join(foreign)} in schema public",
            setting="demo",
            remedy="use another database, or move them; the demo replaces only what it made",
        )
    blocker = await find_blocker(connection, JOB)
    if blocker is not None and not blocker.lost and blocker.host is not None:
        raise ConfigurationError(blocker.describe(), setting="demo", remedy="wait until it has ended")
    await connection.execute(statement("demo_forget"))


async def _copy(connection: Connection, table: str, columns: dict[str, Reader], rows: Sequence[Sequence[Any]]) -> None:
    await connection.copy_records_to_table(table, schema_name="public", columns=list(columns), records=rows)


def read_csv(path: Path, columns: dict[str, Reader]) -> Iterator[list[Any]]:
    """The rows of a CSV file (may be gzipped) with exactly these columns. Raises `ConfigurationError` with the line."""
    try:
        with _opened(path) as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            if header != list(columns):
                raise _refusal(
                    path, f"the header is {','.join(header)[:80] or 'missing'}", f"it must be {','.join(columns)}"
                )
            for cells in reader:
                yield _read_line(path, reader.line_num, cells, columns)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else None  # without a number and the path once more
        raise _refusal(path, f"cannot be read: {reason or error}", "give a CSV file, plain or gzipped") from None


def _opened(path: Path) -> TextIO:
    with path.open("rb") as probe:
        zipped = probe.read(2) == b"\x1f\x8b"
    if zipped:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open("rt", encoding="utf-8-sig", newline="")


def _read_line(path: Path, number: int, cells: list[str], columns: dict[str, Reader]) -> list[Any]:
    if len(cells) != len(columns):
        raise _refusal(path, f"line {number} has {len(cells)} cells, not {len(columns)}", "correct the line")
    row = []
    for (name, read), cell in zip(columns.items(), cells, strict=True):
        try:
            row.append(read(cell))
        except ValueError:
            raise _refusal(path, f"line {number}: {name} is {cell[:40]!r}", "correct the cell, or write NA") from None
    return row


def _refusal(path: Path, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(problem, setting=str(path), remedy=remedy)
