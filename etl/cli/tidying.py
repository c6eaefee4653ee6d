"""Tidying up what people decide about, not workers."""

from __future__ import annotations

from etl.app import Application
from etl.cli.session import job_named, refuse_unknown, show, show_json, with_application
from etl.config import Settings


def tidy(settings: Settings, name: str, json: bool) -> None:
    """Drop what a job's ledger remembers of rows that are gone."""

    async def work(application: Application) -> int:
        return await application.tidy_ledger(await job_named(application, settings, name))

    refuse_unknown(settings, name)
    dropped = with_application(settings, work)
    if json:
        show_json({"job": name, "dropped": dropped})
    else:
        show([f"{dropped:,} {'entry' if dropped == 1 else 'entries'} dropped from the ledger of {name}"])
