"""Whatever a row or an exception carries ends as bounded text that can be stored and shown, without secrets."""

from __future__ import annotations

import json
import time
import traceback
import unicodedata
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from etl.core import sanitise
from etl.core.redaction import redacting, redaction_of
from etl.core.sanitise import (
    MESSAGE_LIMIT,
    PAYLOAD_LIMIT,
    TRACEBACK_LIMIT,
    describe_exception,
    json_payload,
    redact,
    showable,
    storable,
)

# What a cut or an escape may add.
MARKER = 60
ESCAPES = 6

any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=200)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.binary(max_size=20) | st.datetimes()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(any_text | st.integers(), inner, max_size=5),
    max_leaves=20,
)


def assert_storable(text: str) -> None:
    assert "\x00" not in text
    text.encode()


# Text


@given(any_text, st.integers(20, 100))
def test_any_text_becomes_storable_and_bounded(text: str, limit: int) -> None:
    stored = storable(text, limit)

    assert_storable(stored)
    assert len(stored) <= ESCAPES * limit + MARKER


@given(st.text(max_size=100))
def test_text_that_is_fit_to_be_stored_stays_as_it_is(text: str) -> None:
    expected = text.replace("\x00", "\\x00")

    assert expected == storable(text, 100)


def test_of_long_text_the_middle_is_cut_out_and_the_end_is_kept() -> None:
    """The end of a message tells more than its middle."""
    stored = storable("a" * 1000 + "b" * 1000 + "c" * 1000, 400)

    assert stored.startswith("a" * 100 + "\n... 2,600 characters cut ...\n")
    assert stored.endswith("c" * 300)


@given(any_text)
def test_shown_text_cannot_steer_a_terminal(text: str) -> None:
    shown = showable(text)

    steering = {c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")} - {"\n", "\t"}
    reordering = {
        c
        for c in shown
        if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    }
    assert steering | reordering == set()


def test_newlines_tabs_and_letters_are_shown_as_they_are() -> None:
    assert showable("é\t漢\n") == "é\t漢\n"


# Secrets


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("postgresql://me:[redacted]@host/db", "postgresql://me:hunter2@host/db"),
        ("postgresql://me:[redacted]@host/db", "postgresql://me:hun@ter2@host/db"),
        ("postgresql://me@corp:[redacted]@host/db", "postgresql://me@corp:hunter2@host/db"),
        ("amqp://me:[redacted]@a then http://you:[redacted]@b", "amqp://me:one@a then http://you:two@b"),
        ("password=[redacted]", "password=hunter2"),
        ("password = '[redacted]' next", "password = 'hunter 2' next"),
        ('PGPASSWORD="[redacted]" "x"', 'PGPASSWORD="hunter2" "x"'),
        ("DB_PASSWORD=[redacted]", "DB_PASSWORD=hunter2"),
        ("client_secret=[redacted]&x=1", "client_secret=abc&x=1"),
        ("api-key: [redacted]", "api-key: abc123"),
        ("{'password': '[redacted]', 'user': 'me'}", "{'password': 'hunter2', 'user': 'me'}"),
        ('{"token": "[redacted]"}', '{"token": "hun\\"ter2"}'),
        ("Authorization: [redacted]", "Authorization: Bearer eyJhbGciOi.J9-x_y"),
    ],
)
def test_what_looks_like_a_secret_is_blanked(expected: str, text: str) -> None:
    assert expected == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://host:8080/path", "see http://host/a and mail me@host", "the token of batch 7 is done", "3 tokens: 1, 2, 3",
        "basic facts", "postgresql:///flights?host=/tmp", "12:30 at me@host", "",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert text == redact(text)


@given(any_text)
def test_blanking_never_fails_and_is_done_once(text: str) -> None:
    once = redact(text)

    assert once == redact(once)


@pytest.mark.parametrize(
    "text",
    ["a." * 200_000, "a-" * 200_000, "token" * 80_000, "token " * 80_000, "token=" * 80_000, 'token="\\"' * 50_000,
     "x://u:" * 60_000, "x://" * 100_000, "bearer " * 60_000, "token" + " " * 400_000, "x://" + "a" * 400_000],
    ids=lambda text: text[:10].strip(),
)  # fmt: skip
def test_hostile_text_does_not_keep_the_event_loop_busy(text: str) -> None:
    """Messages come from rows: one of some hundred kilobytes must not cost minutes."""
    started = time.process_time()

    redact(text)

    assert time.process_time() - started < 2


# Exceptions


