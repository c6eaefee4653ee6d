"""W3C trace contexts as text, and spans made fit to be stored."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from etl.core.trace import SpanEvent, SpanRecord, TraceContext, origins, parse_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"00-{TRACE}-{SPAN}-01", TraceContext(TRACE, SPAN, True)),
        (f" 00-{TRACE}-{SPAN}-00 ", TraceContext(TRACE, SPAN, False)),
        (f"00-{TRACE}-{SPAN}-03", TraceContext(TRACE, SPAN, True)),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", TraceContext(TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        ("", None),
        ("'; DROP TABLE etl.span; --", None),
    ],
)
def test_a_traceparent_is_read_as_w3c_defines_it(text: str, expected: TraceContext | None) -> None:
    assert expected == parse_traceparent(text)


def test_messages_come_from_as_many_places_as_they_name_each_once() -> None:
    one, two = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{'1' * 16}-01"

    assert [SPAN, "1" * 16] == [each.span_id for each in origins([None, one, f"{one} {two}", "no", two])]
    assert 128 == len(origins([f"00-{TRACE}-{n:016x}-01" for n in range(1, 500)]))


def test_what_is_stored_of_a_span_is_bounded_redacted_and_json() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    attributes = {"nul": "a\x00b", "nan": float("nan"), "huge": 2**70, "long": "x" * 10**6, "list": ["token=abc", 1]}
    event = SpanEvent("e", now, {"message": "password=hunter2", "odd": object()})
    many = {f"n{number}": number for number in range(500)}

    stored = SpanRecord("n", TRACE, SPAN, None, now, -1.0, attributes=attributes | many, events=[event]).as_json()

    text = json.dumps(stored, allow_nan=False)
    assert "hunter2" not in text
    assert "\\u0000" not in text
    assert len(text) < 10_000
    assert (0.0, ["token=[redacted]", 1]) == (stored["duration_s"], stored["attributes"]["list"])
    assert 64 == len(stored["attributes"])
