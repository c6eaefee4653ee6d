"""Reports of real runs: their numbers are those of the database, and their page opens in a real browser."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from etl.core.report import RunDetail
from etl.postgres.database import Database
from etl.postgres.report_store import PostgresReportStore
from etl.postgres.telemetry_store import PostgresTelemetryStore
from etl.reports.page import LIMIT
from tests.conftest import Where
from tests.kit import Finished, Project
from tests.long_run import TRACEPARENT, recorded

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

SECTIONS = ["flow", "stages", "timeline", "throughput", "errors", "quarantine", "logs", "comparison", "context"]

TABLES = """
    CREATE TABLE src (id bigint PRIMARY KEY, v text, status text NOT NULL DEFAULT 'pending');
    CREATE TABLE dst (id bigint PRIMARY KEY, v text);
    INSERT INTO src SELECT g, 'v' || g FROM generate_series(1, 600) g"""

# Retries (every 50th row once), filtered rows (every 13th), poison that bisection must find (every 97th), and one with
# markup, control and bidirectional characters and a secret in its message and content.
JOBS = r"""
    from etl import BatchProcessingSource, CronTrigger, Pipeline, PostgresSink, Retry, processor

    seen = set()

    @processor(retry=Retry(attempts=3, on=(TimeoutError,), delay="1ms"))
    def clean(context, row):
        if row["id"] % 50 == 0 and row["id"] not in seen:
            seen.add(row["id"])
            context.logger.warning("row %s is slow", row["id"])
            raise TimeoutError("slow")
        return None if row["id"] % 13 == 0 else {"id": row["id"], "v": row["v"]}

    @processor(batch=True)
    def score(context, rows):
        for row in rows:
            if row["v"].startswith("<script>"):
                raise KeyError(row["v"])
        if bad := [row["id"] for row in rows if row["id"] % 97 == 0]:
            raise ValueError(f"model refuses {len(bad)}")
        return rows

    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'", failed="status = 'bad'",
                                   batch_size=40)
    copy = Pipeline("copy", source.on(CronTrigger("30 4 * * *")), clean, score, PostgresSink("dst", key="id"))
"""
NASTY = "<script>document.title='owned'</script>\u202e\x1b[2J&amp; password=hunter2"

# Made independently of everything the report is made by: from the user's own tables and the issues, by arithmetic.
BOOKS = """
    SELECT (SELECT count(*) FROM src) AS claimed, (SELECT count(*) FROM dst) AS written,
           (SELECT count(*) FROM src WHERE status = 'bad') AS quarantined,
           (SELECT count(*) FROM src WHERE status = 'done' AND id % 13 = 0) AS filtered,
           (SELECT count(*) FROM src WHERE id % 50 = 0) AS retried,
           (SELECT count(*) FROM src WHERE id % 97 = 0 AND id % 13 <> 0) AS refused,
           (SELECT count(DISTINCT token) FROM etl.batch) AS batches"""


@pytest.fixture
async def shop(project: Project, db: Db) -> Project:
    """A project whose job has been run once over 600 rows with all kinds of fates."""
    await db.execute(TABLES)
    await db.execute("UPDATE src SET v = $1 WHERE id = 7", NASTY)
    project.write_job(JOBS)
    ran = await etl(project, "run", "copy")
    assert 3 == ran.code, ran.err
    return project


async def etl(project: Project, *arguments: str) -> Finished:
    return await asyncio.to_thread(project.etl, *arguments)


def number(text: str, pattern: str) -> int:
    """The number that a pattern finds in a page's text."""
    found = re.search(pattern, text)
    assert found, pattern
    return int(found[1].replace(",", ""))


