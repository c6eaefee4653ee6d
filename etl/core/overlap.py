"""What happens to a tick while the previous run of its job is still active."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from etl.errors import ConfigurationError

_E = TypeVar("_E", bound=StrEnum)


class Overlap(StrEnum):
    """`skip`: the tick is recorded with the run that blocked it, and nothing starts."""

    skip = "skip"


class Missed(StrEnum):
    """What is made up for after downtime: `last`, the latest fire time missed; `none`, nothing."""

    last = "last"
    none = "none"


def parse_overlap(value: str) -> Overlap:
    """Read an overlap policy. Raises `ConfigurationError` naming the words there are."""
    return _word(Overlap, value, "overlap")


def parse_missed(value: str) -> Missed:
    """Read a missed policy. Raises `ConfigurationError` naming the words there are."""
    return _word(Missed, value, "missed")


def _word(words: type[_E], value: str, setting: str) -> _E:
    try:
        return words(value)
    except ValueError:
        known = ", ".join(repr(str(word)) for word in words)
        raise ConfigurationError(f"{value!r} is not a policy", setting=setting, remedy=f"use one of: {known}") from None
