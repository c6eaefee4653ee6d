"""The pages on triggers are run: each line of a table fires when it says, each module has the jobs it says."""

from __future__ import annotations

import contextlib
import io
import re
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

import etl
from etl import ClockTrigger, CronTrigger
from etl.jobs import find_jobs
from tests.docs.test_docs import ROOT, Block, blocks
from tests.kit import Project, eventually

PAGE = ROOT / "docs/coming-from.md"
REFERENCE = ROOT / "docs/reference/triggers.md"
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
ROW = re.compile(r"^\| (?P<there>.+) \| `(?P<here>[^|]+)` \| (?P<fires>20[^|]+) \|$", re.MULTILINE)
NAMES = {name: getattr(etl, name) for name in etl.__all__} | {"timedelta": timedelta}


def first_times(trigger: ClockTrigger, n: int) -> str:
    return ", ".join(moment.isoformat(" ") for moment in islice(trigger.fire_times(NEW_YEAR, job="job"), n))


ROWS = [(row["here"], row["fires"].strip()) for row in ROW.finditer(PAGE.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("here", "fires"), ROWS)
def test_a_line_of_a_table_fires_when_it_says(here: str, fires: str) -> None:
    trigger = eval(here, dict(NAMES))

    assert isinstance(trigger, ClockTrigger)
    assert fires == first_times(trigger, 2)


def test_every_line_of_the_tables_is_read() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]

    headings = 2 * 3
    assert len(ROWS) == len(lines) - headings


def modules() -> list[tuple[Block, Block]]:
    found = blocks(PAGE)
    return [(code, output) for code, output in pairwise(found) if code.language == "python"]


@pytest.mark.parametrize(("code", "output"), modules(), ids=lambda block: block.options.get("title", "output"))
def test_a_module_has_the_jobs_it_says(code: Block, output: Block, tmp_path: Path) -> None:
    package = tmp_path / f"coming_from_{Path(code.options['title']).stem}"
    package.mkdir()
    (package / "work.py").write_text(code.text, encoding="utf-8")

    found = find_jobs([package.name], tmp_path)

    assert [] == found.broken
    triggers = [
        (name, kind, trigger)
        for name, pipeline in found.pipelines.items()
        for kind, trigger in pipeline.source.named_triggers().items()
    ]
    expected = [line.split(maxsplit=2) for line in output.text.splitlines()]
    assert sorted(expected) == sorted(
        [name, kind, times]
        for name, kind, trigger in triggers
        if isinstance(trigger, ClockTrigger) and (times := first_times(trigger, 1))
    )


def test_the_snippets_of_the_reference_print_what_it_says() -> None:
    found = blocks(REFERENCE)
    pairs = [(code, output) for code, output in pairwise(found) if code.language == "python"]

    for code, output in pairs:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code.text, {"__name__": "snippet"})
        assert output.text == printed.getvalue()
    assert 2 == len(pairs)


def test_the_triggers_named_in_the_reference_can_be_declared() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    spans = re.findall(
        r"`((?:CronTrigger\(|PeriodicTrigger\(|DailyTrigger\(|OnceTrigger\(|every\(|daily\.)[^`]+)`", text
    )

    triggers = [eval(span, dict(NAMES)) for span in spans if "..." not in span]

    assert len(triggers) > 15
    assert all(isinstance(trigger, ClockTrigger) for trigger in triggers)


CHANGES = re.compile(r"^\| `(?P<text>[^`]+)` \| (?P<spring>[^|]+:[^|]+) \| (?P<autumn>[^|]+:[^|]+) \|$", re.MULTILINE)


@pytest.mark.parametrize(
    "row", list(CHANGES.finditer(REFERENCE.read_text(encoding="utf-8"))), ids=lambda row: row["text"]
)
def test_clock_changes_are_as_the_table_says(row: re.Match[str]) -> None:
    trigger = CronTrigger(row["text"], timezone="Europe/Prague")

    for day, column in (("2026-03-28 23:00", "spring"), ("2026-10-24 22:00", "autumn")):
        start = datetime.fromisoformat(day).replace(tzinfo=UTC)
        moments = trigger.fire_times(start - timedelta(seconds=1), start + timedelta(hours=23, minutes=30))
        found = ", ".join(f"{moment.isoformat()[11:16]}{moment.isoformat()[19:]}" for moment in moments)
        shown = row[column].strip()
        assert shown.strip("., ") in found if "..." in shown else shown == found


async def test_the_message_snippets_run_as_the_page_says(project: Project, db: Any) -> None:
    """A publish and the hour start the same job; idle time, the first start and a web hook theirs."""
    code = next(block.text for block in blocks(PAGE) if block.options.get("title") == "jobs/messages.py")
    hook = "    async def listen(self):\n        await self.handle_webhook('order 7')\n"
    project.write_job(code.replace("    async def handle_webhook", hook + "\n    async def handle_webhook"))
    worker = project.start("worker")
    try:
        await eventually(lambda: db.fetchval("SELECT count(*) > 0 FROM etl.subscription"))
        project.etl("publish", "force.run", "--data", '{"key": "value"}')
        await eventually(lambda: db.fetchval("SELECT count(DISTINCT job) = 4 FROM etl.run WHERE state = 'succeeded'"))
    finally:
        worker.terminate()
        out, _ = worker.communicate(timeout=30)

    assert "{'data': [{'key': 'value'}], 'trigger': 'pubsub'}" in out, out
    assert "'trigger': 'opportunistic'" in out
    assert "{'data': [], 'trigger': 'run-once'}" in out
    assert "{'body': 'order 7', 'data': [{'body': 'order 7'}], 'trigger': 'hook'}" in out
