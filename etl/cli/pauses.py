"""Which jobs are paused, for lists that are shown whether or not the database answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from etl.app import EMBEDDED, start_embedded
from etl.cli.talk import say
from etl.config import Settings
from etl.core.sanitise import redact
from etl.errors import EtlError
from etl.postgres.pauses import Pause, read_pauses


def pauses(settings: Settings) -> Mapping[str, Pause]:
    """The paused jobs by name. Where nobody can tell, none, and a word about it; no server is made for this."""
    if not settings.database_url and not (Path.cwd() / EMBEDDED).exists():
        return {}
    try:
        if settings.database_url:
            return asyncio.run(read_pauses(settings.database_url))
        server = start_embedded(Path.cwd())
        try:
            return asyncio.run(read_pauses(server.dsn()))
        finally:
            server.stop()
    except EtlError as error:
        say(redact(f"which jobs are paused is not known: {error}"))
        return {}


def paused_facts(pause: Pause | None) -> dict[str, str | None]:
    """The same for programs, by the names that reports have for it."""
    return {
        "paused_at": None if pause is None else pause.since.isoformat(),
        "paused_by": None if pause is None else pause.by,
    }
