"""Claiming ahead: when it is done, and that nothing is claimed twice or after the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

import pytest

import etl.sources.ahead
from etl.core.batch import Batch
from etl.sources.ahead import Ahead


class Table:
    """Batches numbered from 1, up to `last`; `asked` counts the claims."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0

    async def claim(self) -> Batch | None:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        number = self.asked
        await asyncio.sleep(0)
        self.at_once -= 1
        return None if number > self.last else Batch(uuid4(), number, "table", [], [[]], [])


def always() -> bool:
    return True


async def numbers(
    table: Table, lanes: int, asked_in_hand: list[int] | None = None, steady: Callable[[], bool] = always
) -> list[int]:
    """The batches that so many lanes get."""
    got: list[int] = []

    async def lane(ahead: Ahead) -> None:
        while (batch := await ahead.next()) is not None:
            async with ahead.in_hand():
                got.append(batch.number)
                for _ in range(5):
                    await asyncio.sleep(0)
                if asked_in_hand is not None:
                    asked_in_hand.append(table.asked)

    async with asyncio.TaskGroup() as group:
        ahead = Ahead(table.claim, group.create_task, lanes, steady)
        for _ in range(lanes):
            group.create_task(lane(ahead))
    return got


@pytest.mark.parametrize("lanes", [1, 2, 5])
async def test_every_batch_is_handed_out_once_and_nobody_asks_again_after_the_end(lanes: int) -> None:
    table = Table(last=7)

    got = await numbers(table, lanes)

    assert sorted(got) == [1, 2, 3, 4, 5, 6, 7]
    assert table.asked == 8
    assert table.most_at_once == 1


async def test_behind_a_quick_batch_the_next_is_claimed_while_one_is_in_hand() -> None:
    asked: list[int] = []

    await numbers(Table(last=3), 1, asked)

    assert asked == [1, 3, 4], "batch 1: nothing is known yet; batch 2: batch 3 is there; batch 3: so is the end"


async def test_behind_a_slow_batch_nothing_is_claimed_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etl.sources.ahead, "QUICK", 0.0)
    asked: list[int] = []

    await numbers(Table(last=3), 1, asked)

    assert asked == [1, 2, 3]


async def test_while_the_right_size_is_looked_for_nothing_is_claimed_ahead() -> None:
    asked: list[int] = []

    await numbers(Table(last=4), 1, asked, steady=lambda: len(asked) > 2)

    assert asked == [1, 2, 3, 5], "the size is found behind the third batch: the fourth one has the next beside it"


async def test_a_claim_that_fails_ahead_of_its_time_ends_the_cycle() -> None:
    table = Table(last=3)

    async def claim() -> Batch | None:
        if table.asked == 1:
            raise ConnectionError("gone")
        return await table.claim()

    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        async with asyncio.TaskGroup() as group:
            ahead = Ahead(claim, group.create_task, 1, always)
            while (await ahead.next()) is not None:
                async with ahead.in_hand():
                    await asyncio.sleep(0)


async def test_with_several_lanes_two_are_claimed_ahead_one_after_the_other() -> None:
    table = Table(last=9)

    async with asyncio.TaskGroup() as group:
        ahead = Ahead(table.claim, group.create_task, 3, always)
        async with ahead.in_hand():
            await ahead.next()
        await ahead.next()  # the first after a quick one
        for _ in range(10):
            await asyncio.sleep(0)
        claimed = table.asked

    assert claimed == 4, "two in hand, two ahead"
    assert table.most_at_once == 1


async def test_behind_an_early_claim_that_finds_nothing_there_is_no_other() -> None:
    table = Table(last=2)

    async with asyncio.TaskGroup() as group:
        ahead = Ahead(table.claim, group.create_task, 2, always)
        async with ahead.in_hand():
            await ahead.next()
        got = [await ahead.next(), await ahead.next(), await ahead.next()]

    assert [None if batch is None else batch.number for batch in got] == [2, None, None]
    assert table.asked == 3
