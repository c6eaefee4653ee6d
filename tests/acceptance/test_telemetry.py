"""Spans by OTLP to a real receiver, log lines, and the trace that ties them to the run; secrets are in none of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import Any, TypeAlias
from uuid import UUID

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


async def run(project: Project, *arguments: str, endpoint: str | None = None, **variables: str) -> Finished:
    if endpoint is not None:
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
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
        given = {"OTEL_RESOURCE_ATTRIBUTES": "deployment=test", "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=here"}
        result = await run(shop, "run", "copy", "--json", endpoint=receiver.url, **given)

    assert 0 == result.code, result.err
    names = {span.span_id: span.name for span in receiver.spans}
    tree = Counter((names.get(span.parent_span_id), span.name) for span in receiver.spans)
    expected = {(None, "etl.run"): 1, ("etl.run", "etl.claim"): 3, ("etl.run", "etl.batch"): 2,
                ("etl.batch", "etl.stage"): 2, ("etl.batch", "etl.sink"): 2}  # fmt: skip
    assert expected == dict(tree)
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in receiver.spans)
    assert all(span.status.code != Status.STATUS_CODE_ERROR for span in receiver.spans)
    assert {("etl", "test")} == {(each["service.name"], each["deployment"]) for each in receiver.resources}
    assert {"here"} == {headers["x-tenant"] for headers in receiver.headers}

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
    assert ("warning", "a word about row 4, password=[redacted]") == (word["level"], word["message"])
    assert word["span_id"] in {span.span_id.hex() for span in receiver.spans}
    assert ("succeeded", 5, 5, True) == tuple(ended[name] for name in ("status", "claimed", "written", "balanced"))

    told = {line.body.string_value: line for line in receiver.lines if line.trace_id}
    assert {"run started", "a word about row 4, password=[redacted]", "run ended"} == set(told)
    assert {trace} == {line.trace_id.hex() for line in told.values()}
    sent = told["a word about row 4, password=[redacted]"]
    assert (word["span_id"], "WARNING", facts["run_id"]) == (
        sent.span_id.hex(),
        sent.severity_text,
        values_of(sent.attributes)["etl.run_id"],
    )

    job = {"etl.job.name": "copy"}
    assert [({**job, "etl.run.state": "succeeded", "etl.trigger": "manual"}, 1)] == receiver.points("etl.runs")
    rows = [({**job, "etl.row.outcome": outcome}, 5) for outcome in ("claimed", "written")]
    assert rows == sorted(receiver.points("etl.rows"), key=str)
    assert [1, 2, 3, 2, 2] == [
        receiver.points(f"etl.{name}.duration")[0][1][0] for name in ("run", "batch", "claim", "stage", "sink")
    ]

    recorded = await db.fetch("SELECT span_id, parent_id, name FROM etl.span WHERE run_id = $1", UUID(facts["run_id"]))
    assert {(span.span_id.hex(), span.parent_span_id.hex() or None, span.name) for span in receiver.spans} == {
        tuple(row) for row in recorded
    }, "the framework's own table says the same"
    lines = await db.fetch("SELECT level, message, trace_id, span_id FROM etl.run_log ORDER BY number")
    assert [("info", "run started"), ("warning", "a word about row 4, password=[redacted]"), ("info", "run ended")] == [
        tuple(line)[:2] for line in lines
    ]
    assert ({trace}, word["span_id"]) == ({line["trace_id"] for line in lines}, lines[1]["span_id"])


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
async def test_a_receiver_that_is_down_or_hangs_keeps_no_run_waiting_and_what_it_did_not_take_is_counted(
    shop: Project, db: Db, state: str
) -> None:
    """The hanging one answers only after the process is gone, had that waited for it, it would be there for ever."""
    with receiving(hang=state == "hanging") as receiver:
        endpoint = receiver.url if state == "hanging" else "http://127.0.0.1:1"

        result = await run(shop, "run", "copy", "--json", endpoint=endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="600")

    assert (0, 5) == (result.code, result.json["written"])
    assert (state == "hanging") == bool(receiver.requests)
    assert result.json["duration_s"] < 5, "the run itself waits for nothing"
    lines = log_lines(result.err)
    assert "run.ended" in [line.get("event") for line in lines], "every line is JSON, whoever wrote it"
    (lost,) = [line["message"] for line in lines if line["logger"] == "etl.tracing"]
    assert re.fullmatch(r"the collector did not take 10 spans \(OTLP\), \d+ log lines \(OTLP\)", lost)
    assert 10 == await db.fetchval("SELECT count(*) FROM etl.span"), "the framework's own table has them"


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
        for table in ("run", "batch", "row_issue", "tick", "schedule", "source_cursor", "span", "run_log")
    ]
    assert (3, 4) == (ran.code, failed.code), "the secrets had their chance"
    assert "ValueError" in str(stored)
    assert receiver.spans
    everything = str(told) + str(stored) + str(receiver.spans) + str(receiver.lines) + str(receiver.metrics)
    assert [] == [piece for piece in ("p4ss", "W0rd") if piece in everything]
    assert "postgresql://me:[redacted]@db/x refused, password=[redacted]" in everything
