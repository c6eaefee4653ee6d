"""The page about being told: its job tells a web hook of what went wrong and of when that is over; its mail is one."""

from __future__ import annotations

import importlib.util
import json
import smtplib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Self

import asyncpg
import pytest

from etl import Event, EventKind
from tests.docs.test_docs import ROOT, blocks
from tests.kit import Project

PAGE = ROOT / "docs/how-to/be-told.md"
TABLES = """
    CREATE TABLE inbox (id bigint PRIMARY KEY, status text DEFAULT 'pending', created_at timestamptz DEFAULT now(), n int);
    CREATE TABLE shipment (id bigint PRIMARY KEY, status text, created_at timestamptz, n int CHECK (n > 0));
    INSERT INTO inbox (id, n) VALUES (1, 0), (2, 5)"""


@contextmanager
def listening() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web server's URL, and what it is sent."""
    sent: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write(project: Project) -> None:
    for block in blocks(PAGE):
        name = block.options["title"].removeprefix("jobs/").removesuffix(".py")
        project.write_job(block.text, module=name)


async def test_the_web_hook_hears_of_trouble_and_of_its_end(project: Project, db: asyncpg.Connection[Any]) -> None:
    await db.execute(TABLES)
    write(project)
    with listening() as (url, sent):
        wrong = project.etl("run", "orders", env={"ALERTS_URL": url})
        await db.execute("UPDATE inbox SET n = 1 WHERE id = 1")
        right = project.etl("run", "orders", env={"ALERTS_URL": url})

    assert (4, 0) == (wrong.code, right.code), wrong.err + right.err
    assert ["[quarantined]", "[recovered]"] == [each["text"].split()[0] for each in sent]
    assert 1 == len({each["episode"] for each in sent})
    assert "TooManyQuarantinedError" == sent[0]["error_type"]


def test_the_mail_is_one(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project)
    spec = importlib.util.spec_from_file_location("mail_of_the_page", project.folder / "jobs/mail.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sent: list[EmailMessage] = []

    class Server:
        def __init__(self, host: str, timeout: float) -> None:
            self.send_message = sent.append

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing."""

    monkeypatch.setattr(smtplib, "SMTP", Server)
    module.by_mail(
        Event(EventKind.quiet, "orders", None, 7, "is quiet", datetime(2024, 1, 1, tzinfo=UTC), EventKind.quiet)
    )

    (mail,) = sent
    assert ("orders: quiet", "<etl-orders-7-quiet@example.com>") == (mail["Subject"], mail["Message-ID"])
    assert "is quiet\n\netl report orders\n" == mail.get_content()


def test_every_kind_is_described_on_both_pages() -> None:
    for page in (PAGE, ROOT / "docs/reference/jobs.md"):
        text = page.read_text(encoding="utf-8")
        assert [] == [kind for kind in EventKind if f"`{kind}`" not in text]
