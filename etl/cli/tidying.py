"""Tidying up: history by the setting, a job's ledger only by a person's word."""

from __future__ import annotations

from etl.app import Application
from etl.cli.session import job_named, refuse_unknown, with_application
from etl.cli.talk import show, show_json
from etl.config import Settings


def tidy(settings: Settings, name: str | None, json: bool) -> None:
    """Drop what is older than history is kept, or what a job's ledger remembers of rows that are gone."""
    if name is None:
        _tidy_history(settings, json)
    else:
        _tidy_ledger(settings, name, json)


def _tidy_history(settings: Settings, json: bool) -> None:
    async def work(application: Application) -> dict[str, int]:
        return await application.tidy_history()

    dropped = with_application(settings, work)
    if json:
        show_json({"older_than_s": settings.history.total_seconds(), "dropped": dropped})
    else:
        told = ", ".join(f"{count:,} {kind}" for kind, count in dropped.items() if count)
        days = f"{settings.history.total_seconds() / 86400:g} days"
        show([f"{told or 'nothing'} dropped of what is older than {days}"])


def _tidy_ledger(settings: Settings, name: str, json: bool) -> None:
    async def work(application: Application) -> int:
        return await application.tidy_ledger(await job_named(application, settings, name))

    refuse_unknown(settings, name)
    dropped = with_application(settings, work)
    if json:
        show_json({"job": name, "dropped": dropped})
    else:
        show([f"{dropped:,} {'entry' if dropped == 1 else 'entries'} dropped from the ledger of {name}"])
