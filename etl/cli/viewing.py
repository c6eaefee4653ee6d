"""Commands that look."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from etl import demo
from etl.app import Application
from etl.cli.origins import facts_of, general_settings, settings_shown
from etl.cli.pauses import paused_facts, pauses
from etl.cli.session import jobs_here, no_job, require_known, with_application
from etl.cli.talk import list_width, say, screen, show, show_json
from etl.config import Settings
from etl.core.episode import Episode
from etl.core.pipeline import Pipeline
from etl.core.run import EXIT_DONE, EXIT_MISUSE, Run, RunState
from etl.core.table_source import TableSource
from etl.core.trigger import ClockTrigger
from etl.durations import format_duration
from etl.errors import ConfigurationError
from etl.jobs import FoundJobs
from etl.postgres.check import Findings
from etl.postgres.episodes import episodes_of
from etl.postgres.issues import key_text
from etl.postgres.report_store import PostgresReportStore
from etl.reports.episodes import episode_text
from etl.reports.facts import run_facts
from etl.reports.listings import JOBS, QUARANTINE, RUNS
from etl.reports.words import LEGEND, strip

# Runs in a strip.
_RECENT = 20
# Characters of a row's message; servers name the constraint that refused it last. A list cuts what its screen lacks.
_MESSAGE = 200


def check(settings: Settings, name: str | None, json: bool) -> int:
    """All faults of all jobs (or of one) at once; nothing is run or changed."""
    found = jobs_here(settings, quiet=True, refuse=False)

    async def main(application: Application) -> dict[str, Findings]:
        pipelines = await _chosen(application, found, name)
        return {pipeline.name: await application.check(pipeline) for pipeline in pipelines}

    findings = with_application(settings, main)
    whole = name is None or name not in findings
    broken = found.broken if whole else []
    faults = [str(fault) for fault in found.faults if whole]
    faults += [str(fault) for fault in found.misconfigured]
    faults += [str(fault) for each in findings.values() for fault in each.faults]
    advice = [text for each in findings.values() for text in each.advice]
    advice += [str(fault) for fault in found.unplaced]
    if json:
        show_json(
            {
                "jobs": sorted(findings),
                "faults": faults,
                "advice": advice,
                "broken_modules": [{"module": each.module, "problem": each.problem} for each in broken],
            }
        )
    else:
        for each in broken:
            show([f"FAULT  module {each.module}:", *(f"       {line}" for line in each.problem.splitlines())])
        show([f"FAULT  {fault}" for fault in faults])
        show([f"advice {text}" for text in advice])
        if not faults and not broken:
            show(
                [
                    f"{len(findings)} {'job' if len(findings) == 1 else 'jobs'}, no faults"
                    if findings
                    else "no jobs found"
                ]
            )
    return EXIT_MISUSE if faults or broken else EXIT_DONE


async def _chosen(application: Application, found: FoundJobs, name: str | None) -> list[Pipeline]:
    if name is None:
        return [found.pipelines[each] for each in sorted(found.pipelines)]
    if name in found.pipelines:
        return [found.pipelines[name]]
    if name in found.elsewhere and await demo.is_loaded(application):
        return [found.elsewhere[name]]
    if name in found.clashes or any(name in each.problem for each in found.broken):
        return []
    raise no_job(name, found)


def jobs(settings: Settings, verbose: bool, json: bool) -> int:
    """The jobs of the project. Of the database only the pauses are asked, and nothing depends on its answer."""
    found = jobs_here(settings, quiet=json)
    now = datetime.now(UTC)
    paused = pauses(settings) if found.pipelines else {}
    facts = [{**_job_facts(found, name, now), **paused_facts(paused.get(name))} for name in sorted(found.pipelines)]
    if json:
        clashes = [(name, None, str(found.clash(name))) for name in found.clashes]
        lost = [*clashes, *((None, each.module, each.problem) for each in found.broken)]
        out_of_service = [
            {"name": name, "enabled": False, "module": module, "problem": problem} for name, module, problem in lost
        ]
        general = {"general": facts_of(general_settings(settings))} if verbose else {}
        show_json([*({**each, **general} for each in facts), *out_of_service])
        return EXIT_MISUSE if found.broken or found.faults else EXIT_DONE
    if facts:
        rows = [
            [
                each["name"],
                each["source"],
                each["sink"],
                "; ".join(each["triggers"].values()) or ("by hand" if each["enabled"] else "disabled"),
                str(paused.get(each["name"]) or (each["next_at"] or "-").replace("T", " ").removesuffix("+00:00")),
            ]
            for each in facts
        ]
        show(JOBS.lines(rows, list_width()))
    else:
        say("no jobs found: put job modules in jobs/, or name their packages in the setting jobs")
    if verbose:
        show(settings_shown(settings, found))
    return EXIT_MISUSE if found.broken or found.faults else EXIT_DONE


def _job_facts(found: FoundJobs, name: str, now: datetime) -> dict[str, Any]:
    pipeline = found.pipelines[name]
    triggers = pipeline.source.named_triggers()
    moments = [
        moment
        for trigger in triggers.values()
        if isinstance(trigger, ClockTrigger) and (moment := next(trigger.fire_times(now), None)) is not None
    ]
    next_at = min(moments).astimezone(UTC).isoformat(timespec="seconds") if moments else None
    source = pipeline.source
    return {
        "name": name,
        "enabled": name not in found.disabled,
        "module": found.modules[name],
        "declared_at": pipeline.declared_at,
        "source": (source.table or "a query") if isinstance(source, TableSource) else type(source).__name__,
        "processors": [processor.name for processor in pipeline.processors],
        "sink": pipeline.sink.name.removeprefix("-> "),
        "triggers": {name: trigger.spec for name, trigger in triggers.items()},
        "next_at": next_at,
        "settings": facts_of(found.settings[name]),
    }


def runs(settings: Settings, job: str | None, status: Sequence[str] | None, limit: int, json: bool) -> None:
    """Runs, newest first."""
    known = [str(state) for state in RunState]
    for word in status or ():
        if word not in known:
            raise ConfigurationError(
                f"{word!r} is not a state of a run", setting="--status", remedy=f"use {', '.join(known)}"
            )

    async def main(application: Application) -> tuple[Sequence[Run], dict[str, list[RunState]], list[Episode]]:
        listed = await application.store.list(job, status or None, limit)
        if job is not None and not listed:
            await require_known(application, job)
        jobs = list(dict.fromkeys(run.job for run in listed))
        if json:
            return listed, {}, []
        strips = await PostgresReportStore(application.database).recent(jobs, _RECENT)
        return listed, strips, await episodes_of(application.database, [job] if job else None)

    listed, recent, wrong = with_application(settings, main)
    if json:
        show_json([run_facts(run) for run in listed])
    elif listed:
        # Beside the newest run of a job how its last ones ended, the newest last.
        rows = [[*_run_row(run), strip(recent.pop(run.job, []))] for run in listed]
        lines = RUNS.lines(rows, list_width())
        show(lines)
        show(["", *map(episode_text, wrong)] if wrong else [])
        if sys.stdout.isatty() and "recent" in lines[0]:
            say("\n".join(textwrap.wrap(f"recent: {LEGEND}", screen().width, subsequent_indent=" " * 8)))
    else:
        say("no runs yet" + (f" of {job}" if job else ""))


def _run_row(run: Run) -> list[str]:
    started = run.started_at or run.queued_at
    return [
        str(run.run_id)[:8],
        run.job,
        "lost" if run.lost else str(run.state),
        run.trigger,
        f"{started:%Y-%m-%d %H:%M:%S}" if started else "-",
        format_duration(run.duration_s) if run.duration_s is not None else "-",
        f"{run.counts.claimed:,}",
        f"{run.counts.written:,}",
        f"{run.counts.quarantined:,}",
    ]


def quarantine(settings: Settings, job: str | None, error: str | None, run: str | None, limit: int, json: bool) -> None:
    """Rows that were set aside, newest first."""

    async def main(application: Application) -> None:
        run_id: UUID | None = None
        if run is not None:
            run_id = await PostgresReportStore(application.database).resolve_run(run)
        rows = await application.issues.list(job, error, run_id, ["open", "deferred"], limit)
        if job is not None and not rows:
            await require_known(application, job)
        if json:
            show_json([_issue_facts(row) for row in rows])
        elif rows:
            show(QUARANTINE.lines([issue_row(row) for row in rows], list_width()))
            if len(rows) == limit:
                say(f"the newest {limit}; more with -n")
        else:
            narrowed = job is not None and (error is not None or run_id is not None)
            others = await application.issues.count(job, None, None) if job is not None and narrowed else {}
            say(_nothing_in_quarantine(job, error, run, others))

    with_application(settings, main)


def _nothing_in_quarantine(job: str | None, error: str | None, run: str | None, others: Mapping[str, int]) -> str:
    """What was looked for in vain, and the rows of the job that other words would find: error type -> rows."""
    looked = [f"of {job}" if job else "", f"with error {error}" if error else "", f"from run {run}" if run else ""]
    known = ", ".join(f"{rows:,} {kind}" for kind, rows in others.items())
    return " ".join(["nothing in quarantine", *filter(None, looked)]) + (f"; there are: {known}" if known else "")


def _issue_facts(row: Any) -> dict[str, Any]:
    facts = {
        name: row[name] for name in ("job", "source", "key", "state", "stage", "error_type", "message", "traceback")
    }
    return facts | {
        "attempts": row["attempts"],
        "run_id": str(row["run_id"]),
        "opened_at": row["opened_at"].isoformat(),
        "due_at": row["due_at"].isoformat() if row["due_at"] else None,
        "payload": row["payload"],
    }


def issue_row(row: Any) -> list[str]:
    """A row of `list_issues` as the list of them has it, its message on one line."""
    message = " ".join(row["message"].split())
    return [
        key_text(row["key"])[:40],
        row["job"],
        row["error_type"],
        row["stage"],
        str(row["attempts"]),
        f"{row['opened_at']:%Y-%m-%d %H:%M:%S}",
        str(row["run_id"])[:8],
        message if len(message) <= _MESSAGE else message[: _MESSAGE - 3] + "...",
    ]
