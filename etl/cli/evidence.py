"""What the page of a run is told beside the run's facts: spans and log lines, the claim's plan, settings, versions."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from etl.app import Application
from etl.cli.origins import general_settings
from etl.core.evidence import ClaimPlan, Evidence
from etl.core.origins import Setting
from etl.core.run import Run
from etl.jobs import FoundJobs
from etl.postgres.claim_plan import claim_plan, server_version
from etl.postgres.trace_store import PostgresTraceStore
from etl.telemetry.version import package_version


async def evidence_of(application: Application, found: FoundJobs, run: Run) -> Evidence:
    """All that can be found out; what cannot says why."""
    return Evidence(
        await PostgresTraceStore(application.database).traced(run.run_id),
        await _claim(application, found, run),
        _settings(application, found, run.job),
        {
            "pg-etl": package_version(),
            "Python": platform.python_version(),
            "PostgreSQL": await server_version(application.database),
        },
    )


async def _claim(application: Application, found: FoundJobs, run: Run) -> ClaimPlan:
    pipeline = found.pipelines.get(run.job) or found.elsewhere.get(run.job)
    if pipeline is None:
        return ClaimPlan(problem=f"No job {run.job} was found in the folder where this page was made.")
    return await claim_plan(application.database, pipeline, run.run_id)


def _settings(application: Application, found: FoundJobs, job: str) -> dict[str, Setting]:
    """The job's own first. The database's URL stays where it is."""
    general = general_settings(application.settings)
    general["database_url"] = Setting("not shown", general["database_url"].origin)
    own = {f"{job}: {key}": each for key, each in found.settings.get(job, {}).items()}
    here = f"{Path.cwd()}{os.sep}"
    return {key: Setting(each.value, each.origin.removeprefix(here)) for key, each in (own | general).items()}
