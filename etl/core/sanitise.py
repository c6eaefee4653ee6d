"""Text and values made fit to be stored and shown, whatever a row or an exception carries.

Quarantining must never fail: an exception whose `__str__` raises, NUL, lone surrogates, a payload without JSON form,
a message of a gigabyte all end as bounded, storable text. What the rules of redaction in force call secret is blanked
before anything reaches a log, a span, a report or the database.
"""

from __future__ import annotations

import json
import math
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from types import CodeType, TracebackType
from typing import Any
from uuid import UUID

from etl.core.redaction import Redaction, rules, without

MESSAGE_LIMIT = 2_000  # characters
TRACEBACK_LIMIT = 8_000  # characters
PAYLOAD_LIMIT = 64_000  # characters of JSON
# Rows fail by the hundred for the same reason at the same place: of so many texts, up to that long, and of so many
# stacks, up to that deep, it is remembered how they are told.
_KEPT = 64
_OFTEN = 4_000  # characters
_DEPTH = 20
_DEEPEST = 50  # lists and dicts inside each other

_MACHINERY = re.compile(r"/etl/(processors|sinks|runtime|postgres|core)/|/tenacity/|/asyncio/|/concurrent/futures/")

# Characters that could rewrite a terminal or reorder what is shown: C0 and C1 controls, line and bidi controls, and
# lone surrogates, which no terminal can be sent.
_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def redact(text: str) -> str:
    """Blank what looks like a secret by the rules in force."""
    return rules().text(text)


def storable(text: str, limit: int) -> str:
    """Text that Postgres accepts: no NUL, no lone surrogates, little more than `limit` characters (middle cut out)."""
    if len(text) > limit:
        tail = limit * 3 // 4
        text = f"{text[: limit - tail]}\n... {len(text) - limit:,} characters cut ...\n{text[-tail:]}"
    text = text.replace("\x00", "\\x00")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def showable(text: str) -> str:
    """Text for a terminal: control and bidirectional characters as escapes, newline and tab kept."""
    return _UNSHOWABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


@dataclass(frozen=True, slots=True)
class ErrorText:
    """An exception as bounded, redacted, storable text."""

    type: str
    message: str
    traceback: str

    def without_values_of(self, row: Any) -> ErrorText:
        """The same without what the rules call secret in a row, wherever the error repeats it."""
        hidden = rules().hidden(row)
        if not hidden:
            return self
        return ErrorText(self.type, without(self.message, hidden), without(self.traceback, hidden))


def describe_exception(error: BaseException, *, where: bool = True) -> ErrorText:
    """Type name, message and traceback (without locals) of an exception. Never raises.

    `where`: with the traceback, which takes twenty times as long as the rest.
    """
    return ErrorText(
        type=storable(type(error).__name__, 200),
        message=_presentable(_message(error), MESSAGE_LIMIT),
        traceback=_presentable(_traceback(error), TRACEBACK_LIMIT) if where else "",
    )


def _presentable(text: str, limit: int) -> str:
    """Redacted and storable. What is far beyond the limit goes first, so that gigabytes need not be searched."""
    made = _made_presentable if len(text) <= _OFTEN else _made_presentable.__wrapped__
    return made(text, limit, rules())


@lru_cache(maxsize=_KEPT)
def _made_presentable(text: str, limit: int, redaction: Redaction) -> str:
    return storable(redaction.text(storable(text, 20 * limit)), limit)


def _message(error: BaseException) -> str:
    try:
        text = str(error)
        detail = getattr(error, "detail", None)  # of a Postgres error: which key, which value
        return f"{text}: {detail}" if isinstance(detail, str) and detail and detail not in text else text
    except BaseException as broken:
        return f"<message not available: str() raised {type(broken).__name__}>"


def _traceback(error: BaseException) -> str:
    try:
        frames = _from_user_code(error.__traceback__)
        single = error.__cause__ is None and error.__context__ is None and not isinstance(error, BaseExceptionGroup)
        stack = _stack(frames) if single else None
        # With no frames besides those of `stack`; they are still needed for "Did you mean ...?".
        limit = None if stack is None else 0
        shown = traceback.TracebackException(type(error), error, frames, limit=limit, compact=True)
        if stack is not None:
            shown.stack = stack
        return "".join(shown.format())
    except BaseException as broken:  # e.g. an exception whose attributes raise
        return f"<traceback not available: {type(broken).__name__}>"


