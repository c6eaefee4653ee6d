"""Settings and where their values come from, for people and for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etl.config import Settings, read_settings_file, setting_origins
from etl.core.origins import Setting, plain
from etl.core.sanitise import redact
from etl.jobs import FoundJobs
from etl.reports.columns import columns


def general_settings(settings: Settings) -> dict[str, Setting]:
    """The settings beside the jobs'. A password is blanked."""
    origins = setting_origins(Path.cwd(), os.environ)
    found = {name: Setting(plain(getattr(settings, name)), origin) for name, origin in origins.items()}
    url = found["database_url"]
    return found | {"database_url": Setting(redact(url.value), url.origin)}


def facts_of(settings: Mapping[str, Setting]) -> dict[str, dict[str, Any]]:
    """For JSON: `{key: {value, from}}`."""
    return {key: {"value": each.value, "from": each.origin} for key, each in settings.items()}


def settings_shown(settings: Settings, found: FoundJobs) -> list[str]:
    """A table of the general settings and one of each job, in the same columns."""
    file = read_settings_file(Path.cwd())
    unread = f" ({' and '.join(file.unread)} not read)" if file.unread else ""
    rows = [["setting", "value", "from"], *_rows(general_settings(settings))]
    blocks = [(f"settings file: {file.name or 'none'}{unread}", len(rows))]
    for name in sorted(found.pipelines):
        of_job = _rows(found.settings[name])
        rows += of_job
        blocks.append((f"{name} ({found.modules[name]})", len(of_job)))
    lines = columns(rows)
    shown: list[str] = []
    for title, count in blocks:
        shown += ["", title, *(f"  {line}" for line in lines[:count])]
        lines = lines[count:]
    return shown


def _rows(settings: Mapping[str, Setting]) -> list[list[str]]:
    return [[key, _text(each.value), _near(each.origin)] for key, each in settings.items()]


def _text(value: Any) -> str:
    if value is None or value in ("", {}, []):
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _near(origin: str) -> str:
    """A place in a file below the current folder, as seen from it."""
    return origin.removeprefix(f"{Path.cwd()}{os.sep}")
