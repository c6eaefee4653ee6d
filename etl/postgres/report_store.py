"""The facts of a run for its report."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from uuid import UUID

from etl.core.report import (
    BatchSpan,
    ErrorGroup,
    FormerError,
    Outlook,
    RunDetail,
    RunReport,
    SetAside,
    Slice,
    gone,
    with_standing,
)
from etl.core.run import REPLAY, Run, RunState
from etl.core.stages import StageCounts, fold_stages
from etl.errors import ConfigurationError
from etl.postgres.database import Connection, Database
from etl.postgres.issues import key_text
from etl.postgres.run_store import run_of
from etl.postgres.statements import statement

FORMER = 30  # runs to compare with
PARTS = 60  # slices of a run's time
FOLDED = 60  # batches that are shown one by one
SLOWEST = 20  # ... and of more than that only so many
SHOWN = 50  # rows in quarantine with their payload
# Characters of a payload: as much as is kept of one, so that nothing is cut before secrets are blanked.
_PAYLOAD = 70_000
_RUN = re.compile(r"[0-9a-f-]{4,36}")  # an id or the beginning of one
_JOB = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class PostgresReportStore:
    """Reads what is recorded about runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def report(self, run_id: UUID) -> RunReport | None:
        """The facts of one run; None if there is no such run."""
        return await self._database.unit(lambda connection: _report(connection, run_id))

    async def detail(self, run_id: UUID) -> RunDetail | None:
        """The facts of one run with its batches and the rows it set aside; None if there is no such run."""

        async def read(connection: Connection) -> RunDetail | None:
            report = await _report(connection, run_id)
            if report is None:
                return None
            batches = await connection.fetch(statement("report_batches"), run_id, FOLDED, SLOWEST)
            rows = await connection.fetch(statement("report_set_aside"), run_id, SHOWN, _PAYLOAD)
            names = BatchSpan.__dataclass_fields__
            return RunDetail(
                report,
                [BatchSpan(**{name: batch[name] for name in names}) for batch in batches],
                batches[0]["total"] if batches else 0,
                float(batches[0]["busy_s"]) if batches else 0.0,
                [SetAside(**{**{n: row[n] for n in _ASIDE}, "key": key_text(row["key"])}) for row in rows],
                rows[0]["total"] if rows else 0,
            )

        return await self._database.unit(read)

    async def outlook(self, job: str) -> Outlook:
        """What the database knows of how a job stands now: pauses, and rows that are kept apart."""
        row = await self._database.unit(lambda connection: connection.fetchrow(statement("report_job"), job))
        assert row is not None
        return Outlook(held=row["held"], paused_at=row["paused_at"], paused_by=row["paused_by"])

    async def recent(self, jobs: Sequence[str], limit: int) -> dict[str, list[RunState]]:
        """How the last runs of jobs ended, oldest first."""
        rows = await self._database.unit(
            lambda connection: connection.fetch(statement("report_recent"), list(jobs), limit)
        )
        strips: dict[str, list[RunState]] = {job: [] for job in jobs}
        for row in rows:
            strips[row["job"]].insert(0, RunState(row["state"]))
        return strips

    async def resolve(self, text: str | None, jobs: Collection[str] = ()) -> UUID:
        """A run by its id, the beginning of it, or its job (the newest run of that); None: the newest of all.

        `jobs` are names that exist besides those that have runs. Raises `ConfigurationError` with the nearest names.
        """
        if text is None:
            return await self.resolve_run(None)
        if _JOB.fullmatch(text):
            found = await self._database.unit(lambda connection: connection.fetchrow(statement("report_job"), text))
            if found is not None and found["newest"] is not None:
                return UUID(str(found["newest"]))
        if text in jobs:
            raise ConfigurationError(f"job {text!r} has no run yet", setting="RUN", remedy=f"start one: etl run {text}")
        try:
            return await self.resolve_run(text)
        except ConfigurationError as error:
            known = await self._database.unit(lambda connection: connection.fetch(statement("report_known_jobs")))
            near = difflib.get_close_matches(text, {*jobs, *(row["job"] for row in known)}, n=3)
            if near:
                remedy = f"did you mean {' or '.join(near)}?"
            elif not _RUN.fullmatch(text.strip().lower()):
                remedy = "see: etl runs, etl jobs"
            else:
                raise
            raise ConfigurationError(f"{error.problem}, nor a job", setting="RUN", remedy=remedy) from None

    async def require_job(self, job: str, jobs: Collection[str]) -> None:
        """Raises `ConfigurationError` with the nearest names unless it is one of `jobs` or has runs."""
        known = await self._database.unit(lambda connection: connection.fetch(statement("report_known_jobs")))
        names = {*jobs, *(row["job"] for row in known)}
        if job not in names:
            near = difflib.get_close_matches(job, names, n=3)
            remedy = f"did you mean {' or '.join(near)}?" if near else "see: etl jobs"
            raise ConfigurationError(f"no job {job!r}", setting="JOB", remedy=remedy)

    async def before(self, run_id: UUID) -> UUID | None:
        """The newest finished run of the same job before this one that had rows; None where there was none."""
        found = await self._database.unit(
            lambda connection: connection.fetchval(statement("report_run_before"), run_id)
        )
        return None if found is None else UUID(str(found))

    async def resolve_run(self, text: str | None, job: str | None = None) -> UUID:
        """A run by its id, the beginning of it, or (None) the newest one. Raises `ConfigurationError` otherwise."""
        if text is None:
            rows = await self._database.unit(lambda connection: connection.fetch(statement("list_runs"), job, None, 1))
            if not rows:
                raise ConfigurationError("no run is recorded yet", setting="RUN", remedy="start one: etl run JOB")
            return UUID(str(rows[0]["run_id"]))
        prefix = text.strip().lower()
        if not _RUN.fullmatch(prefix):
            raise ConfigurationError(f"{text!r} is not a run id", setting="RUN", remedy="see: etl runs")
        bounds = _between(prefix)
        rows = await self._database.unit(lambda connection: connection.fetch(statement("find_runs_by_prefix"), *bounds))
        if len(rows) != 1:
            raise ConfigurationError(
                f"several runs begin with {text!r}" if rows else f"no run {text!r}",
                setting="RUN",
                remedy=await self._near(prefix, [row["run_id"] for row in rows]),
            )
        return UUID(str(rows[0]["run_id"]))

    async def _near(self, prefix: str, meant: Sequence[UUID]) -> str:
        """Which runs may have been meant."""
        ids = [str(each)[: len(prefix) + 4] for each in meant]
        if not ids:
            rows = await self._database.unit(
                lambda connection: connection.fetch(statement("list_runs"), None, None, 200)
            )
            length = max(8, len(prefix))
            ids = difflib.get_close_matches(prefix, {str(row["run_id"])[:length] for row in rows}, n=3, cutoff=0.75)
        return f"did you mean {' or '.join(ids)}?" if ids else "see: etl runs"


