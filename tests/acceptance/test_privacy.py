"""A secret that is put wherever one may turn up is found nowhere afterwards, with the real command line."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TypeAlias

import asyncpg

from tests.conftest import Where
from tests.kit import Project
from tests.otlp import receiving

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CANARY = "c4nary-B1rd-Sings"
PASSWORD = "p4ssw0rd-0f-The-Server"
PHONE = "420777123456"
CARD = "4111-1111-1111-1111"

TABLES = """
    CREATE TABLE src (id bigint PRIMARY KEY, v text, api_token text, contact jsonb, status text NOT NULL DEFAULT 'pending');
    CREATE TABLE dst (id bigint PRIMARY KEY, v text CHECK (v <> 'refused'), api_token text UNIQUE);
    INSERT INTO dst VALUES (99, 'taken', '{0}');
    INSERT INTO src SELECT n, v, '{0}', jsonb_build_object('phone', '{1}', 'city', 'Brno')
      FROM unnest(ARRAY['raise', 'retry', 'span', 'headers', 'refused', 'taken', 'card']) WITH ORDINALITY AS u (v, n)"""

JOBS = """
    import os
    from urllib.parse import urlsplit
    from opentelemetry import trace
    from etl import BatchProcessingSource, Pipeline, PostgresSink, PPrintSink, Retry, TriggerSource, processor

    tracer = trace.get_tracer("shop")

    @processor(retry=Retry(attempts=2, on=(ConnectionError,), delay="1ms"))
    def act(context, row):
        secret, phone = row["api_token"], row["contact"]["phone"]
        bare = urlsplit(os.environ["ETL_DATABASE_URL"]).password
        context.logger.warning("password=%s of %s", secret, row["v"], extra={"etl": {"client_secret": secret}})
        context.logger.warning("card %s, and bare %s", "4111-1111-1111-1111", bare)
        if row["v"] == "raise":
            raise ValueError(f"{row} and {os.environ['ETL_DATABASE_URL']} by {phone}, and bare {secret}")
        if row["v"] == "retry":
            raise ConnectionError(f"no answer for {phone}")
        if row["v"] == "span":
            with tracer.start_as_current_span("ask", attributes={"http.request.header.authorization": secret}) as span:
                span.add_event("asked", {"x-api-key": secret, "text": f"token={secret}"})
                raise RuntimeError(f"https://me:{secret}@example.org")
        if row["v"] == "headers":
            raise ValueError({"Authorization": f"Digest {secret}", "Set-Cookie": f"id={secret}; secure"})
        if row["v"] == "card":
            raise ValueError("card 4111-1111-1111-1111 is refused")
        return {"id": row["id"], "v": row["v"], "api_token": secret if row["v"] == "taken" else None}

    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'")
    shop = Pipeline("shop", source, act, PostgresSink("dst", key="id"), redact="$.contact.phone",
                    redact_patterns=[r"\\d{4}-\\d{4}-\\d{4}-\\d{4}"])

    @processor
    def deliver(context, event):
        if not os.path.exists("go"):
            raise ValueError(f"no way for {event}")
        with open("delivered", "a") as file:
            file.write(event["password"])

    class Hook(TriggerSource):
        async def cycle(self):
            await self.pipeline.process({"password": os.environ["CANARY"], "n": 7})

    hook = Pipeline("hook", Hook(), deliver, PPrintSink())
"""


async def everything(db: Db) -> dict[str, str]:
    """All rows of all tables of the schema `etl` as text, by table."""
    names = [row[0] for row in await db.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'etl'")]
    found = {}
    for name in names:
        found[name] = "\n".join(row[0] for row in await db.fetch(f"SELECT t::text FROM etl.{name} t"))
    return found


async def call(project: Project, *arguments: str, **variables: str) -> str:
    """All that a command prints."""
    done = await asyncio.to_thread(lambda: project.etl(*arguments, env=variables))
    assert done.code in (0, 3), done.err
    return done.out + done.err


async def test_a_secret_put_everywhere_is_recorded_shown_and_sent_nowhere(
    project: Project, db: Db, where: Where, tmp_path: Path
) -> None:
    await db.execute(TABLES.format(CANARY, PHONE))
    project.write_job(JOBS)
    project.dsn = where.dsn.replace(f"{where.user}@", f"{where.user}:{PASSWORD}@")
    page = tmp_path / "run.html"

    with receiving() as receiver:
        said = await call(project, "run", "shop", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, CANARY=CANARY)
    said += await call(project, "report", "shop", "--html", str(page))
    said += await call(project, "quarantine", "--json")
    said += await call(project, "jobs", "--verbose", "--json")

    kept = await everything(db)
    sent = "".join(map(str, [*receiver.spans, *receiver.lines]))
    told = {"said": said, "sent": sent, "page": page.read_text(encoding="utf-8"), **kept}
    for secret in (CANARY, PASSWORD, PHONE, CARD):
        assert [] == [place for place, text in told.items() if secret in text], secret
    # What is blanked is seen to be, and nothing else is.
    assert 7 == await db.fetchval("SELECT count(*) FROM etl.row_issue WHERE payload->>'api_token' = '[redacted]'")
    assert {"Brno"} == {row[0] for row in await db.fetch("SELECT payload #>> '{contact,city}' FROM etl.row_issue")}
    assert "card [redacted] is refused" in kept["row_issue"]
    assert "no answer for [redacted]" in sent
    assert "password=[redacted] of taken" in said


async def test_an_event_with_a_secret_is_shown_without_and_replayed_with_it_and_then_forgotten(
    project: Project, db: Db
) -> None:
    project.write_job(JOBS)

    said = await call(project, "run", "hook", CANARY=CANARY)
    said += await call(project, "quarantine", "--json")
    held = await everything(db)
    shown = await db.fetchval("SELECT payload FROM etl.row_issue")
    (project.folder / "go").touch()
    said += await call(project, "replay", "hook")

    assert CANARY not in said
    assert ["row_issue"] == [table for table, text in held.items() if CANARY in text]
    assert '{"n": 7, "password": "[redacted]"}' == shown
    assert CANARY == (project.folder / "delivered").read_text(encoding="utf-8")
    assert [] == [table for table, text in (await everything(db)).items() if CANARY in text]