def text_of(html: str) -> str:
    """A page's words without its marks, one space between."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html.split("</style>")[1])).split())


async def test_every_number_of_a_report_is_the_one_that_sql_counts(shop: Project, db: Db, database: Database) -> None:
    page = shop.folder / "r.html"
    (screen, facts, written), books = (
        await asyncio.gather(
            etl(shop, "report"), etl(shop, "report", "copy", "--json"), etl(shop, "report", "--html", str(page))
        ),
        await db.fetchrow(BOOKS),
    )

    assert books is not None
    assert (0, 0, 0) == (screen.code, facts.code, written.code), written.err
    assert books["quarantined"] == books["refused"] + 1, "the poison and the nasty row"
    sums = (
        f"books balance: {books['claimed']} claimed = {books['written']} written + {books['filtered']} filtered"
        f" + {books['quarantined']} quarantined"
    )
    assert sums in screen.out
    for name in ("claimed", "written", "filtered", "quarantined", "retried", "batches"):
        assert books[name] == facts.json[name], name
    stages = {stage["name"]: stage for stage in facts.json["stages"]}
    assert (600, books["filtered"], books["retried"]) == (
        stages["clean"]["in"], stages["clean"]["filtered"], stages["clean"]["retried"]
    )  # fmt: skip
    assert (books["quarantined"], books["written"]) == (stages["score"]["quarantined"], stages["-> dst"]["out"])
    assert {"ValueError": books["refused"], "KeyError": 1} == {e["error_type"]: e["rows"] for e in facts.json["errors"]}

    text = text_of(page.read_text())
    assert sums[1:] in text
    for name in ("filtered", "quarantined", "written"):
        assert books[name] == number(text, rf"([\d,]+) {name} \("), name
    assert books["batches"] == len(re.findall('data-batch="', page.read_text()))
    keys = re.findall(r"<details class=\"row\"><summary><strong>(\d+)</strong>", page.read_text())
    bad = await db.fetch("SELECT id FROM src WHERE status = 'bad' ORDER BY id")
    assert [str(row["id"]) for row in bad] == sorted(keys, key=int)
    assert "copy: batch_size 40 jobs/work.py:" in text
    assert "database_url not shown ETL_DATABASE_URL" in text
    assert shop.dsn not in page.read_text()
    assert re.search(r"Limit \(cost=.* Scan using src_pkey on src ", text), "the server's plan of the claim"
    detail = await detail_of(database, db)
    assert 600 == sum(each.rows for each in detail.report.slices) == sum(span.claimed for span in detail.batches)
    assert books["batches"] == sum(each.batches for each in detail.report.slices)


async def detail_of(database: Database, db: Db) -> RunDetail:
    detail = await PostgresReportStore(database).detail(await db.fetchval("SELECT run_id FROM etl.run"))
    assert detail is not None
    return detail


async def test_a_second_run_is_set_against_the_first_one(shop: Project, db: Db) -> None:
    await db.execute("UPDATE src SET status = 'pending', v = 'x' WHERE id <= 300")
    await db.execute("UPDATE src SET v = '<script>again' WHERE id = 8")
    await db.execute("UPDATE etl.row_issue SET stage = 'gone stage' WHERE error_type = 'ValueError'")

    ran = await etl(shop, "run", "copy")
    first, second = [
        str(row["run_id"]) for row in await db.fetch("SELECT run_id FROM etl.run ORDER BY queued_at LIMIT 2")
    ]
    screen, beside, back, runs = await asyncio.gather(
        etl(shop, "report", "copy"),
        etl(shop, "report", "--compare", first[:8]),
        etl(shop, "report", first, "--compare", second, "--json"),
        etl(shop, "runs"),
    )

    assert ran.out == screen.out
    assert re.search(r"^ NEW +\d+  ValueError in score", screen.out, re.MULTILINE)
    assert re.search(r"^ gone +ValueError in gone stage.*last seen", screen.out, re.MULTILINE)
    assert re.search(r"^ claimed +300 +600 +-50 %$", beside.out, re.MULTILINE)
    assert (first, second) == (back.json["this"]["run_id"], back.json["other"]["run_id"])
    assert ("score", "ValueError") in [(each["stage"], each["error_type"]) for each in back.json["errors_only_there"]]
    assert ("gone stage", "ValueError") in [
        (each["stage"], each["error_type"]) for each in back.json["errors_only_here"]
    ]
    assert ["pp", ""] == [line[len(runs.out.splitlines()[0]) - 6 :].strip() for line in runs.out.splitlines()[1:]]


async def test_what_is_not_there_is_misuse_and_names_what_is_near(shop: Project, db: Db) -> None:
    run_id = str(await db.fetchval("SELECT run_id FROM etl.run"))
    slip = run_id[:7] + ("0" if run_id[7] != "0" else "1")

    job, run, other, itself, folder, opened, both = await asyncio.gather(
        etl(shop, "report", "cpoy"),
        etl(shop, "report", slip),
        etl(shop, "report", "--compare", "cop"),
        etl(shop, "report", run_id, "--compare", "copy"),
        etl(shop, "report", "--html", "nowhere/r.html"),
        etl(shop, "report", "--open"),
        etl(shop, "report", "--json", "--html", "r.html"),
    )

    assert [2] * 7 == [each.code for each in (job, run, other, itself, folder, opened, both)]
    assert "'cpoy' is not a run id, nor a job (did you mean copy?)" in job.err
    assert f"no run '{slip}' (did you mean {run_id[:8]}?)" in run.err
    assert "did you mean copy?" in other.err
    assert "a run compared with itself" in itself.err
    assert "--html nowhere/r.html: cannot be written: No such file" in folder.err
    assert "there is no page to open" in opened.err
    assert "--json: does not go with --html" in both.err
    assert [""] * 7 == [each.out for each in (job, run, other, itself, folder, opened, both)]


MANY = """
    INSERT INTO etl.run (run_id, job, trigger, overlap_key, state, queued_at, started_at, ended_at,
                         claimed, written, filtered, quarantined, deferred, released, vanished, retried, batches,
                         traceparent)
    VALUES (md5('many')::uuid, 'many', 'cron', 'many', 'partial', $1::timestamptz, $1::timestamptz,
            $1::timestamptz + interval '10000 seconds', 10000000, 9999000, 0, 1000, 0, 0, 0, 0, 10000,
            $2);
