"""Claims of one run on a table whose rows are divided into shards.

Each shard has its own turn, so that claimants of different shards do not wait for each other. A run goes through all
shards, round and round, from one of its own on. Where rows have to keep their order, a shard has one batch in work at
most, in the whole cluster: the next one waits until that is done with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from etl.core.batch import Batch, Processed, Turn, now
from etl.core.counts import Counts, Judge
from etl.postgres.backlog import SourceBacklog
from etl.postgres.claim import Claimant
from etl.postgres.claimed_table import ClaimedTable, Writer
from etl.postgres.claims import Claims, Numbers, settle_deferred
from etl.postgres.database import Database


@dataclass(slots=True)
class _Lane:
    """One shard in the eyes of a run."""

    claims: Claims
    begun: bool = False
    over: bool = False  # swept, or left for now because others are at it
    in_hand: set[UUID] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.claims.table.lane


def first_lane(run_id: UUID, lanes: int) -> int:
    """Where a run begins: runs that start together begin at different shards."""
    return run_id.int % lanes


class ShardedTable(ClaimedTable):
    """`core.ports.BatchSource` over all shards."""

    def __init__(
        self,
        database: Database,
        claimant: Claimant,
        writer: Writer,
        sink_name: str,
        backlog: SourceBacklog | None = None,
    ) -> None:
        super().__init__(database, claimant, writer, sink_name, backlog)
        numbers = Numbers()
        self._lanes = [
            _Lane(Claims(database, replace(claimant, table=replace(claimant.table, shard=shard)), numbers))
            for shard in claimant.table.shards
        ]
        self._claims = self._lanes[0].claims  # which numbers batches for all of them
        self._turn = first_lane(claimant.run_id, len(self._lanes))
        self._use_hint = True
        self._done_with = asyncio.Event()

    @property
    def positions(self) -> Mapping[str, list[str]]:
        """Where the next sweep of each shard may begin."""
        hints = {lane.name: lane.claims.hint for lane in self._lanes if lane.begun}
        return {name: hint for name, hint in hints.items() if hint is not None}

    @property
    def strangers(self) -> bool:
        """Whether the last claims saw ranges that others hold."""
        return any(lane.claims.strangers for lane in self._lanes)

    @property
    def busy(self) -> bool:
        """Whether another run has a batch of a shard in work that this one has not come to the end of."""
        return any(lane.claims.busy for lane in self._lanes)

    @property
    def _issues(self) -> bool:
        return any(lane.claims.issues for lane in self._lanes)

    async def begin_sweep(self, *, use_hint: bool = True) -> None:
        """Fix what the sweep covers: for each shard when its turn comes."""
        self._use_hint = use_hint
        for lane in self._lanes:
            lane.begun = lane.over = False

    async def next(self, token: UUID, most: int, further: int = 0) -> Batch | None:
        """Claim the next batch of any shard, of one at a time; None when all have been swept."""
        while (lane := await self._lane_to_ask()) is not None:
            begins = not lane.begun
            if begins:
                await lane.claims.begin_sweep(use_hint=self._use_hint)
                lane.begun = True
            batch = await lane.claims.next(token, most)
            if begins:
                await self._look_at_backlog(lane.claims, batch)
            if batch is not None:
                lane.in_hand.add(token)
                return batch
            lane.over = True
        if not self.busy:
            await self._settle()
            return None
        for lane in self._lanes:  # next time, these are asked again
            lane.over = not lane.claims.busy
        return None

    async def complete(
        self, batch: Batch, processed: Processed, judge: Judge, carry: Batch | None = None, turn: Turn = now
    ) -> Counts:
        """Write and record a batch, once; `turn` is awaited before."""
        counts = await super().complete(batch, processed, judge, carry, turn)
        for lane in self._lanes:
            lane.in_hand.discard(batch.token)
        self._done_with.set()
        return counts

    async def _lane_to_ask(self) -> _Lane | None:
        """The next shard in turn that may have more; waits while all that may are in work here."""
        while True:
            self._done_with.clear()
            left = [lane for lane in self._lanes if not lane.over]
            if not left:
                return None
            for _ in self._lanes:
                lane = self._lanes[self._turn]
                self._turn = (self._turn + 1) % len(self._lanes)
                if not lane.over and not (self._claimant.table.in_turn and lane.in_hand):
                    return lane
            await self._done_with.wait()

    async def _settle(self) -> None:
        """All shards have been swept: deferred rows that none of them met are nobody's any more."""
        begun = [lane.claims.begun_at for lane in self._lanes if lane.claims.begun_at is not None]
        if begun and self._issues and not self._claimant.table.replay:
            await settle_deferred(self._database, self._claimant, min(begun))

    @property
    def _names(self) -> list[str]:
        return [lane.name for lane in self._lanes]