class _Stack(traceback.StackSummary):
    """Frames as text, which is made once: it takes ten times as long as the rest."""

    codes: tuple[CodeType, ...]  # of the frames; kept, for they are known by their ids
    lines: list[str]

    def format(self, **options: Any) -> list[str]:
        return self.lines


_stacks: dict[tuple[tuple[int, int], ...], _Stack] = {}


def _stack(frames: TracebackType | None) -> _Stack | None:
    """What rows that fail at the same place have in common; None if there are too many frames to tell."""
    found = list(islice(_each(frames), _DEPTH + 1))
    if len(found) > _DEPTH:
        return None
    # Codes that are alike are equal, in whatever file they are.
    place = tuple((id(frame.tb_frame.f_code), frame.tb_lasti) for frame in found)
    stack = _stacks.get(place)
    if stack is None:
        if len(_stacks) >= _KEPT:
            _stacks.clear()
        stack = _Stack(traceback.extract_tb(frames))
        stack.codes = tuple(frame.tb_frame.f_code for frame in found)
        stack.lines = traceback.StackSummary.format(stack)
        _stacks[place] = stack
    return stack


def _each(frames: TracebackType | None) -> Iterator[TracebackType]:
    while frames is not None:
        yield frames
        frames = frames.tb_next


def _from_user_code(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is not this framework's machinery (all of it if there is none)."""
    frame = frames
    while frame is not None and _MACHINERY.search(frame.tb_frame.f_code.co_filename.replace("\\", "/")):
        frame = frame.tb_next
    return frame or frames


@dataclass(frozen=True, slots=True)
class PayloadText:
    """A value as JSON text. `exact` says whether reading it back gives the same value."""

    json: str
    exact: bool


def shown_payload(text: str | None) -> str | None:
    """A payload's JSON text as it is recorded: bounded, without what the rules call secret."""
    if text is None:
        return None
    if len(text) > 20 * PAYLOAD_LIMIT:  # gigabytes need not be searched
        return json.dumps({"cut": _presentable(text, PAYLOAD_LIMIT)})
    told = _blanked_json(text)
    return told if len(told) <= PAYLOAD_LIMIT else json.dumps({"cut": storable(told, PAYLOAD_LIMIT)})


def _blanked_json(text: str) -> str:
    if rules().harmless(text):
        return text
    try:
        value = json.loads(text)
        blanked = rules().value(value)
    except (ValueError, RecursionError):  # more digits or levels than Python reads
        return json.dumps({"cut": redact(text)}, ensure_ascii=False)
    return text if blanked is value else json.dumps(blanked, ensure_ascii=False)


def json_payload(value: Any) -> PayloadText:
    """JSON for any Python value: what JSON lacks becomes text, what is too long is cut. Never raises."""
    try:
        plain = _jsonable(value, 0, iter(range(PAYLOAD_LIMIT)))
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False)
        if len(text) > PAYLOAD_LIMIT:
            return PayloadText(json.dumps({"cut": storable(text, PAYLOAD_LIMIT)}), exact=False)
        return PayloadText(text, exact=_same(plain, value))
    except Exception as broken:
        return PayloadText(json.dumps({"unreadable": storable(type(broken).__name__, 200)}), exact=False)


def _same(plain: Any, value: Any) -> bool:
    if type(plain) is not type(value):
        return False
    if isinstance(value, dict):
        return plain.keys() == value.keys() and all(_same(plain[key], value[key]) for key in value)
    if isinstance(value, list):
        return len(plain) == len(value) and all(map(_same, plain, value))
    return bool(plain == value)


def _jsonable(value: Any, depth: int, left: Iterator[int]) -> Any:
    """`left` runs out when the JSON is sure to be too long, so that a value which contains itself comes to an end."""
    if next(left, None) is None:
        return "..."
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return storable(value, PAYLOAD_LIMIT)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (UUID, Decimal)):
        return str(value)
    if isinstance(value, (dict, list, tuple, set, frozenset)) and depth == _DEEPEST:
        return "..."
    if isinstance(value, dict):
        return {storable(str(key), 200): _jsonable(item, depth + 1, left) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_jsonable(item, depth + 1, left) for item in value]
    return storable(repr(value), 1_000)
