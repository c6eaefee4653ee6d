"""Spans by OTLP to a real receiver, log lines, and the trace that ties them to the run; secrets are in none of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any, TypeAlias

import asyncpg
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.kit import Finished, Project
from tests.otlp import receiving, values_of

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TABLES = """
    CREATE TABLE src (id bigint PRIMARY KEY, v text, status text NOT NULL DEFAULT 'pending');
    CREATE TABLE dst (id bigint PRIMARY KEY, v text);
    INSERT INTO src SELECT g, 'v' || g FROM generate_series(1, 5) g"""

JOBS = """
    from etl import BatchProcessingSource, Pipeline, PostgresSink, Sink, processor

    SECRET = "p4ss-W0rd"

    @processor(inline=True)
    def act(context, row):
        if row["v"] == "leak":
            raise ValueError(
                f"postgresql://me:{SECRET}@db/x refused, password={SECRET}, token: '{SECRET}', "
                f"Authorization: Bearer {SECRET}1234, api_key={SECRET}"
            )
        if row["v"] == "log":
            context.logger.warning("a word about row %s, password=%s", row["id"], SECRET)
        return {"id": row["id"], "v": row["v"]}

    class Broken(Sink):
        def write(self, context, rows):
            raise ConnectionError(f"no way to https://me:{SECRET}@example.org")

    def job(name, sink, **options):
        source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'", batch_size=3)
        return Pipeline(name, source, act, sink, **options)

    copy = job("copy", PostgresSink("dst", key="id"))
    strict = job("strict", PostgresSink("dst", key="id"), max_quarantined=0)
