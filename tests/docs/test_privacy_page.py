"""The page about what is blanked is run: its job on its table, and the result it shows."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from etl.config import load_settings
from etl.core.redaction import KEYS, redaction_of
from tests.docs.test_docs import ROOT, blocks
from tests.kit import Project

PAGE = ROOT / "docs/reference/privacy.md"
BLOCKS = blocks(PAGE)


async def test_the_page_about_what_is_blanked_shows_what_is_recorded(project: Project, db: Any) -> None:
    (job,) = [block for block in BLOCKS if block.language == "python"]
    tables, afterwards = [block for block in BLOCKS if block.language == "sql"]
    query, *shown = re.split(r"\n-- |\n\Z", afterwards.text)
    await db.execute(tables.text)
    project.write_job(job.text, module="customers")

    done = await asyncio.to_thread(project.etl, "run", "customers")
    row = await db.fetchrow(query)

    assert 3 == done.code, done.err
    assert json.loads(shown[0]) == json.loads(row["payload"])
    assert shown[1] == row["message"]
    assert "greeting 1, card [redacted]" in done.err


def test_the_settings_of_the_page_can_be_read(tmp_path: Any, monkeypatch: Any) -> None:
    (written,) = [block for block in BLOCKS if block.language == "toml"]
    (tmp_path / "etl.toml").write_text(written.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    settings = load_settings()

    redaction = redaction_of(settings.redact, settings.redact_patterns)
    assert (("email",), (("customer", "phone"),), 1) == (redaction.keys, redaction.paths, len(redaction.patterns))


def test_the_page_names_every_key_that_is_always_blanked() -> None:
    assert f"`{' '.join(KEYS)}`" in PAGE.read_text(encoding="utf-8")