"""
BATCHES = """
    INSERT INTO etl.batch (token, run_id, job, source, number, state, claimed, written, quarantined, opened_at, ended_at,
                           stages)
    SELECT md5('b' || g)::uuid, md5('many')::uuid, 'many', 'src', g, 'done', 1000, CASE WHEN g % 10 = 0 THEN 990 ELSE 1000
           END, CASE WHEN g % 10 = 0 THEN 10 ELSE 0 END, $1::timestamptz + (g - 1) * interval '1 second',
           $1::timestamptz + g * interval '1 second' - (g % 7) * interval '10 milliseconds', $2::jsonb
      FROM generate_series(1, 10000) g"""
ISSUES = """
    INSERT INTO etl.row_issue (job, source, key, state, run_id, token, stage, error_type, message, attempts, payload)
    SELECT 'many', 'src', jsonb_build_array(g::text), 'open', md5('many')::uuid, md5('b' || g)::uuid, 'work',
           'Error' || g % 300, repeat(U&'\\202E<', 500) || g, 1, jsonb_build_object('blob', repeat('"', 60000))
      FROM generate_series(1, 1000) g"""


async def test_a_run_of_ten_thousand_batches_is_reported_fast_and_on_less_than_a_megabyte(
    project: Project, db: Db, database: Database, tmp_path: Path
) -> None:
    start = await db.fetchval("SELECT date_trunc('hour', clock_timestamp()) - interval '1 day'")
    stage = {"name": "work", "in": 1000, "out": 990, "filtered": 0, "retried": 0, "quarantined": 0, "busy_s": 0.5,
             "calls": {str(n): 20 for n in range(50, 80)}}  # fmt: skip
    await db.execute(MANY.replace("$1", f"'{start.isoformat()}'").replace("$2", f"'{TRACEPARENT}'"))
    run_id = UUID(str(await db.fetchval("SELECT run_id FROM etl.run")))
    await PostgresTelemetryStore(database).write(recorded(run_id, start, 10_000, text=NASTY))
    await db.execute(BATCHES, start, json.dumps([stage] * 3))
    await db.execute(ISSUES)
    await db.execute(
        "UPDATE etl.row_issue SET payload = jsonb_build_object('blob', repeat('x', 10000000)) WHERE key = '[\"1\"]'"
    )
    page = project.folder / "r.html"

    started = time.monotonic()
    written = await etl(project, "report", "many", "--html", str(page))
    took = time.monotonic() - started

    assert 0 == written.code, written.err
    assert took < 40, "seconds, of which most is a busy machine's start of a process"
    html = page.read_text()
    assert len(html.encode()) < LIMIT
    text = text_of(html)
    assert "10,000 batches, 23 of them one by one: the slowest, and those with trouble or without an end." in text
    assert re.search(r"10,000 batches, 9,\d\d\d folded, 3 failed", text)
    assert "200 of 10,000 lines; 9,800 are left out" in text
    assert 23 == html.count("data-batch=")
    assert "The first 50 of 1,000." in text
    assert "(10,000,012 characters in all)" in text
    assert "10,000,000 claimed = 9,999,000 written + 1,000 quarantined" in text
    assert "No job many was found in the folder where this page was made." in text
    assert await asyncio.to_thread(_opens_within, page, tmp_path) < 5_000, "milliseconds, on a busy machine"


def _opens_within(page: Path, folder: Path) -> float:
    """How many milliseconds it takes the browser to lay the page out."""
    with browser(folder / "profile") as tab:
        tab.goto(page.as_uri())
        assert tab.locator(".zoomable .bar.folded").count() > 50
        return float(tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))


UNFINISHED = """
    INSERT INTO etl.run (run_id, job, trigger, overlap_key, state, queued_at, started_at, ended_at, lease_until, claimed,
                         written, filtered, quarantined, deferred, released, vanished, retried, batches, error_type)
    SELECT md5(state)::uuid, state, 'cron', state, state, t, t, CASE state WHEN 'crashed' THEN t + interval '9 s' END,
           t + lease, CASE state WHEN 'crashed' THEN 20 END, 10, 0, 0, 0, CASE state WHEN 'crashed' THEN 10 END,
           0, 0, 2, 'LeaseExpired'
      FROM (VALUES ('running', clock_timestamp() - interval '10 s', interval '1 h'),
                   ('crashed', clock_timestamp() - interval '1 day', interval '8 s')) AS r (state, t, lease);
    INSERT INTO etl.batch (token, run_id, job, source, number, state, claimed, written, opened_at, ended_at)
    SELECT md5(r.job || n)::uuid, r.run_id, r.job, r.job, n, CASE WHEN n = 1 THEN 'done' WHEN r.job = 'running' THEN
           'open' ELSE 'replaced' END, 10, CASE n WHEN 1 THEN 10 ELSE 0 END, r.started_at + n * interval '1 s',
           CASE WHEN n = 1 THEN r.started_at + interval '2 s' WHEN r.job = 'crashed' THEN clock_timestamp() END
      FROM etl.run r, generate_series(1, 2) n"""


async def test_a_run_that_is_going_on_and_one_that_crashed_are_reported_as_far_as_they_got(
    project: Project, db: Db, database: Database
) -> None:
    await db.execute(UNFINISHED)

    running, crashed, *pages = await asyncio.gather(
        etl(project, "report", "running"),
        etl(project, "report", "crashed"),
        etl(project, "report", "running", "--html", "running.html"),
        etl(project, "report", "crashed", "--html", "crashed.html"),
    )
    detail = await PostgresReportStore(database).detail(await db.fetchval("SELECT md5('crashed')::uuid"))

    assert [0] * 4 == [each.code for each in (running, crashed, *pages)]
    assert "Is running: 20 rows claimed so far, 10 written." in running.out
    assert "books so far: 20 claimed, 10 accounted for" in running.out
    assert "Its process died with 10 rows in hand" in crashed.out
    assert "books balance: 20 claimed = 10 written + 10 released" in crashed.out
    assert "open" in text_of((project.folder / "running.html").read_text())
    assert "10 rows, 7.00 s, replaced" in text_of((project.folder / "crashed.html").read_text())
    assert detail is not None
    assert [2.0, 9.0] == [round(span.end_s, 3) for span in detail.batches], "held until its run ended, not longer"
    assert 10 == sum(each.rows for each in detail.report.slices)


# The browser

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A tab of the distribution's Chromium, with a profile of its own."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.fail("reports are opened in a real browser: apt-get install chromium (Debian), then again")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder, executable_path=program, headless=True, args=FLAGS, viewport={"width": 1100, "height": 900}
        )
        try:
            yield context.new_page()
        finally:
            context.close()


def luminance(tab: Page, what: str = "backgroundColor") -> float:
    """Of the page's background (or its text, "color"): 0 is black, 255 white."""
    colours = re.findall(r"\d+", tab.evaluate(f"getComputedStyle(document.body).{what}"))
    return sum(map(int, colours[:3])) / 3