def raised(error: BaseException) -> BaseException:
    """The exception with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Fatal(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Hostile(Exception):
    @property
    def detail(self) -> str:
        raise OSError("gone")

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise OSError("gone")


def test_an_exception_is_told_by_type_message_and_traceback() -> None:
    told = describe_exception(raised(ValueError("no good")))

    assert (told.type, told.message) == ("ValueError", "no good")
    assert told.traceback.startswith("Traceback (most recent call last):")
    assert told.traceback.endswith("ValueError: no good\n")


def _divide(by: int) -> float:
    return 1 / by


def _divide_elsewhere(by: int) -> float:
    return 1 / by


def _noted(by: int) -> float:
    try:
        return 1 / by
    except ZeroDivisionError as error:
        error.add_note("by nought")
        raise


def _caused(by: int) -> float:
    try:
        return 1 / by
    except ZeroDivisionError as error:
        raise ValueError(f"by {by}") from error


def _on_the_way(by: int) -> float:
    try:
        return 1 / by
    except ZeroDivisionError:
        raise ValueError(f"by {by}")  # noqa: B904


def _grouped(by: int) -> float:
    try:
        return 1 / by
    except ZeroDivisionError as error:
        raise ExceptionGroup("several", [error]) from None


def _misspelled(by: int) -> float:
    return bye  # type: ignore[name-defined, no-any-return]  # noqa: F821


def _deep(by: int, depth: int = 30) -> float:
    return _deep(by, depth - 1) if depth else 1 / by


def _anywhere(by: int) -> float:
    if by == 0:
        return 1 / by
    return by + 1


@pytest.mark.parametrize(
    "function", [_divide, _divide_elsewhere, _noted, _caused, _on_the_way, _grouped, _misspelled, _deep, _anywhere]
)
def test_a_traceback_is_told_as_python_tells_it_the_first_time_and_again(function: Callable[[int], float]) -> None:
    """Though the frames of equal ones are put into words once."""
    for by in (0, 0, "", 0, ""):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever
            function(by)  # type: ignore[arg-type]
        expected = "".join(traceback.format_exception(caught.value))

        assert expected == describe_exception(caught.value).traceback


def test_frames_that_are_remembered_are_bounded_and_told_apart_from_those_of_code_that_is_gone() -> None:
    for n in range(3 * sanitise._KEPT):
        namespace: dict[str, Any] = {}
        exec("\n" * n + "def fail(): return 1 / 0", namespace)
        with pytest.raises(ZeroDivisionError) as caught:
            namespace["fail"]()

        assert "".join(traceback.format_exception(caught.value)) == describe_exception(caught.value).traceback
        assert len(sanitise._stacks) <= sanitise._KEPT


def test_what_is_remembered_of_a_text_is_not_told_under_other_rules() -> None:
    error = raised(ValueError("customer 4711 is unknown"))
    before = describe_exception(error)
    with redacting(redaction_of((), ("47[0-9]{2}",))):
        within = describe_exception(error)
    after = describe_exception(error)

    assert "customer 4711" in before.message
    assert "4711" in before.traceback
    assert "4711" not in within.message + within.traceback
    assert before == after


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        ("str() raised ValueError", Unspeakable()),
        ("str() raised SystemExit", Fatal()),
        ("str() raised OSError", Hostile()),
        ("", KeyboardInterrupt()),
        ("\\x00\\ud800", ValueError("\x00\ud800")),
        ("(2 sub-exceptions)", ExceptionGroup("several", [ValueError("a"), Unspeakable()])),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_exception_that_cannot_be_told_is_told_anyway(expected: str, error: BaseException) -> None:
    told = describe_exception(raised(error))

    assert expected in told.message
    assert type(error).__name__ == told.type
    for text in (told.type, told.message, told.traceback):
        assert_storable(text)


def test_the_detail_of_a_database_error_is_part_of_the_message() -> None:
    error = asyncpg.UniqueViolationError("duplicate key value violates unique constraint")
    error.detail = "Key (id)=(7) already exists."

    assert "Key (id)=(7) already exists." in describe_exception(error).message


def test_secrets_in_messages_and_tracebacks_are_blanked() -> None:
    told = describe_exception(raised(ConnectionError("postgresql://me:hunter2@host/db refused")))

    assert "hunter2" not in told.message + told.traceback


def test_a_secret_at_the_edge_of_a_cut_is_not_shown_by_half() -> None:
    for width in range(MESSAGE_LIMIT - 40, MESSAGE_LIMIT + 40, 3):
        told = describe_exception(ValueError("x" * width + " password=" + "hunter2" * 20 + " " + "y" * 3 * width))

        assert "hunter2" not in told.message


def test_a_message_of_megabytes_is_bounded_and_quickly_told() -> None:
    started = time.process_time()

    told = describe_exception(raised(ValueError("a." * 2_000_000)))

    assert time.process_time() - started < 5
    assert len(told.message) <= MESSAGE_LIMIT + MARKER
    assert len(told.traceback) <= TRACEBACK_LIMIT + MARKER


def test_bottomless_recursion_is_told_within_bounds() -> None:
    def fall(depth: int) -> int:
        return fall(depth + 1) + 1

    with pytest.raises(RecursionError) as caught:
        fall(0)
    told = describe_exception(caught.value)

    assert told.type == "RecursionError"
    assert len(told.traceback) <= TRACEBACK_LIMIT + MARKER


def test_an_exception_of_a_class_with_a_monstrous_name_is_told() -> None:
    monster = type("M" * 10_000, (Exception,), {})

    told = describe_exception(monster())

    assert len(told.type) <= 200 + MARKER


# Payloads


@given(values)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_value_becomes_json_that_can_be_stored(value: Any) -> None:
    payload = json_payload(value)

    json.loads(payload.json)
    assert "\\u0000" not in payload.json.replace("\\\\", "")
    assert_storable(payload.json)
    assert len(payload.json) <= 2 * PAYLOAD_LIMIT


@given(values)
def test_exact_means_that_it_reads_back_as_the_same_value(value: Any) -> None:
    payload = json_payload(value)

    if payload.exact:
        assert value == json.loads(payload.json)


@pytest.mark.parametrize(
    "value", [None, True, 0, -1, 10**30, 1.5, "", "héllo", [], {}, {"a": [1, {"b": None}]}, ["x"] * 1000]
)
def test_what_json_can_hold_is_kept_exactly(value: Any) -> None:
    payload = json_payload(value)

    assert payload.exact
    assert value == json.loads(payload.json)


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        ("nan", float("nan")),
        ("inf", float("inf")),
        ("a\\x00b", "a\x00b"),
        ("\\ud800", "\ud800"),
        ("2013-01-01T05:00:00+00:00", datetime(2013, 1, 1, 5, tzinfo=UTC)),
        ("2013-01-01", date(2013, 1, 1)),
        ("1.50", Decimal("1.50")),
        ("00000000-0000-0000-0000-000000000007", UUID(int=7)),
        ("b'x'", b"x"),
        ([1, 2], (1, 2)),
        ([1], {1}),
        ({"1": "a"}, {1: "a"}),
        ({"\\x00": 1}, {"\x00": 1}),
    ],
)
def test_what_json_lacks_is_told_as_text_and_marked(expected: Any, value: Any) -> None:
    payload = json_payload(value)

    assert expected == json.loads(payload.json)
    assert not payload.exact


def bottomless() -> list[Any]:
    """A list that holds itself, twice: the number of ways into it doubles with each step."""
    value: list[Any] = []
    value += [value, value]
    return value


def towering() -> list[Any]:
    """Small in memory, endless on paper."""
    value: list[Any] = ["x"]
    for _ in range(60):
        value = [value, value]
    return value


class Mute:
    def __repr__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    "value",
    [bottomless(), towering(), [[[[]]]] * 100_000, "x" * 10_000_000, {str(n): n for n in range(100_000)}, [Mute()], Mute(),
     {Mute(): 1}, 10**6000, [10**6000]],
    ids=["bottomless", "towering", "wide", "long", "many keys", "mute in list", "mute", "mute key", "huge",
         "huge in list"],
)  # fmt: skip
def test_a_monstrous_value_is_told_within_bounds(value: Any) -> None:
    started = time.process_time()

    payload = json_payload(value)

    assert time.process_time() - started < 5
    assert not payload.exact
    assert len(json.dumps(json.loads(payload.json))) <= 2 * PAYLOAD_LIMIT


async def test_postgres_takes_whatever_comes_out(db: Any) -> None:
    """What the tests above find fit, a real server has to accept."""
    examples: list[tuple[str, str, str]] = []

    @given(any_text, values)
    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    def collect(text: str, value: Any) -> None:
        examples.append((storable(text, 50), describe_exception(ValueError(text)).message, json_payload(value).json))

    collect()
    texts, messages, payloads = (list(column) for column in zip(*examples, strict=True))
    rows = await db.fetch(
        "SELECT t, m, p::jsonb FROM unnest($1::text[], $2::text[], $3::text[]) AS u (t, m, p)",
        texts,
        messages,
        payloads,
    )

    assert texts == [row["t"] for row in rows]
    assert messages == [row["m"] for row in rows]
    assert len(rows) >= 150
