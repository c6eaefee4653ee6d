"""What a processor or sink is told, and the names of rows that other systems may rely on."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl import Context
from etl.core.batch import Batch
from etl.core.context import BatchContext, idempotency_key

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.tuples(texts, st.lists(texts, min_size=1, max_size=3))


def batch_of(keys: list[list[str]], source: str = "public.src") -> Batch:
    """A batch without rows to speak of; `keys` holds one list per key column."""
    rows: list[Any] = [{} for _ in keys[0]]
    return Batch(uuid4(), 1, source, rows=rows, keys=keys, versions=[0] * len(rows))


def shared(batch: Batch, **changes: Any) -> BatchContext:
    """The facts of a batch."""
    facts: dict[str, Any] = {
        "run_id": uuid4(),
        "job": "copy",
        "trigger": "cron",
        "scheduled_for": datetime(2024, 2, 29, 4, 30, tzinfo=UTC),
        "batch": batch,
        "logger": logging.getLogger("etl.run"),
        "resources": {"client": object()},
        "trusted_seconds": lambda: 12.5,
        "is_stopping": lambda: False,
    }
    return BatchContext(**(facts | changes))


@pytest.mark.parametrize(
    ("source", "key", "expected"),
    [
        ("public.src", ["7"], "public.src:7"),
        ("public.src", ["a", "b"], "public.src:a,b"),
        ("public.Order Inbox", ["7"], "public.Order%20Inbox:7"),
        ("s", ["a,b"], "s:a%2Cb"),
        ("s", ["a:b/c#2"], "s:a%3Ab%2Fc%232"),
        ("s", ["Zürich\n"], "s:Z%C3%BCrich%0A"),
        ("s", [""], "s:"),
    ],
)
def test_a_rows_name_is_its_source_and_key(source: str, key: list[str], expected: str) -> None:
    assert expected == idempotency_key(source, key)


@given(names, names)
def test_different_rows_have_different_names(one: tuple[str, list[str]], other: tuple[str, list[str]]) -> None:
    assert (one == other) == (idempotency_key(*one) == idempotency_key(*other))


@given(names)
def test_a_name_fits_into_an_http_header(name: tuple[str, list[str]]) -> None:
    assert all("!" <= character <= "~" for character in idempotency_key(*name))


def test_a_context_tells_where_its_row_is() -> None:
    batch = batch_of([["1", "2"], ["x", "y"]])
    facts = shared(batch)

    context = Context(facts, [1], attempt=3)

    assert (facts.run_id, "copy", "cron", 3) == (context.run_id, context.job, context.trigger, context.attempt)
    assert (batch.token, facts.scheduled_for) == (context.batch_token, context.scheduled_for)
    assert (facts.logger, facts.resources) == (context.logger, context.resources)
    assert "public.src:2,y" == context.idempotency_key
    assert 1 == Context(facts, [0]).attempt


def test_stopping_and_the_time_that_remains_are_asked_for_anew_each_time() -> None:
    """A long call may look again and again."""
    left, stopping = [9.0, 8.0], [False, True]
    facts = shared(batch_of([["1"]]), trusted_seconds=lambda: left.pop(0), is_stopping=lambda: stopping.pop(0))

    context = Context(facts, [0])

    assert [9.0, 8.0] == [context.remaining(), context.remaining()]
    assert [False, True] == [context.stopping, context.stopping]


def test_several_rows_have_a_name_each_and_several_results_of_one_row_are_told_apart() -> None:
    context = Context(shared(batch_of([["1", "2", "3"]])), [0, 1, 1, 2, 1])

    assert [
        "public.src:1",
        "public.src:2",
        "public.src:2#2",
        "public.src:3",
        "public.src:2#3",
    ] == context.idempotency_keys


@pytest.mark.parametrize("ordinals", [[], [0, 1], [0, 0]])
def test_one_name_for_several_rows_is_refused_and_says_what_to_ask_for(ordinals: list[int]) -> None:
    context = Context(shared(batch_of([["1", "2"]])), ordinals)

    with pytest.raises(AttributeError, match=r"context\.idempotency_keys"):
        _ = context.idempotency_key


def test_the_number_of_a_result_is_never_taken_for_a_part_of_a_key() -> None:
    twice = Context(shared(batch_of([["a"]])), [0, 0]).idempotency_keys
    named_so = Context(shared(batch_of([["a#2"]])), [0]).idempotency_key

    assert named_so not in twice


def test_the_name_is_the_same_in_every_batch_and_attempt() -> None:
    """What at-least-once delivery needs: the row decides, not who handles it."""
    first = Context(shared(batch_of([["7", "8"]])), [1])
    again = Context(shared(batch_of([["8"]]), job="copy", trigger="replay"), [0], attempt=2)

    assert first.idempotency_key == again.idempotency_key


def test_versions_go_with_the_names_of_the_rows_in_hand() -> None:
    batch = batch_of([["1", "2", "3"]])
    batch.versions = [10, 20, 30]

    context = Context(shared(batch), [0, 2, 2])

    assert [10, 30, 30] == context.versions