def reached_by_tab(tab: Page, presses: int) -> set[str]:
    """Which sections the Tab key comes through."""
    reached = set()
    for _ in range(presses):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.closest('section')?.id ?? ''"))
    return reached


def test_a_page_opens_in_a_browser_without_a_word_to_the_console_or_the_network(
    project: Project, where: Where, tmp_path: Path
) -> None:
    """One start of the browser for all that it is asked."""
    spans = asyncio.run(_run_and_write(project, where))
    said: list[str] = []
    asked: list[str] = []

    with browser(tmp_path / "profile") as tab:
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        address = (project.folder / "r.html").as_uri()
        tab.goto(address)

        assert "copy" in tab.title(), "what is in the data has not renamed the page"
        assert SECTIONS == tab.eval_on_selector_all("main > section", "all => all.map(each => each.id)")
        assert 0 == tab.locator("script").count()
        tab.locator("#quarantine details.row").first.locator("summary").click()
        told = tab.locator("#quarantine details.row").first.inner_text()
        assert "<script>document.title='owned'</script>" in told
        assert r"\x202e" in told
        assert "hunter2" not in tab.content()
        _bars_lie_where_spans_were(tab, spans)
        _drawn_out_by_the_keyboard(tab)
        assert set(SECTIONS) <= reached_by_tab(tab, 120)
        _only_lines_with_trouble(tab)
        _as_narrow_as_a_telephone(tab)
        _light_dark_and_print(tab, tmp_path)

    assert [] == said
    assert {address} == set(asked)


