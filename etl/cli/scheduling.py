"""Commands about schedules: what fires when, what did not, and why; and people's word on it."""

from __future__ import annotations

import getpass
import json as json_module
import socket
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from etl.app import Application
from etl.cli.live import by_hand
from etl.cli.pauses import paused_facts, pauses
from etl.cli.session import job_named, jobs_here, no_job, on_signals, require_known, with_application
from etl.cli.talk import list_width, program, say, show, show_json
from etl.config import Settings
from etl.core.backfill import Only, fire_times, made_up_for
from etl.core.blocker import Blocker
from etl.core.pipeline import Pipeline
from etl.core.run import EXIT_DONE, EXIT_SKIPPED, Run, exit_code
from etl.core.tick import Tick
from etl.core.topics import nobody_wants
from etl.core.trigger import ClockTrigger
from etl.core.why import why as explained
from etl.errors import ConfigurationError
from etl.postgres.catalog import find_table
from etl.postgres.report_store import PostgresReportStore
from etl.publishing import publish as send
from etl.reports.facts import run_facts
from etl.reports.listings import FIRE_TIMES, TICKS
from etl.triggers.messages import checked_topic


def next_times(settings: Settings, name: str | None, count: int, json: bool) -> None:
    """The next fire times, of one job or of all. Of the database only the pauses are asked, as by `etl jobs`."""
    found = jobs_here(settings, quiet=json)
    if name is not None and name not in found.pipelines:
        raise no_job(name, found)
    pipelines = [found.pipelines[each] for each in sorted(found.pipelines) if name is None or each == name]
    upcoming = sorted((each for pipeline in pipelines for each in _upcoming(pipeline, count)), key=lambda each: each[0])
    upcoming = upcoming[:count]
    paused = pauses(settings) if upcoming else {}
    if json:
        show_json(
            [
                {
                    "at": moment.astimezone(UTC).isoformat(),
                    "local": moment.isoformat(),
                    "job": job,
                    "trigger": trigger,
                    "clock_change": _clock_change(moment),
                    **paused_facts(paused.get(job)),
                }
                for moment, job, trigger in upcoming
            ]
        )
    elif upcoming:
        rows = [
            [
                f"{moment:%a %Y-%m-%d %H:%M:%S} {moment:%Z}",
                f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
                job,
                trigger,
                ", ".join(filter(None, ["paused" if job in paused else None, _clock_change(moment)])),
            ]
            for moment, job, trigger in upcoming
        ]
        show(FIRE_TIMES.lines(rows, list_width()))
        for job in sorted({job for _, job, _ in upcoming} & {*paused}):
            by = paused[job].by or "somebody"
            say(f"{job} is {paused[job]} by {by}: nothing fires until {program()} resume {job}")
    else:
        say("no fire times: no clock triggers, or none that fires again")


def _upcoming(pipeline: Pipeline, count: int) -> Iterable[tuple[datetime, str, str]]:
    now = datetime.now(UTC)
    for trigger_name, trigger in pipeline.source.named_triggers().items():
        if isinstance(trigger, ClockTrigger):
            for moment in islice(trigger.fire_times(now, job=pipeline.name), count):
                yield moment, pipeline.name, trigger_name


def _clock_change(moment: datetime) -> str | None:
    """What to know about the day: clocks change in it."""
    midnight = datetime(moment.year, moment.month, moment.day, tzinfo=moment.tzinfo)
    tomorrow = datetime.combine(moment.date() + timedelta(days=1), midnight.time(), tzinfo=moment.tzinfo)
    before, after = midnight.utcoffset(), tomorrow.utcoffset()
    if before is None or after is None or before == after:
        return None
    return "clocks go forward on this day" if after > before else "clocks go back on this day"