"""


@pytest.fixture
async def shop(project: Project, db: Db) -> Project:
    await db.execute(TABLES)
    project.write_job(JOBS)
    return project


async def run(project: Project, *arguments: str, endpoint: str | None = None) -> Finished:
    variables = {} if endpoint is None else {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    return await asyncio.to_thread(lambda: project.etl(*arguments, env=variables))


def attributes(span: Span) -> dict[str, Any]:
    return values_of(span.attributes)


def log_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_a_run_is_one_trace_of_spans_run_over_claims_and_batches_over_stages_and_sink(
    shop: Project, db: Db
) -> None:
    """Five rows in batches of three: two batches, and one more claim that finds nothing."""
    await db.execute("UPDATE src SET v = 'log' WHERE id = 4")

    with receiving() as receiver:
        result = await run(shop, "run", "copy", "--json", endpoint=receiver.url)

    assert 0 == result.code, result.err
    names = {span.span_id: span.name for span in receiver.spans}
    tree = Counter((names.get(span.parent_span_id), span.name) for span in receiver.spans)
    expected = {(None, "etl.run"): 1, ("etl.run", "etl.claim"): 3, ("etl.run", "etl.batch"): 2,
                ("etl.batch", "etl.stage"): 2, ("etl.batch", "etl.sink"): 2}  # fmt: skip
    assert expected == dict(tree)
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in receiver.spans)
    assert all(span.status.code != Status.STATUS_CODE_ERROR for span in receiver.spans)
    assert "etl" == receiver.resources[0]["service.name"]

    (root,) = receiver.named("etl.run")
    facts = result.json
    known = attributes(root)
    assert (facts["run_id"], "copy", "manual", 5, 5, 0) == tuple(
        known[name]
        for name in (
            "etl.run.id", "etl.job.name", "etl.trigger", "etl.rows.claimed", "etl.rows.written", "etl.rows.quarantined",
        )
    )  # fmt: skip
    assert {3, 2, 0} == {attributes(span)["etl.rows"] for span in receiver.named("etl.claim")}
    assert {(1, 3), (2, 2)} == {
        (attributes(span)["etl.batch.number"], attributes(span)["etl.rows"]) for span in receiver.named("etl.batch")
    }
    assert all(attributes(span)["etl.source"] == "public.src" for span in receiver.named("etl.claim"))
    assert all("act" in attributes(span).values() for span in receiver.named("etl.stage"))
    assert all(attributes(span)["etl.sink.name"] == "-> dst" for span in receiver.named("etl.sink"))

    trace = root.trace_id.hex()
    assert {trace} == {span.trace_id.hex() for span in receiver.spans}
    assert trace == facts["trace_id"]
    assert trace == await db.fetchval("SELECT trace_id FROM etl.run")
    started, word, ended = log_lines(result.err)
    assert {(trace, facts["run_id"], "copy")} == {
        (line["trace_id"], line["run_id"], line["job"]) for line in (started, word, ended)
    }
    assert ["run.started", None, "run.ended"] == [line.get("event") for line in (started, word, ended)]
    assert ("warning", "a word about row 4, password=***") == (word["level"], word["message"])
    assert word["span_id"] in {span.span_id.hex() for span in receiver.spans}
    assert ("succeeded", 5, 5, True) == tuple(ended[name] for name in ("status", "claimed", "written", "balanced"))


async def test_a_failed_run_has_an_error_on_its_span_and_on_the_batch_that_failed(shop: Project, db: Db) -> None:
    await db.execute("UPDATE src SET v = 'leak' WHERE id = 4")

    with receiving() as receiver:
        result = await run(shop, "run", "strict", "--json", endpoint=receiver.url)

    assert (4, "failed") == (result.code, result.json["status"])
    (root,) = receiver.named("etl.run")
    assert Status.STATUS_CODE_ERROR == root.status.code
    assert "max_quarantined is 0" in root.status.message
    states = {attributes(span)["etl.batch.number"]: span.status.code for span in receiver.named("etl.batch")}
    assert {1: Status.STATUS_CODE_UNSET, 2: Status.STATUS_CODE_ERROR} == states
    ended = log_lines(result.err)[-1]
    assert ("error", "failed", "TooManyQuarantinedError", root.trace_id.hex()) == tuple(
        ended[name] for name in ("level", "status", "error_type", "trace_id")
    )


@pytest.mark.parametrize("state", ["down", "hanging"])
async def test_a_receiver_that_is_down_or_hangs_costs_a_run_seconds_at_most_and_never_its_success(
    shop: Project, state: str
) -> None:
    with receiving(hang=state == "hanging") as receiver:
        endpoint = receiver.url if state == "hanging" else "http://127.0.0.1:1"
        begun = time.monotonic()

        result = await run(shop, "run", "copy", "--json", endpoint=endpoint)

        took = time.monotonic() - begun
    assert (0, 5) == (result.code, result.json["written"])
    assert took < 12, "the process waits a moment for its spans, then leaves them"
    assert result.json["duration_s"] < 5, "the run itself waits for nothing"
    assert (state == "hanging") == bool(receiver.requests)
    assert "run.ended" in [line.get("event") for line in log_lines(result.err)], "every line is JSON, whoever wrote it"


async def test_without_an_endpoint_there_is_a_trace_id_all_the_same(shop: Project) -> None:
    result = await run(shop, "run", "copy", "--json")

    assert {result.json["trace_id"]} == {line["trace_id"] for line in log_lines(result.err)}


async def test_secrets_are_in_no_log_line_span_report_error_or_row_of_the_database(
    shop: Project, db: Db, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The rows themselves are the user's own; here none of them holds a secret, but the exceptions about them do."""
    await db.execute("UPDATE src SET v = 'leak' WHERE id IN (1, 2); UPDATE src SET v = 'log' WHERE id = 3")

    with receiving() as receiver:
        ran = await run(shop, "run", "copy", endpoint=receiver.url)
        failed = await run(shop, "run", "strict", endpoint=receiver.url)
        views = [
            await run(shop, *arguments) for arguments in (["quarantine", "--json"], ["report", "--json"], ["runs"])
        ]

    told = [ran.out, ran.err, failed.out, failed.err, *(view.out + view.err for view in views)]
    stored = [
        await db.fetchval(f"SELECT string_agg(t::text, '') FROM etl.{table} t")
        for table in ("run", "batch", "row_issue", "tick", "schedule", "source_cursor")
    ]
    assert (3, 4) == (ran.code, failed.code), "the secrets had their chance"
    assert "ValueError" in str(stored)
    assert receiver.spans
    everything = str(told) + str(stored) + str(receiver.spans)
    assert [] == [piece for piece in ("p4ss", "W0rd") if piece in everything]
    assert "postgresql://me:***@db/x refused, password=***" in everything
