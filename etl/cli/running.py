"""Commands that run jobs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from etl import demo
from etl.app import Application, HandControls
from etl.cli.live import by_hand
from etl.cli.reporting import tell
from etl.cli.session import job_named, jobs_here, on_signals, refuse_unknown, with_application
from etl.cli.talk import program, say, show, show_json
from etl.config import Settings, setting_origins
from etl.core.blocker import Blocker
from etl.core.run import EXIT_DONE, EXIT_FAILED, EXIT_MISUSE, EXIT_SKIPPED, Run, exit_code
from etl.errors import ConfigurationError, DatabaseUnavailableError
from etl.postgres.connection_url import database_in
from etl.postgres.report_store import PostgresReportStore
from etl.reports.facts import run_facts, skipped_facts
from etl.runtime.worker import Worker

T = TypeVar("T")

DEFAULT_FLIGHTS = "flights-2013-01.csv.gz"


def run(settings: Settings, name: str, limit: int | None, arguments: Mapping[str, Any], json: bool) -> int:
    """Run one job; the exit code says how it ended."""

    async def work(application: Application) -> int:
        pipeline = await job_named(application, settings, name)

        async def to_do() -> int | None:
            bounds = (limit, await application.ahead(pipeline))
            return min((bound for bound in bounds if bound is not None), default=None)

        async with by_hand(application.database, name, to_do) as hand:
            on_signals(lambda: _drain(hand, settings), lambda: hand.control.abort("stopped by a second signal"))
            outcome = await _survive(application.run_job(pipeline, hand, limit=limit, arguments=arguments))
        code = await _told(application, name, outcome, json)
        if isinstance(outcome, Run):
            await application.tidy_by_the_way()
        return code

    refuse_unknown(settings, name)
    return with_application(settings, work)


def replay(settings: Settings, name: str, error: str | None, run_text: str | None, json: bool) -> int:
    """Replay rows in quarantine; the exit code says how that ended."""

    async def work(application: Application) -> int:
        pipeline = await job_named(application, settings, name)
        run_id: UUID | None = None
        if run_text is not None:
            run_id = await PostgresReportStore(application.database).resolve_run(run_text)

        async def to_do() -> int:
            return sum((await application.issues.count(name, error, run_id)).values())

        async with by_hand(application.database, name, to_do) as hand:
            on_signals(lambda: _drain(hand, settings), lambda: hand.control.abort("stopped by a second signal"))
            replayed = await _survive(application.replay(pipeline, hand, error=error, run_id=run_id))
        if replayed is None or replayed.run is None:
            return await _nothing_to_replay(application, name, error, json) if replayed is not None else EXIT_FAILED
        if replayed.gone:
            say(f"{replayed.gone} rows in quarantine are gone or were handled since; their entries were closed")
        return await _told(application, name, replayed.run, json)

    refuse_unknown(settings, name)
    return with_application(settings, work)


async def _nothing_to_replay(application: Application, name: str, error: str | None, json: bool) -> int:
    others = await application.issues.count(name, None, None)
    known = ", ".join(f"{count:,} {kind}" for kind, count in others.items())
    what = f"with error {error}" if error else "that match"
    say(f"nothing to replay: no rows of {name} in quarantine {what}" + (f"; there are: {known}" if known else ""))
    if json:
        show_json(None)
    return EXIT_DONE


def work(settings: Settings) -> int:
    """Be a worker until stopped."""
    found = jobs_here(settings)
    if not found.pipelines:
        say(f"etl: no jobs in {Path.cwd()}: put job modules in jobs/, or name their packages in the setting jobs")
        return EXIT_MISUSE

    async def main(application: Application) -> int:
        def ready(worker: Worker) -> None:
            on_signals(worker.stop, worker.stop)
            say(f"worker {application.worker.worker_id}: {', '.join(sorted(found.pipelines))}")

        await application.work(found.pipelines, ready)
        return EXIT_DONE

    return with_application(settings, main)


def demonstrate(settings: Settings, flights: Path | None, json: bool) -> int:
    """Load the flights, run the job, and say what to do next."""
    path = flights or demo.jobs_folder() / DEFAULT_FLIGHTS
    next(demo.read_csv(path, demo.FLIGHT_COLUMNS), None)  # before a server is made for nothing
    if settings.database_url:  # before anything is changed in it
        origin = setting_origins(Path.cwd(), os.environ)["database_url"]
        say(f"the demonstration goes into {database_in(settings.database_url)} ({origin})")

    async def main(application: Application) -> int:
        say(f"loading {path.name} into flights_inbox")
        expected = await demo.load(application, path, say)
        pipeline = jobs_here(settings, quiet=True).elsewhere.get(demo.JOB) or demo.flights_job()
        async with by_hand(application.database, pipeline.name, lambda: application.backlog(pipeline)) as hand:
            on_signals(lambda: _drain(hand, settings), lambda: hand.control.abort("stopped by a second signal"))
            outcome = await _survive(application.run_job(pipeline, hand))
        code = await _told(application, pipeline.name, outcome, json)
        if not isinstance(outcome, Run):
            return code
        if not expected.met_by(outcome):
            say(f"etl: the books should have come to {expected}")
            return code or EXIT_FAILED
        if not json:
            _next_steps(outcome)
        return EXIT_DONE

    return with_application(settings, main, migrate=True)


def _next_steps(run: Run) -> None:
    name = program()
    lines = [
        "",
        "The flights are in the table `flight`. To look around:",
        "",
        f"   {name} runs",
        f"   {name} quarantine flights",
    ]
    if run.counts.quarantined:
        lines += [
            "",
            f"{_lacking(run.counts.quarantined)} that the list lacks. Add what is missing and replay:",
            "",
            f"   {name} demo --add-airports",
            f"   {name} replay flights --error UnknownAirport",
        ]
    show(lines)


def _lacking(flights: int) -> str:
    return "1 flight goes to an airport" if flights == 1 else f"{flights:,} flights go to airports"


def add_airports(settings: Settings) -> None:
    """Add what the list of airports lacks."""

    async def main(application: Application) -> None:
        if not await demo.is_loaded(application):
            raise ConfigurationError("the demo's tables are not here", setting="demo", remedy=f"run: {program()} demo")
        say(f"{await demo.add_airports(application)} airports added: BQN, PSE, SJU, STT")

    with_application(settings, main)


def _drain(hand: HandControls, settings: Settings) -> None:
    say("stopping: finishing what is in hand (again to give it back at once)")
    hand.control.stop("stopped by a signal")
    grace = settings.grace.total_seconds()
    asyncio.get_running_loop().call_later(grace, hand.control.abort, "did not come to an end in time")


async def _survive(outcome: Awaitable[T]) -> T | None:
    """The outcome of a run; an outage that outlasts all patience is a failed run, not misuse."""
    try:
        return await outcome
    except DatabaseUnavailableError as error:
        say(f"etl: {error}")
        return None


async def _told(application: Application, name: str, outcome: Run | Blocker | None, json: bool) -> int:
    if outcome is None:
        return EXIT_FAILED
    if isinstance(outcome, Blocker):
        say(f"skipped: {outcome.describe()}")
        if json:
            show_json(skipped_facts(name, outcome))
        return EXIT_SKIPPED
    if json:
        show_json(run_facts(outcome))
    else:
        await tell(application, outcome.run_id)
    return exit_code(outcome.state)
