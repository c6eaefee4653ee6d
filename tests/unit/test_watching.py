"""The watch of a worker: one look at a time, in turn, and a function's trouble is its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from etl import BatchProcessingSource, Pipeline, PPrintSink
from etl.core.episode import Standing
from etl.core.watch import Notice
from etl.errors import DatabaseUnavailableError
from etl.runtime.telling import telling
from etl.runtime.watching import Watcher
from tests.kit import a_job

NOW = datetime(2024, 2, 29, 4, 30, tzinfo=UTC)


class Looks:
    """A store that counts what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def register(self) -> None:
        raise DatabaseUnavailableError("gone")

    async def look(self) -> list[Standing]:
        self.asked.append("records")
        return []

    async def look_at_backlog(self, pipeline: Pipeline) -> Standing | None:
        self.asked.append(pipeline.name)
        return Standing(pipeline.name, NOW)

    async def record(self, changes: Sequence[Any], looked_at: datetime) -> int:
        raise AssertionError

    async def claim_notices(self, jobs: Sequence[str]) -> list[Notice]:
        raise DatabaseUnavailableError("gone")

    async def settle(self, notice: Notice, *, told: bool, error: str | None, again_in: float | None) -> None:
        raise AssertionError


def table(name: str, **options: Any) -> Pipeline:
    source = BatchProcessingSource("src", pending="p", done="d", pending_since="at")
    return Pipeline(name, source, PPrintSink(), **options)


async def test_a_turn_is_one_look_and_each_gets_its_turn_before_one_gets_another() -> None:
    store = Looks()
    jobs = [table("a", backlog_limit="1h"), table("b", backlog_limit="1h"), table("c", quiet_for="1h"), table("d")]
    watcher = Watcher({each.name: each for each in jobs}, store)

    numbers = []
    for _ in range(5):
        await watcher.turn()
        numbers.append(len(store.asked))

    assert [1, 2, 3, 3, 3] == numbers
    assert ["a", "b", "records"] == sorted(store.asked)


async def test_what_has_begun_is_looked_at_before_its_turn() -> None:
    store = Looks()
    watcher = Watcher({"job": a_job("job", on_event=print)}, store)
    await watcher.turn()

    watcher.hurry()
    await watcher.turn()

    assert ["records", "records"] == store.asked


async def test_a_run_by_hand_goes_on_where_nothing_can_be_told() -> None:
    ran = False
    async with telling(Looks(), a_job("job", on_event=print)):
        ran = True

    assert ran
