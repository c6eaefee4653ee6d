"""JSON for the server: what has no JSON form is refused wherever it hides, and everything else reads back as it was."""

from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import given

from etl.postgres.codecs import array_of_numbers, decode_json_array, encode_json, encode_json_array


class Level(Enum):
    high = float("nan")
    low = 1


@dataclass
class Reading:
    value: float
    note: str | None = None


class Text(str):
    """A subclass, which the fast encoder does not take."""


ITSELF: list[Any] = [None]
ITSELF.append(ITSELF)
NAN, INFINITY = float("nan"), float("inf")
REFUSED: dict[str, Any] = {
    "NaN": NAN,
    "infinity": [INFINITY],
    "minus infinity": {"a": -INFINITY},
    "NaN beside None": {"a": None, "b": NAN},
    "NaN behind None": [None, [None, {"a": [NAN]}]],
    "NaN in a tuple": (None, (NAN,)),
    "NaN in a dataclass": Reading(NAN),
    "NaN in an enum": [None, Level.high],
    "NaN beside a large integer": [2**70, NAN],
    "lone surrogate": ["null", "\ud800"],
    "naive datetime": {"at": datetime(2024, 1, 1), "none": None},
    "bytes": [None, b"x"],
    "set": {1},
    "itself": ITSELF,
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_has_no_json_form_is_refused_alone_and_among_others(value: Any) -> None:
    with pytest.raises((TypeError, ValueError, RecursionError)):
        encode_json(value)
    with pytest.raises((TypeError, ValueError, RecursionError)):
        encode_json_array([None, {"good": None}, value])


TAKEN: dict[str, tuple[Any, Any]] = {
    "None": (None, None),
    "nested None": ({"a": [None, {"b": None}]}, {"a": [None, {"b": None}]}),
    "the word null": ("annulled", "annulled"),
    "minus zero beside None": ([-0.0, None], [-0.0, None]),
    "a large integer beside None": ([2**70, None], [2**70, None]),
    "an instant beside None": ([datetime(2024, 1, 1, tzinfo=UTC), None], ["2024-01-01T00:00:00+00:00", None]),
    "a day and an id beside None": ([date(2024, 1, 1), UUID(int=1), None], ["2024-01-01", str(UUID(int=1)), None]),
    "a dataclass": (Reading(1.5), {"value": 1.5, "note": None}),
    "an enum beside None": ([Level.low, None], [1, None]),
    "a subclass beside None": ([Text("a"), None], ["a", None]),
    "a tuple": ((1, None), [1, None]),
}


@pytest.mark.parametrize(("value", "read"), TAKEN.values(), ids=TAKEN)
def test_what_has_one_is_written_with_none_beside_it(value: Any, read: Any) -> None:
    assert read == json.loads(encode_json(value))
    assert [read, None, read] == json.loads(encode_json_array([value, None, value]))


def test_the_sign_of_zero_is_kept() -> None:
    assert -1.0 == math.copysign(1, json.loads(encode_json([-0.0, None]))[0])


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "null", "c"]), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(_PLAIN, max_size=4))
def test_a_column_reads_back_as_it_was_or_is_refused_for_what_is_not_finite(values: list[Any]) -> None:
    try:
        json.dumps(values, allow_nan=False)
    except ValueError:
        with pytest.raises(ValueError, match=r"has no JSON form|not JSON compliant"):
            encode_json_array(values)
    else:
        assert values == json.loads(encode_json_array(values))


def test_none_beside_plain_values_does_not_need_the_slow_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: Any, **options: Any) -> str:
        raise AssertionError("the slow encoder was asked")

    monkeypatch.setattr(json, "dumps", slow)

    assert {"a": None} == orjson.loads(encode_json({"a": None}))
    assert [{"at": "2024-01-01T00:00:00+00:00"}, None] == orjson.loads(
        encode_json_array([{"at": datetime(2024, 1, 1, tzinfo=UTC)}, None])
    )


@pytest.mark.parametrize("numbers", [[], [0], [-(2**63), 2**63 - 1, 7], [4_294_967_295] * 3])
def test_numbers_become_the_text_of_an_array_as_the_server_reads_it(numbers: list[int]) -> None:
    assert f"{{{','.join(map(str, numbers))}}}" == array_of_numbers(numbers)


@given(st.lists(st.none() | st.text(max_size=9_000) | st.dictionaries(st.text(), st.integers(0, 9)), max_size=30))
def test_values_read_together_are_those_that_were_written(values: list[Any]) -> None:
    texts = [None if value is None else encode_json(value) for value in values]

    assert values == decode_json_array(texts)


def test_texts_of_any_length_are_read_in_their_order() -> None:
    values = ["short", "x" * 50_000, None, {"a": ["y" * 20_000]}, *range(3_000)]

    assert values == decode_json_array([encode_json(value) for value in values])
    assert [] == decode_json_array([])


def test_one_text_that_cannot_be_read_among_many_is_refused() -> None:
    with pytest.raises(ValueError, match="unexpected end"):
        decode_json_array([*['"a"'] * 5_000, "[1", *['"b"'] * 5_000])


def test_reading_a_batch_takes_little_more_memory_than_its_values() -> None:
    texts = [encode_json({"name": f"item {n}", "amount": n, "text": "x" * 150}) for n in range(1_000)]
    tracemalloc.start()
    try:
        values = decode_json_array(texts)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert 1_000 == len(values)
    assert peak - held < sum(map(len, texts))  # all at once: twelve times that