def _between(prefix: str) -> tuple[UUID, UUID]:
    """The first and the last id that begin so. Raises `ConfigurationError`."""
    digits = prefix.replace("-", "")
    first, last = (digits.ljust(32, filler) for filler in "0f")
    misplaced = "-" in prefix and len(digits) <= 32 and not str(UUID(first)).startswith(prefix)
    if len(digits) > 32 or misplaced:
        raise ConfigurationError(f"{prefix!r} is not a run id", setting="RUN", remedy="see: etl runs")
    return UUID(first), UUID(last)


_ASIDE = ("state", "stage", "error_type", "message", "attempts", "opened_at", "payload", "payload_size")


async def _report(connection: Connection, run_id: UUID) -> RunReport | None:
    row = await connection.fetchrow(statement("read_run"), run_id)
    if row is None:
        return None
    run = run_of(row)
    batches = await connection.fetch(statement("read_stages"), run_id)
    stages = fold_stages([StageCounts.from_json(stage) for stage in batch["stages"]] for batch in batches)
    errors = [
        ErrorGroup(
            stage=group["stage"],
            error_type=group["error_type"],
            example=group["example"],
            messages=group["messages"],
            rows=group["rows"],
            open_rows=group["open"],
            key=key_text(group["key"]),
            fingerprint=group["fingerprint"],
            frame=group["frame"],
            traceback=group["traceback"],
        )
        for group in await connection.fetch(statement("report_errors"), run_id)
    ]
    former = [run_of(each) for each in await connection.fetch(statement("report_former_runs"), run_id, FORMER)]
    known = await _former_errors(connection, former)
    return RunReport(
        run, stages, with_standing(errors, known, bool(former)), former, gone(run, errors, known),
        await _slices(connection, run_id),
    )  # fmt: skip


async def _former_errors(connection: Connection, former: Sequence[Run]) -> list[FormerError]:
    last = next((run.run_id for run in former if run.trigger != REPLAY and run.counts.claimed), None)
    rows = await connection.fetch(statement("report_former_errors"), [run.run_id for run in former], last)
    return [FormerError(**dict(row)) for row in rows]


async def _slices(connection: Connection, run_id: UUID) -> list[Slice]:
    """All parts of the run's time, those without a batch included."""
    found = {row["part"]: row for row in await connection.fetch(statement("report_slices"), run_id, PARTS)}
    if not found:
        return []
    width = next(iter(found.values()))["seconds"] / PARTS
    return [
        Slice((part - 1) * width, part * width, *((0, 0, 0) if (row := found.get(part)) is None else
              (row["rows"], row["quarantined"], row["batches"])))
        for part in range(1, PARTS + 1)
    ]  # fmt: skip
