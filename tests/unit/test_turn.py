"""A batch's turn to be written: how long it was waited for, and the span that begins with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from etl.core.batch import now
from etl.runtime.turn import SpanFromTurn, TimedTurn


class Spans:
    """What began and ended."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @contextmanager
    def span(self) -> Iterator[None]:
        self.told.append("begun")
        try:
            yield
        except ValueError:
            self.told.append("failed")
            raise
        finally:
            self.told.append("ended")


async def test_the_seconds_for_which_a_turn_was_waited_for_add_up() -> None:
    release = asyncio.Event()
    turn = TimedTurn(lambda: asyncio.wait_for(release.wait(), None))  # type: ignore[arg-type]
    asyncio.get_running_loop().call_later(0.02, release.set)

    await turn()
    first = turn.seconds
    await turn()

    assert first >= 0.02
    assert first <= turn.seconds < first + 0.02


async def test_a_span_begins_with_the_turn_and_only_once() -> None:
    spans = Spans()

    with SpanFromTurn(now, spans.span) as begin:
        assert spans.told == []
        await begin()
        await begin()
        assert spans.told == ["begun"]

    assert spans.told == ["begun", "ended"]


async def test_a_span_is_told_how_it_ended() -> None:
    spans = Spans()

    with pytest.raises(ValueError, match="no"), SpanFromTurn(now, spans.span) as begin:
        await begin()
        raise ValueError("no")

    assert spans.told == ["begun", "failed", "ended"]


async def test_without_a_turn_there_is_no_span() -> None:
    spans = Spans()

    with SpanFromTurn(now, spans.span):
        pass

    assert spans.told == []
