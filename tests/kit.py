"""What tests share: tracing that goes nowhere, projects on disk with the real command line, waiting for an event."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import uuid4

from etl import Pipeline, PPrintSink, Trigger, TriggerSource
from etl.core.batch import Processed
from etl.core.counts import Counts
from etl.core.ports import JobMeasures, LeaseRenewer, TelemetryStore, WorkerIdentity
from etl.core.run import Run
from etl.core.service import Service
from etl.postgres.database import Database
from etl.postgres.schedule_store import PostgresScheduleStore

T = TypeVar("T")


def processed_to(outputs: Iterable[tuple[int, Any]], **more: Any) -> Processed:
    """A batch processed to these results, each with the position of its row."""
    processed = Processed(**more)
    processed.outputs = list(outputs)
    return processed


class _NoSpan:
    def set(self, **attributes: Any) -> None:
        """Nothing."""

    def fail(self, error: BaseException | str) -> None:
        """Nothing."""

    def ended(self, run: Run, *, lost: bool, idle: bool) -> None:
        """Nothing."""


class NoTracing:
    """`core.ports.Tracing` without spans, log lines and metrics."""

    measured = False

    @asynccontextmanager
    async def keep(self, store: TelemetryStore) -> AsyncIterator[None]:
        """Nothing is kept."""
        yield

    @contextmanager
    def run(self, run: Run, **attributes: Any) -> Iterator[_NoSpan]:
        """A run without a span."""
        yield _NoSpan()

    @contextmanager
    def span(self, name: str, **attributes: Any) -> Iterator[_NoSpan]:
        """A block without a span."""
        yield _NoSpan()

    def event(
        self, name: str, attributes: Mapping[str, Any], error: BaseException | None = None, row: Any = None
    ) -> None:
        """Nothing."""

    def traceparent(self) -> str | None:
        """There is no trace."""
        return None

    def progress(self, run: Run, counts: Counts) -> None:
        """Nothing."""

    def reaped(self, run: Run) -> None:
        """Nothing."""

    def measure(self, job: str, measures: JobMeasures, backlog: int | None) -> None:
        """Nothing."""

    def leases(self, opening: AbstractAsyncContextManager[LeaseRenewer]) -> AbstractAsyncContextManager[LeaseRenewer]:
        """As they are."""
        return opening


async def eventually(check: Callable[[], Awaitable[T]], *, within: float = 20.0) -> T:
    """The first true answer of `check`. Fails with the last answer when none comes in time.

    The one place where tests poll: what another process did can only be seen in the database.
    """
    deadline = time.monotonic() + within
    while True:
        answer = await check()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"did not happen within {within} s; last answer: {answer!r}"
        await asyncio.sleep(0.02)


@dataclass
class Project:
    """A folder as a user has it, and the real command line in it.

    `jobs` is the text of `jobs/work.py`; `settings` become ETL_... variables.
    """

    folder: Path
    dsn: str
    settings: dict[str, str] = field(default_factory=dict)

    def write_job(self, text: str, module: str = "work") -> Path:
        """Write `jobs/<module>.py`."""
        path = self.folder / "jobs" / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a call: nothing of ETL_ or OTEL_ leaks in from outside."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ETL_", "OTEL_"))}
        own = {f"ETL_{name.upper()}": value for name, value in self.settings.items()}
        return {**inherited, "ETL_DATABASE_URL": self.dsn, "PYTHONDONTWRITEBYTECODE": "1", **own}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start `etl ARGUMENTS`; the caller ends it."""
        return subprocess.Popen(
            [sys.executable, "-m", "etl", *arguments],
            cwd=self.folder,
            env={**self.environment, **options.pop("env", {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def etl(self, *arguments: str, timeout: float = 60.0, env: dict[str, str] | None = None) -> Finished:
        """Run `etl ARGUMENTS` to its end."""
        process = self.start(*arguments, env=env or {})
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return Finished(process.returncode, out, err)


@dataclass(frozen=True)
class Finished:
    """A finished call of the command line."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed with --json."""
        return json.loads(self.out)


class Idle(TriggerSource):
    """A source whose cycle does nothing."""

    async def cycle(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


def a_job(name: str, *triggers: Trigger, **options: Any) -> Pipeline:
    """A job that does nothing, when its triggers say so."""
    return Pipeline(name, Idle().on(*triggers), PPrintSink(), **options)


def schedules(
    database: Database,
    *pipelines: Pipeline,
    worker: WorkerIdentity | None = None,
    lease: timedelta = timedelta(seconds=30),
    pools: Mapping[str, int] = MappingProxyType({}),
) -> PostgresScheduleStore:
    """What a worker that serves these jobs schedules by."""
    return PostgresScheduleStore(
        database,
        Service({pipeline.name: pipeline for pipeline in pipelines}, pools),
        worker or WorkerIdentity(uuid4(), "here", os.getpid()),
        lease,
        timedelta(days=90),
    )
