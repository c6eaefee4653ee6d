"""JSON in and out of Postgres: what has no JSON form is refused, never guessed at."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time
from enum import Enum
from typing import Any
from uuid import UUID

import asyncpg
import orjson

# Characters read at once. orjson asks for twelve bytes a character and uses few of them: of a whole batch that would be
# megabytes, elsewhere in the heap each time, until all of it has been touched. This much is 96 kB.
_PIECE = 8_000
_TOGETHER = 32  # values written at once: one long text in the end, but none on the way
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


def encode_json(value: Any) -> str:
    """JSON text of a value. Raises `TypeError` or `ValueError` for NaN, infinity, lone surrogates, naive datetimes and
    whatever else has no JSON form."""
    return _encode(value).decode()


def _encode(value: Any) -> bytes:
    try:
        text = orjson.dumps(value, default=_json_form, option=_OPTIONS)
    except orjson.JSONEncodeError:
        # Integers beyond 64 bits and str or dict subclasses are fine for the slower encoder.
        return json.dumps(value, default=_json_form, allow_nan=False, ensure_ascii=False).encode()
    _refuse_hidden(value, text)
    return text


def encode_json_array(values: list[Any]) -> str:
    """JSON text of a list of values: few calls where each one by itself would be one. Raises as `encode_json`."""
    parts = [_encode_part(values[start : start + _TOGETHER]) for start in range(0, len(values), _TOGETHER)] or [""]
    parts[0] = "[" + parts[0]
    parts[-1] += "]"
    return ",".join(parts)


def _encode_part(values: list[Any]) -> str:
    """The same without brackets."""
    try:
        text = orjson.dumps(values, default=_json_form, option=_OPTIONS)
    except orjson.JSONEncodeError:
        return ",".join(map(encode_json, values))
    _refuse_hidden(values, text)
    return text[1:-1].decode()


def decode_json_array(texts: Sequence[str | None]) -> list[Any]:
    """The values of JSON texts (None: a null), read in few calls where each one by itself would be one. Raises
    `ValueError` if one cannot be read."""
    known = ["null" if text is None else text for text in texts]
    length = max(1, sum(map(len, known)))
    at_once = max(1, _PIECE * len(known) // length)  # texts, of average length
    values: list[Any] = []
    for start in range(0, len(known), at_once):
        values += orjson.loads(f"[{','.join(known[start : start + at_once])}]")
    return values


def array_of_numbers(numbers: Sequence[int]) -> str:
    """The text of a Postgres array of whole numbers (of 64 bits), which is JSON's but for the brackets."""
    return f"{{{orjson.dumps(numbers).decode()[1:-1]}}}"


def _refuse_hidden(value: Any, text: bytes) -> None:
    """orjson writes NaN and infinity as null; where there is no null there was none of them."""
    if text.rfind(b"null") < 0:  # from behind it takes half the time
        return
    waiting = [value]
    while waiting:
        each = waiting.pop()
        kind = type(each)
        if each is None or kind is str or kind is int or kind is bool:
            continue
        if kind is dict:
            waiting.extend(each.values())
        elif kind is list or kind is tuple:
            waiting.extend(each)
        elif isinstance(each, float):
            if not math.isfinite(each):
                raise ValueError(f"{each} has no JSON form")
        elif isinstance(each, Enum):
            waiting.append(each.value)
        elif is_dataclass(each):
            waiting.extend(getattr(each, field.name) for field in fields(each))


def _json_form(value: Any) -> Any:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value.isoformat()}: give it a time zone")
        return value.isoformat()
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _encode_jsonb(value: Any) -> bytes:
    return b"\x01" + _encode(value)


def _decode_jsonb(data: bytes) -> Any:
    return orjson.loads(data[1:])


async def set_codecs(connection: asyncpg.Connection[Any]) -> None:
    """Make json and jsonb columns Python values on this connection. Asks the server nothing."""
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_encode_jsonb, decoder=_decode_jsonb, format="binary"
    )
    await connection.set_type_codec(
        "json",
        schema="pg_catalog",
        encoder=_encode,
        decoder=orjson.loads,
        format="binary",
    )