def ticks(settings: Settings, job: str | None, limit: int, json: bool) -> None:
    """What was decided about fire times, newest first."""

    async def main(application: Application) -> list[Tick]:
        found = await application.operations.ticks(job, limit)
        if job is not None and not found:
            await require_known(application, job)
        return found

    listed = with_application(settings, main)
    if json:
        show_json([_tick_facts(tick) for tick in listed])
    elif listed:
        rows = [
            [
                f"{tick.scheduled_for.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
                tick.job,
                tick.trigger,
                tick.decision,
                str(tick.run_id)[:8] if tick.run_id is not None else "-",
                tick.reason or "",
            ]
            for tick in listed
        ]
        show(TICKS.lines(rows, list_width()))
    else:
        say("no ticks" + (f" of {job}" if job else "") + ": a worker records them: etl worker")


def _tick_facts(tick: Tick) -> dict[str, Any]:
    return {
        "job": tick.job,
        "trigger": tick.trigger,
        "scheduled_for": tick.scheduled_for.isoformat(),
        "decision": tick.decision,
        "reason": tick.reason,
        "run_id": str(tick.run_id) if tick.run_id else None,
        "blocked_by": str(tick.blocked_by) if tick.blocked_by else None,
        "missed_until": tick.missed_until.isoformat() if tick.missed_until else None,
        "missed_count": tick.missed_count,
    }


def why(settings: Settings, name: str, time: str, json: bool) -> None:
    """One sentence for each fire time in question."""
    start, end = _stretch(time)

    async def main(application: Application) -> list[str]:
        pipeline = await job_named(application, settings, name)
        return explained(await application.operations.then(name, start, end), pipeline.source.named_triggers())

    sentences = with_application(settings, main)
    if json:
        show_json(sentences)
    else:
        show(sentences)


def _stretch(text: str) -> tuple[datetime, datetime]:
    """The moment that a person wrote, as long as what they left out: a second, or a minute."""
    moment = read_time(text)
    clock = text.strip().split("T")[-1].split(" ")[-1].rstrip("Z").split("+")[0]
    exact = clock.count(":") > 1
    return moment, moment + (timedelta(seconds=1) if exact else timedelta(minutes=1))


def read_time(text: str) -> datetime:
    """A time as people write it: ISO 8601; without an offset, UTC; without a date, today.

    Raises `ConfigurationError`.
    """
    written = text.strip()
    try:
        moment = datetime.fromisoformat(written if "-" in written else f"{datetime.now(UTC):%Y-%m-%d}T{written}")
    except ValueError:
        remedy = "e.g. 2026-03-29T02:30, 2026-03-29T02:30+01:00 or 02:30 (UTC)"
        raise ConfigurationError(f"{text!r} is not a time", setting="TIME", remedy=remedy) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def pause(settings: Settings, name: str) -> None:
    """Let a job's triggers ask for nothing until further notice."""

    async def main(application: Application) -> tuple[datetime, str]:
        await job_named(application, settings, name)
        return await application.operations.pause(name, _me())

    since, by = with_application(settings, main)
    say(f"{name} is paused since {since:%Y-%m-%d %H:%M:%S %Z} by {by}; a run that is active goes on")


def resume(settings: Settings, name: str) -> None:
    """Let them ask again; what was missed stays missed."""

    async def main(application: Application) -> datetime | None:
        await job_named(application, settings, name)
        return await application.operations.resume(name)

    since = with_application(settings, main)
    say(f"{name} goes on; it was paused since {since:%Y-%m-%d %H:%M:%S %Z}" if since else f"{name} was not paused")


def cancel(settings: Settings, run: str) -> None:
    """Ask a run to stop."""

    async def main(application: Application) -> tuple[Run, str | None]:
        run_id = await PostgresReportStore(application.database).resolve_run(run)
        outcome = await application.operations.cancel(run_id, f"cancelled by {_me()}")
        found = await application.store.read(run_id)
        assert found is not None
        return found, outcome

    found, outcome = with_application(settings, main)
    told = {
        "cancelled": "had not begun; it is cancelled",
        "asked": "was asked to stop; it does at its next batch edge",
        None: f"is over already: {found.state}",
    }[outcome]
    say(f"run {found.run_id} of {found.job} {told}")


