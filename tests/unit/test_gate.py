"""The gate around user code: ordinary batches share the process, a suspect is alone in it."""

from __future__ import annotations

import asyncio

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from etl.runtime.gate import SuspectGate

PATIENCE = 20.0


class Guest:
    """Somebody who enters, tells so, and stays until told to leave."""

    def __init__(self, gate: SuspectGate, *, alone: bool) -> None:
        self.inside = asyncio.Event()
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(gate, alone))

    async def _visit(self, gate: SuspectGate, alone: bool) -> None:
        async with gate.enter(alone=alone):
            self.inside.set()
            await self.leave.wait()

    async def enters(self) -> bool:
        """Wait until inside."""
        async with asyncio.timeout(PATIENCE):
            return await self.inside.wait()

    async def goes(self) -> None:
        """Leave, and be gone."""
        self.leave.set()
        async with asyncio.timeout(PATIENCE):
            await self.task


async def settled() -> None:
    """Let everybody who can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_ordinary_batches_share_the_process() -> None:
    gate = SuspectGate()
    one, other = Guest(gate, alone=False), Guest(gate, alone=False)

    assert await one.enters()
    assert await other.enters()

    await one.goes()
    await other.goes()


async def test_a_suspect_waits_until_it_is_alone_and_keeps_everybody_out() -> None:
    gate = SuspectGate()
    before = Guest(gate, alone=False)
    await before.enters()
    suspect = Guest(gate, alone=True)
    await settled()
    alone_too_early = suspect.inside.is_set()

    await before.goes()
    await suspect.enters()
    after = Guest(gate, alone=False)
    await settled()
    shared_with_suspect = after.inside.is_set()
    await suspect.goes()

    assert (alone_too_early, shared_with_suspect) == (False, False)
    assert await after.enters()
    await after.goes()


async def test_two_suspects_are_alone_one_after_the_other() -> None:
    gate = SuspectGate()
    one, other = Guest(gate, alone=True), Guest(gate, alone=True)
    await one.enters()
    await settled()
    together = other.inside.is_set()

    await one.goes()

    assert not together
    assert await other.enters()
    await other.goes()


async def test_who_wants_to_be_alone_is_not_overtaken_for_ever() -> None:
    gate = SuspectGate()
    before = Guest(gate, alone=False)
    await before.enters()
    suspect = Guest(gate, alone=True)
    await settled()
    late = Guest(gate, alone=False)
    await settled()
    overtaken = late.inside.is_set()

    await before.goes()
    await suspect.enters()
    await suspect.goes()

    assert not overtaken
    assert await late.enters()
    await late.goes()


async def test_a_share_may_be_extended_beyond_its_block() -> None:
    gate = SuspectGate()
    async with gate.enter(alone=False):
        leave = await gate.extend()
    suspect = Guest(gate, alone=True)
    await settled()
    too_early = suspect.inside.is_set()

    await leave()

    assert not too_early
    assert await suspect.enters()
    await suspect.goes()


@pytest.mark.parametrize("alone", [True, False])
async def test_what_is_raised_inside_leaves_the_gate_open(alone: bool) -> None:
    gate = SuspectGate()

    with pytest.raises(ValueError, match="no good"):
        async with gate.enter(alone=alone):
            raise ValueError("no good")

    suspect = Guest(gate, alone=True)
    assert await suspect.enters()
    await suspect.goes()


async def test_a_suspect_that_gives_up_waiting_lets_the_others_in() -> None:
    gate = SuspectGate()
    before = Guest(gate, alone=False)
    await before.enters()
    suspect = Guest(gate, alone=True)
    late = Guest(gate, alone=False)
    await settled()

    suspect.task.cancel()

    assert await late.enters()
    await late.goes()
    await before.goes()


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["enter", "leave", "cancel"])), max_size=25))
@settings(max_examples=100)
def test_nobody_is_ever_with_a_suspect_and_everybody_gets_in(steps: list[tuple[bool, str]]) -> None:
    asyncio.run(visit_at_random(steps))


async def visit_at_random(steps: list[tuple[bool, str]]) -> None:
    gate = SuspectGate()
    guests: list[tuple[bool, Guest]] = []

    for alone, what in steps:
        if what == "enter":
            guests.append((alone, Guest(gate, alone=alone)))
        elif guests:
            _, guest = guests.pop(0)
            if what == "cancel":
                guest.task.cancel()
            guest.leave.set()
        await settled()
        inside = [alone for alone, guest in guests if guest.inside.is_set()]
        assert inside in ([True], [False] * len(inside))

    for _, guest in guests:
        guest.leave.set()
    for _, guest in guests:
        assert await guest.enters()
        await guest.goes()
