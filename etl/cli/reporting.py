"""Reports of runs: on the screen, as JSON, as a page, beside another run."""

from __future__ import annotations

import asyncio
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from etl import demo
from etl.app import Application
from etl.cli.session import jobs_here, with_application
from etl.cli.talk import in_colour, program, say, screen_width, show_json
from etl.config import Settings
from etl.core.baseline import zone_of
from etl.core.comparison import compare
from etl.core.pipeline import Pipeline
from etl.core.report import Outlook, RunReport
from etl.core.trigger import ClockTrigger
from etl.errors import ConfigurationError, EtlError
from etl.jobs import FoundJobs, find_jobs
from etl.late import late
from etl.postgres.episodes import episodes_of
from etl.postgres.habits import read_baseline
from etl.postgres.report_store import PostgresReportStore
from etl.reports.context import run_context
from etl.reports.facts import comparison_facts, report_facts
from etl.reports.terminal import Paint, ansi, plain, render_comparison, render_report
from etl.reports.words import follow_up

if TYPE_CHECKING:
    from etl.cli import evidence as evidence_for
    from etl.reports import page as page_of
else:
    evidence_for = late("etl.cli.evidence")
    page_of = late("etl.reports.page")  # its templates need jinja2

_FIRE_TIMES = 3


def report(
    settings: Settings, what: str | None, against: str | None, page: Path | None, open_it: bool, json: bool
) -> None:
    """One run: the screen, or JSON, or a page; `against`: beside another run of its job."""
    if open_it and page is None:
        raise ConfigurationError("there is no page to open", setting="--open", remedy="add --html FILE")
    if json and page is not None:
        raise ConfigurationError("does not go with --html", setting="--json", remedy="leave one of them out")
    found = jobs_here(settings, quiet=True, refuse=False)

    async def main(application: Application) -> None:
        store = PostgresReportStore(application.database)
        run_id, other_id = await _chosen(store, found, what, against)
        if page is not None:
            await _write_page(application, found, run_id, other_id, page)
        elif other_id is not None:
            await _compare(application, found, (run_id, other_id), json)
        else:
            shown = await store.report(run_id)
            assert shown is not None
            shown = await _complete(application, found, shown)
            if json:
                show_json(report_facts(shown, follow_up(shown, program())))
            else:
                _show(shown, _paint())

    with_application(settings, main)
    if page is not None and open_it and not webbrowser.open(page.resolve().as_uri()):
        say(f"no browser to open {page} with")


async def tell(application: Application, run_id: UUID) -> None:
    """The screen of a run that has just ended here."""
    shown = await PostgresReportStore(application.database).report(run_id)
    if shown is not None:
        found = find_jobs(application.settings.jobs, Path.cwd())
        _show(await _complete(application, found, shown), plain)


async def _chosen(
    store: PostgresReportStore, found: FoundJobs, what: str | None, against: str | None
) -> tuple[UUID, UUID | None]:
    if against is None:
        return await store.resolve(what, found.pipelines), None
    other_id = await store.resolve(against, found.pipelines)
    other = await store.report(other_id)
    assert other is not None
    run_id = await store.resolve(what or other.run.job, found.pipelines)
    this = await store.report(run_id)
    assert this is not None
    if run_id == other_id:
        raise ConfigurationError(
            "a run compared with itself", setting="--compare", remedy=f"see: etl runs {other.run.job}"
        )
    if this.run.job != other.run.job:
        raise ConfigurationError(
            f"run {str(other_id)[:8]} is of job {other.run.job}, not of {this.run.job}",
            setting="--compare",
            remedy=f"see: etl runs {this.run.job}",
        )
    return run_id, other_id


async def _complete(application: Application, found: FoundJobs, shown: RunReport) -> RunReport:
    """A report with how the job stands now, and what is usual for it."""
    return replace(
        await _judged(application, found, shown), outlook=await outlook_of(application, found, shown.run.job)
    )


async def _judged(application: Application, found: FoundJobs, shown: RunReport) -> RunReport:
    """A report with what is usual for its job and what is wrong with it."""
    job = shown.run.job
    pipeline = found.pipelines.get(job)
    zone = zone_of(None if pipeline is None else pipeline.source, shown.run.trigger)
    return replace(
        shown,
        baseline=await read_baseline(application.database, shown.run, zone),
        episodes=await episodes_of(application.database, [job], shown.run.run_id),
    )


def _show(shown: RunReport, paint: Paint) -> None:
    _print(render_report(shown, width=screen_width(), program=program(), paint=paint))


async def _compare(application: Application, found: FoundJobs, run_ids: tuple[UUID, UUID], json: bool) -> None:
    store = PostgresReportStore(application.database)
    this, other = await store.report(run_ids[0]), await store.report(run_ids[1])
    assert this is not None
    assert other is not None
    if json:  # the screen of two runs says nothing of what is usual
        this, other = await _judged(application, found, this), await _judged(application, found, other)
        show_json(comparison_facts(compare(this, other)))
    else:
        _print(render_comparison(compare(this, other), width=screen_width(), paint=_paint()))


async def outlook_of(application: Application, found: FoundJobs, job: str) -> Outlook:
    """How a job stands now. What cannot be found out (no such job here, a table that changed) is left out."""
    outlook = await PostgresReportStore(application.database).outlook(job)
    pipeline = found.pipelines.get(job)
    if pipeline is None and job == demo.JOB and await demo.is_loaded(application):
        pipeline = demo.flights_job()
    if pipeline is None:
        return outlook
    try:
        pending = await application.backlog(pipeline)
    except EtlError:
        pending = None
    return replace(outlook, pending=pending, fire_times=_fire_times(pipeline, datetime.now(UTC)))


def _fire_times(pipeline: Pipeline, now: datetime) -> Sequence[tuple[datetime, str]]:
    moments = [
        (moment, name)
        for name, trigger in pipeline.source.named_triggers().items()
        if isinstance(trigger, ClockTrigger)
        for moment in islice(trigger.fire_times(now, job=pipeline.name), _FIRE_TIMES)
    ]
    return sorted(moments)[:_FIRE_TIMES]


async def _write_page(
    application: Application, found: FoundJobs, run_id: UUID, other_id: UUID | None, page: Path
) -> None:
    store = PostgresReportStore(application.database)
    detail = await store.detail(run_id)
    assert detail is not None
    other_id = other_id or await store.before(run_id)
    job = detail.report.run.job
    detail = replace(
        detail,
        report=await _complete(application, found, detail.report),
        other=None if other_id is None else await store.report(other_id),
        context=run_context(detail.report.run, found.pipelines.get(job), detail.report.former),
    )
    evidence = await evidence_for.evidence_of(application, found, detail.report.run)
    text = page_of.render_page(detail, program="etl", written_at=datetime.now(UTC), evidence=evidence)
    await asyncio.to_thread(_write, page, text)
    say(f"wrote {page}")


def _write(page: Path, text: str) -> None:
    try:
        page.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigurationError(
            f"cannot be written: {error.strerror}",
            setting=f"--html {page}",
            remedy="name a file in a folder that exists",
        ) from None


def _paint() -> Paint:
    return ansi if in_colour() else plain


def _print(lines: Sequence[str]) -> None:
    sys.stdout.writelines(line + "\n" for line in lines)
