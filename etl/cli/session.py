"""What commands share: settings, logging, the jobs here, a database, and signals."""

from __future__ import annotations

import asyncio
import difflib
import json
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from etl import demo
from etl.app import EMBEDDED, Application, open_application, start_embedded
from etl.cli.collector import calm_collector
from etl.cli.talk import say
from etl.cli.variables import warn_of_variables
from etl.config import PREFIX, Settings, load_settings, setting_origins, written_overrides
from etl.core.overrides import Declarations
from etl.core.pipeline import Pipeline
from etl.core.redaction import redact_everywhere, redaction_of
from etl.errors import ConfigurationError
from etl.jobs import FoundJobs, find_jobs, override
from etl.postgres import migrator
from etl.postgres.report_store import PostgresReportStore
from etl.sources.batch import BatchProcessingSource
from etl.telemetry.logs import set_up_logging
from etl.telemetry.tracing import set_up_tracing
from etl.triggers.cron import CronTrigger

if TYPE_CHECKING:
    from etl.postgres.embedded import EmbeddedServer

T = TypeVar("T")


def settings_here(**flags: Any) -> Settings:
    """The settings of this call, with logging set up; a word about variables that are nearly settings."""
    set_up_logging()
    settings = load_settings(**flags)
    try:
        rules = redaction_of(settings.redact, settings.redact_patterns, settings.database_url)
    except ConfigurationError as error:
        name = str(error.setting)
        origin = setting_origins(Path.cwd(), os.environ)[name]
        place = origin if origin.upper().startswith(PREFIX) else f"{origin} {name}"
        raise ConfigurationError(error.problem, setting=place, remedy=error.remedy) from None
    redact_everywhere(rules)
    warn_of_variables(settings)
    return settings


# What a written value is tried on.
DECLARATIONS = Declarations(cron=CronTrigger, table_source=BatchProcessingSource)


def jobs_here(settings: Settings, *, quiet: bool = False, refuse: bool = True) -> FoundJobs:
    """The project's jobs as settings have them; tells about modules that could not be read.

    Raises `ConfigurationError` with all that settings say about jobs and cannot be right; `refuse=False`: it is left
    in `misconfigured`.
    """
    found = find_jobs(settings.jobs, Path.cwd())
    written = written_overrides(Path.cwd(), os.environ)
    override(found, written, DECLARATIONS, settings.pools, _jobs_elsewhere())
    if not quiet:
        for broken in found.broken:
            say(f"etl: the jobs of {broken.module} are out of service:\n{broken.problem}")
        for fault in (*found.faults, *found.unplaced):
            say(f"etl: {fault}")
    if refuse and found.misconfigured:
        raise ConfigurationError("\n".join(map(str, found.misconfigured)))
    return found


def _jobs_elsewhere() -> dict[str, Pipeline]:
    """The demonstration's job, unless somebody is just editing it."""
    try:
        return {demo.JOB: demo.flights_job()}
    except Exception:
        return {}


async def job_named(application: Application, settings: Settings, name: str) -> Pipeline:
    """A job of the project, or the demonstration's where it is loaded. Raises `ConfigurationError`."""
    found = jobs_here(settings)
    if name in found.clashes:
        raise ConfigurationError("is out of service", job=name, remedy="see above")
    pipeline = found.pipelines.get(name)
    if pipeline is None and name in found.elsewhere and await demo.is_loaded(application):
        pipeline = found.elsewhere[name]
    if pipeline is None:
        raise no_job(name, found)
    if name in found.disabled:
        say(f"{name} is disabled ({found.disabled[name]}): its triggers ask for nothing")
    return pipeline


def refuse_unknown(settings: Settings, name: str) -> None:
    """Refuse a job that neither this folder nor a database can know, before a server is made for nothing."""
    if settings.database_url or (Path.cwd() / EMBEDDED).exists():
        return
    found = jobs_here(settings, quiet=True)
    if name not in found.pipelines and name not in found.clashes:
        raise no_job(name, jobs_here(settings))


def no_job(name: str, found: FoundJobs) -> ConfigurationError:
    """There is no job of this name; what may have been meant."""
    close = difflib.get_close_matches(name, found.pipelines, n=2)
    if close:
        remedy = f"did you mean {' or '.join(close)}?"
    elif found.broken:
        remedy = "perhaps in a module that is out of service, see above or: etl check"
    elif found.pipelines:
        remedy = f"there are: {', '.join(sorted(found.pipelines))}"
    else:
        remedy = f"no job modules in {Path.cwd()}: put them in jobs/, or name their packages in the setting jobs"
    return ConfigurationError(f"no job {name!r}", setting="JOB", remedy=remedy)


async def require_known(application: Application, job: str) -> None:
    """There is nothing of a job: raises `ConfigurationError` if there is no such job either."""
    found = find_jobs(application.settings.jobs, Path.cwd())
    names = {*found.pipelines, *found.elsewhere, *found.clashes}
    if not any(job in each.problem for each in found.broken):
        await PostgresReportStore(application.database).require_job(job, names)


Work: TypeAlias = Callable[[Application], Awaitable[T]]


def with_application(settings: Settings, work: Work[T], *, migrate: bool = False, schema: bool = True) -> T:
    """Run `work` on an open application, embedded server and telemetry included; everything is left in order.

    `migrate`: bring the schema up to date first. `schema=False`: do not even look at it.
    """
    server = _embedded(settings, Path.cwd())
    tracing = set_up_tracing()
    try:
        dsn = server.dsn() if server is not None else settings.database_url

        async def main() -> T:
            # The embedded server is ours: its schema is kept up to date without asking.
            async with open_application(settings, dsn, tracing, check_schema=False) as application:
                known = migrator.known_migrations()
                if schema and (migrate or server is not None):
                    await migrator.apply(application.database, known)
                elif schema:
                    await migrator.check_version(application.database, known)
                calm_collector()
                return await work(application)

        return asyncio.run(main())
    finally:
        tracing.close()
        if server is not None:
            server.stop()


def _embedded(settings: Settings, folder: Path) -> EmbeddedServer | None:
    """The project's own server if no other is set, and a word about it when it is made."""
    if settings.database_url:
        return None
    fresh = not (folder / EMBEDDED).exists()
    if fresh:
        say(f"no ETL_DATABASE_URL: making an embedded Postgres in {folder / EMBEDDED}")
    return start_embedded(folder)


def on_signals(first: Callable[[], None], second: Callable[[], None]) -> None:
    """Call `first` on the first SIGTERM or SIGINT, `second` on the next."""
    loop = asyncio.get_running_loop()
    received = 0

    def receive() -> None:
        nonlocal received
        received += 1
        (first if received == 1 else second)()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, receive)


def arguments_of(written: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` arguments; a value is JSON where it can be read so, else text. Raises `ConfigurationError`."""
    arguments: dict[str, Any] = {}
    for each in written:
        name, separator, value = each.partition("=")
        if not separator or not name.isidentifier():
            raise ConfigurationError(f"{each!r} is not NAME=VALUE", setting="--arg", remedy="e.g. --arg shop=7")
        try:
            arguments[name] = json.loads(value)
        except ValueError:
            arguments[name] = value
    return arguments