def _me() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def publish(settings: Settings, topic: str, data: str | None) -> None:
    """Publish a message."""
    checked_topic(topic, "TOPIC")
    example = """e.g. --data '{"shop": 7}'"""
    try:
        facts = json_module.loads(data) if data else {}
    except ValueError as error:
        raise ConfigurationError(f"not JSON: {error}", setting="--data", remedy=example) from None
    if not isinstance(facts, dict):
        raise ConfigurationError("not a JSON object", setting="--data", remedy=example)

    async def main(application: Application) -> None:
        reached = await send(topic, **facts)
        if reached:
            say(f"{topic}: sent to {reached} {'trigger' if reached == 1 else 'triggers'}")
        else:
            say(nobody_wants(topic, await application.operations.topics(), _topics_here(settings)))

    with_application(settings, main)


def _topics_here(settings: Settings) -> dict[str, list[str]]:
    """The topics that jobs of the project want, with the jobs' names."""
    topics: dict[str, list[str]] = {}
    for name, pipeline in jobs_here(settings, quiet=True, refuse=False).pipelines.items():
        for topic in sorted({topic for trigger in pipeline.source.triggers for topic in trigger.topics}):
            topics.setdefault(topic, []).append(name)
    return topics


def backfill(settings: Settings, name: str, window: str, only: Only | None, json: bool) -> int:
    """Run a job for the fire times of a window that have no run, or a failed one."""
    start, end = _window(window)

    async def main(application: Application) -> int:
        pipeline = await job_named(application, settings, name)
        moments = fire_times(name, pipeline.source.named_triggers(), start, end)
        runs: list[Run] = []
        code = EXIT_DONE
        async with by_hand(application.database, name, _unknown) as hand:
            on_signals(
                lambda: hand.control.stop("stopped by a signal"),
                lambda: hand.control.abort("stopped by a second signal"),
            )
            async for outcome in application.backfill(pipeline, hand, moments, only):
                if isinstance(outcome, Blocker):
                    say(f"skipped: {outcome.describe()}")
                    code = EXIT_SKIPPED
                    break
                runs.append(outcome)
                code = max(code, exit_code(outcome.state))
                say(f"{outcome.scheduled_for:%Y-%m-%d %H:%M:%S %Z}: run {outcome.run_id} {outcome.state}")
        if json:
            show_json([run_facts(run) for run in runs])
        else:
            early = code == EXIT_SKIPPED or hand.control.stopping
            say(made_up_for(len(runs), len(moments), only, ended_early=early))
        return code

    return with_application(settings, main)


async def _unknown() -> int | None:
    return None


def _window(text: str) -> tuple[datetime, datetime]:
    start, separator, end = text.partition("..")
    if not separator:
        remedy = "e.g. 2026-03-01..2026-03-31T23:59"
        raise ConfigurationError(f"{text!r} is not a window", setting="FROM..TO", remedy=remedy)
    first, last = read_time(start), read_time(end)
    if first > last:
        raise ConfigurationError("it ends before it begins", setting="FROM..TO", remedy="write the earlier time first")
    return first, last


def watch(settings: Settings, table: str, topic: str) -> None:
    """Print a trigger that publishes to a topic whenever rows are inserted into a table."""
    checked_topic(topic, "TOPIC")

    async def main(application: Application) -> str:
        facts = await application.database.unit(lambda connection: find_table(connection, table, setting="TABLE"))
        return facts.table.sql

    resolved = with_application(settings, main)
    quoted = topic.replace("'", "''")
    show(
        [
            "-- One message per INSERT statement; equal ones that wait for a run are folded into one.",
            "CREATE OR REPLACE TRIGGER etl_watch",
            f"    AFTER INSERT ON {resolved}",
            "    FOR EACH STATEMENT",
            f"    EXECUTE FUNCTION etl.publish_statement('{quoted}');",
        ]
    )