async def _run_and_write(project: Project, where: Where) -> list[Any]:
    db = await asyncpg.connect(where.dsn)
    try:
        await db.execute(TABLES)
        await db.execute("UPDATE src SET v = $1 WHERE id = 7", NASTY)
        project.write_job(JOBS)
        await etl(project, "run", "copy")
        await db.execute("UPDATE src SET status = 'pending' WHERE id <= 400")
        ran = await etl(project, "run", "copy", "--json")
        written = await etl(project, "report", "copy", "--html", "r.html")
        assert 0 == written.code, written.err
        return await db.fetch(
            """
            SELECT s.span_id, extract(epoch FROM s.started_at - r.started_at)::float8 AS start,
                   s.duration_s AS seconds, r.duration_s AS whole, s.name,
                   r.span_id AS root
              FROM etl.span s JOIN etl.span r USING (run_id)
             WHERE s.run_id = $1 AND r.name = 'etl.run' AND s.parent_id = r.span_id ORDER BY s.started_at""",
            ran.json["run_id"],
        )
    finally:
        await db.close()


def _bars_lie_where_spans_were(tab: Page, spans: list[Any]) -> None:
    """Claims and batches, measured in the browser against the times that SQL tells."""
    chart = tab.locator(".zoomable .lanes")
    whole = chart.locator(f"[data-span='{spans[0]['root']}']").bounding_box()
    assert whole
    assert {"etl.claim", "etl.batch"} <= {span["name"] for span in spans}
    scale = whole["width"] / spans[0]["whole"]  # pixels a second
    for span in spans:
        box = chart.locator(f"[data-span='{span['span_id']}']").bounding_box()
        assert box
        assert pytest.approx(whole["x"] + scale * span["start"], abs=2.5) == box["x"]
        assert pytest.approx(scale * span["seconds"], abs=4) == box["width"]
    assert tab.locator(".zoomable .mark").count() > 0, "retries are marked"


def _drawn_out_by_the_keyboard(tab: Page) -> None:
    chart = tab.locator(".zoomable .lanes")
    before = chart.bounding_box()
    tab.locator("#zoom-1").focus()
    tab.keyboard.press("ArrowRight")
    after = chart.bounding_box()
    assert before
    assert after
    assert pytest.approx(4 * before["width"], rel=0.01) == after["width"]
    tab.locator("#zoom-4").press("ArrowLeft")


def _only_lines_with_trouble(tab: Page) -> None:
    assert tab.locator("#logs li.calm").first.is_visible()
    tab.get_by_label("warnings and errors").check()
    assert tab.locator("#logs li.calm").first.is_hidden()
    assert tab.locator("#logs li.trouble").first.is_visible()
    tab.get_by_label("all", exact=True).check()


def _as_narrow_as_a_telephone(tab: Page) -> None:
    size = tab.viewport_size
    assert size
    tab.set_viewport_size({"width": 400, "height": 900})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400, "wide things scroll by themselves"
    tab.set_viewport_size(size)


def _light_dark_and_print(tab: Page, folder: Path) -> None:
    shots = {}
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        shots[scheme] = tab.screenshot(path=folder / f"{scheme}.png")
        assert (luminance(tab) > 200) is (scheme == "light")
        assert (luminance(tab) < 60) is (scheme == "dark")
        assert [] == _barriers(tab)
    assert shots["light"] != shots["dark"]
    tab.emulate_media(media="print")
    assert luminance(tab) > 200, "paper is white, whatever the screen was"
    assert luminance(tab, "color") < 60, "and ink is dark"
    tab.set_viewport_size({"width": 760, "height": 1000})
    assert [] == tab.eval_on_selector_all(".wide, .track", "all => all.map(e => e.scrollWidth).filter(w => w > 760)")
    assert tab.locator("nav").is_hidden()


def _barriers(tab: Page) -> list[str]:
    """What axe-core calls serious or critical for people who cannot see or point well."""
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    found = Axe().run(tab).response["violations"]
    return [
        f"{each['id']}: {each['help']}: {[node['html'][:200] for node in each['nodes'][:3]]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
