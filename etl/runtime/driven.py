"""A pipeline as one run drives it: what `self.pipeline` is inside a `cycle()`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from etl.core.batch import Batch, Failure, Processed, Turn, now
from etl.core.batch_size import BatchSize
from etl.core.context import BatchContext
from etl.core.counts import Counts
from etl.core.pipeline import Pipeline
from etl.core.ports import BatchSource, Bound, Chain, Delivering, EventRecorder, Passage, Span, Tracing
from etl.core.retry import full_jitter
from etl.core.run import Run
from etl.core.sanitise import ErrorText
from etl.core.stages import StageCounts, histogram
from etl.core.suspects import is_poison, must_be_alone
from etl.core.table_source import TableSource
from etl.errors import ConfigurationError, RunLostError, TooManyQuarantinedError
from etl.runtime.control import RunControl, RunStoppingError
from etl.runtime.gate import SuspectGate
from etl.runtime.noting import note_failures
from etl.runtime.turn import SpanFromTurn, TimedTurn

logger = logging.getLogger("etl.run")

# Rows of a batch that still wait for a retry after this many seconds go on by themselves; the others are committed.
STRAGGLER_SECONDS = 1.0
# How often, and how patiently, a sink outside the database that cannot be reached is tried again for one batch.
SINK_ATTEMPTS = 8
# How often to ask again for rows that have to wait for what another run has in work.
BUSY_SECONDS = 0.1
# Events replayed in one transaction.
EVENTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Drive:
    """What it takes to drive a run, besides the run itself."""

    chain: Chain
    delivery: Delivering | None
    tracing: Tracing
    gate: SuspectGate
    resources: Mapping[str, Any]
    on_progress: Callable[[Counts, Sequence[StageCounts]], None]
    # Waits out this process's probation, then ends runs that are dead; None where a loop of the worker does that.
    reap_dead: Callable[[Sequence[UUID]], Awaitable[None]] | None


class DrivenPipeline:
    """`core.source.PipelineRun` for one run. Claims come one at a time; batches in hand may be many."""

    def __init__(self, pipeline: Pipeline, run: Run, bound: Bound, control: RunControl, drive: Drive) -> None:
        self._pipeline = pipeline
        self._run = run
        self._bound = bound
        self._control = control
        self._drive = drive
        self._claiming = asyncio.Lock()
        self._swept = False
        self._asked: set[UUID] = set()
        self._claimed = 0
        self._stood = 0.0  # seconds for which claims stood still since the last batch
        declared = pipeline.source.batch_size if isinstance(pipeline.source, TableSource) else 1
        self._size = BatchSize(declared)
        self._event_number = 0
        self._stragglers: set[asyncio.Task[None]] = set()
        self._straggling_rows = 0
        self._undecided: dict[UUID, int] = {}  # quarantined rows of batches being completed, by token
        self._log = logging.LoggerAdapter(logger, {"run_id": str(run.run_id), "job": run.job})
        self.counts = Counts()
        self.cut_short = False  # whether the run's request to stop left work undone

    @property
    def steady(self) -> bool:
        """Whether the next batch is going to be about as large as the one before."""
        return self._size.steady

    async def ready(self) -> None:
        """Return when the next rows may come; ends the cycle when the run was asked to stop or was lost."""
        self._raise_if_lost()
        if self._control.stopping:
            raise RunStoppingError
        await asyncio.sleep(0)

    async def process(self, *events: Any) -> None:
        """Send events through the processors into the sink, as one batch; return when that is recorded."""
        await self.ready()
        if not events:
            return
        recorder = self._bound.events
        if recorder is None:
            raise ConfigurationError(
                "process() is for sources with a cycle() of their own",
                job=self._run.job,
                remedy="use claim() and finish()",
            )
        ordinals = range(self._claimed, self._claimed + len(events))
        keys = [[str(self._run.run_id)] * len(events), [str(n) for n in ordinals]]
        await self._finish_events(recorder, list(events), keys)

    async def replay_events(self) -> None:
        """In place of a cycle: events that were set aside, as they were brought then."""
        recorder = self._bound.events
        assert recorder is not None
        asked = await recorder.asked_back()
        for start in range(0, len(asked), EVENTS_AT_ONCE):
            await self.ready()
            part = asked[start : start + EVENTS_AT_ONCE]
            keys = [[back.key[n] for back in part] for n in range(len(part[0].key))]
            await self._finish_events(recorder, [back.event for back in part], keys)

    async def claim(self, *, in_pairs: bool = False) -> Batch | None:
        """The next batch of pending rows, or None when the sweep is over (or the run is stopping)."""
        source = self._table()
        asked = time.perf_counter()
        async with self._claiming:
            self._stood += time.perf_counter() - asked
            while not self._control.stopping and (most := self._most()) > 0:
                if not self._swept:
                    self._swept = True
                    await source.begin_sweep()
                started = time.perf_counter()
                with self._drive.tracing.span("etl.claim", **{"etl.source": source.name}) as span:
                    batch = await source.next(uuid4(), most, max(0, self._most(most)) if in_pairs else 0)
                    span.set(**{"etl.rows": len(batch) if batch else 0})
                if batch is not None:
                    batch.claim_seconds = batch.claim_seconds or time.perf_counter() - started
                    batch.claim_waited, self._stood = self._stood, 0.0
                    self._claimed += len(batch)
                    return batch
                if not await self._more_to_sweep(source):
                    return None
            self._raise_if_lost()
            self.cut_short = self.cut_short or self._control.stopping
            return None

    async def finish(self, batch: Batch, turn: Turn = now) -> None:
        """Process a claimed batch, write its results and record what became of each row; await `turn` in between."""
        turn = timed = TimedTurn(turn)
        attributes = {"etl.batch.number": batch.number, "etl.batch.token": str(batch.token), "etl.rows": len(batch)}
        alone = must_be_alone(batch.crashes)
        async with self._drive.gate.enter(alone=alone) as stood:
            batch.claim_waited += stood
            with self._drive.tracing.span("etl.batch", **attributes):
                if is_poison(batch.crashes):
                    await self._complete(batch, _killed(batch), turn=turn)
                    return
                if alone:
                    await self._table().suspect(batch)
                started = time.monotonic()
                await self._pass(batch, turn)
        if not alone:
            ended = time.monotonic()
            self._size.note(len(batch), batch.claim_seconds + ended - started - timed.seconds, ended - batch.follows)

    async def settle(self) -> None:
        """Wait for rows that went on by themselves."""
        while self._stragglers:
            done, _ = await asyncio.wait(self._stragglers, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._stragglers.discard(task)
                task.result()
        if not self.cut_short:
            self._require_quota(self.counts.quarantined, at_end=True)

    def drop(self) -> None:
        """Give up rows that went on by themselves."""
        for task in self._stragglers:
            task.cancel()

    def positions(self) -> dict[str, list[str]]:
        """Where the job's next sweep may begin, by source."""
        source = self._bound.source
        return {**source.positions} if source is not None and self._swept else {}

    def _table(self) -> BatchSource:
        if self._bound.source is None:
            raise ConfigurationError(
                "claim() is for table sources",
                job=self._run.job,
                remedy="send events with self.pipeline.process(event)",
            )
        return self._bound.source

    def _most(self, besides: int = 0) -> int:
        """Rows the next batch may have, or the one after it, which has so many."""
        limit = self._run.row_limit
        return self._size.rows if limit is None else min(self._size.rows, limit - self._claimed - besides)

    async def _more_to_sweep(self, source: BatchSource) -> bool:
        """At the end of a sweep: are there rows of vanished holders that can be had now?"""
        if not source.strangers:
            return False
        dead = [run_id for run_id in await source.dead_holders() if run_id not in self._asked]
        began = time.perf_counter()
        if dead and self._drive.reap_dead is not None:
            self._asked.update(dead)
            await self._drive.reap_dead(dead)
            self._stood += time.perf_counter() - began
        elif source.busy:  # the rows left may have appeared after the others' sweep: they are this run's to wait for
            await asyncio.sleep(BUSY_SECONDS)
            self._stood += time.perf_counter() - began
            return True
        elif not await source.free_abandoned():
            return False
        await source.begin_sweep(use_hint=False)
        return True

    async def _pass(self, batch: Batch, turn: Turn) -> None:
        """Through the processors; rows that wait long for a retry go on by themselves."""
        context = self._context(batch)
        passage = self._drive.chain.passage(batch, context, self._drive.tracing)
        try:
            await passage.start()
            waiting = await passage.wait(STRAGGLER_SECONDS)
            if waiting and self._must_wait(batch, len(waiting)):
                waiting = await passage.wait()
        except BaseException:
            passage.cancel()
            raise
        if not waiting:
            await self._deliver_and_complete(batch, passage.take(range(len(batch))), context, turn=turn)
            return
        apart = set(waiting)
        settled = [position for position in range(len(batch)) if position not in apart]
        carry = batch
        if settled:
            carry = batch.part(waiting, uuid4(), self._table().next_number())
            part = batch.part(settled, batch.token, batch.number)
            part.claim_seconds, part.claim_waited = batch.claim_seconds, batch.claim_waited
            try:
                await self._deliver_and_complete(part, passage.take(settled), self._context(part), carry, turn)
            except BaseException:
                passage.cancel()
                raise
        self._straggling_rows += len(waiting)
        leave = await self._drive.gate.extend()
        self._stragglers.add(asyncio.create_task(self._straggle(passage, waiting, carry, leave)))

    def _must_wait(self, batch: Batch, waiting: int) -> bool:
        """Whether rows in retry hold up their batch: at the end, under suspicion, or when there are too many."""
        together = must_be_alone(batch.crashes) or self._table().as_a_whole
        return self._control.stopping or together or self._straggling_rows + waiting > self._size.rows

    async def _straggle(
        self, passage: Passage, waiting: list[int], batch: Batch, leave: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            with self._drive.tracing.span("etl.batch", **{"etl.batch.number": batch.number, "etl.rows": len(batch)}):
                await passage.wait()
                await self._deliver_and_complete(batch, passage.take(waiting), self._context(batch))
        except BaseException:
            passage.cancel()
            raise
        finally:
            self._straggling_rows -= len(waiting)
            await leave()

    async def _deliver_and_complete(
        self,
        batch: Batch,
        processed: Processed,
        context: BatchContext,
        carry: Batch | None = None,
        turn: Turn = now,
    ) -> None:
        await self._deliver(processed, context, turn)
        await self._complete(batch, processed, carry, turn)

    async def _deliver(self, processed: Processed, context: BatchContext, turn: Turn = now) -> None:
        """Write to a sink outside the database; while it cannot be reached, again with growing delays."""
        delivery = self._drive.delivery
        if delivery is None:
            return
        await turn()
        attempt = 0
        first = began = time.perf_counter()
        while True:
            try:
                with self._drive.tracing.span("etl.sink", **self._sink_attributes()):
                    await delivery.deliver(processed, context)
                processed.stages[-1].waited_s = began - first
                return
            except (ConnectionError, TimeoutError) as error:
                attempt += 1
                if attempt >= SINK_ATTEMPTS or self._control.stopping:
                    raise
                delay = full_jitter(attempt, first=0.2, cap=15.0)
                self._log.warning("sink %s: %s; again in %.1f s", self._pipeline.sink.name, error, delay)
                await asyncio.sleep(delay)
                began = time.perf_counter()

    async def _complete(self, batch: Batch, processed: Processed, carry: Batch | None = None, turn: Turn = now) -> None:
        token = batch.token
        processed.stages = [claim_stage(batch), *processed.stages]
        note_failures(self._drive.tracing, batch, processed)
        try:
            with SpanFromTurn(turn, self._recording_span) as begin:
                counts = await self._table().complete(
                    batch, processed, lambda counts: self._judge(token, counts), carry, begin
                )
        finally:
            self._undecided.pop(token, None)
        self._count(counts, processed)

    async def _finish_events(self, recorder: EventRecorder, events: list[Any], keys: list[list[str]]) -> None:
        self._event_number += 1
        self._claimed += len(events)
        source = f"job:{self._run.job}"
        batch = Batch(uuid4(), self._event_number, source, rows=events, keys=keys, versions=[0] * len(events))
        async with self._drive.gate.enter(alone=False):
            await self._pass_events(recorder, batch)

    async def _pass_events(self, recorder: EventRecorder, batch: Batch) -> None:
        context = self._context(batch)
        with self._drive.tracing.span("etl.batch", **{"etl.batch.number": batch.number, "etl.rows": len(batch)}):
            passage = self._drive.chain.passage(batch, context, self._drive.tracing)
            try:
                await passage.start()
                await passage.wait()
            except BaseException:
                passage.cancel()
                raise
            processed = passage.take(range(len(batch)))
            await self._deliver(processed, context)
            note_failures(self._drive.tracing, batch, processed)
            try:
                with self._recording_span():
                    counts = await recorder.complete(batch, processed, lambda counts: self._judge(batch.token, counts))
            finally:
                self._undecided.pop(batch.token, None)
        self._count(counts, processed)

    def _recording_span(self) -> AbstractContextManager[Span]:
        """A sink in the database is written by the transaction that records the batch."""
        inside = self._drive.delivery is None
        return self._drive.tracing.span("etl.sink" if inside else "etl.complete", **self._sink_attributes())

    def _sink_attributes(self) -> dict[str, Any]:
        return {"etl.sink.name": self._pipeline.sink.name}

    def _count(self, counts: Counts, processed: Processed) -> None:
        self.counts.add(counts)
        self._drive.on_progress(self.counts, processed.stages)

    def _judge(self, token: UUID, counts: Counts) -> None:
        """Keep a batch from being recorded that would set aside more rows than the job allows."""
        self._undecided[token] = counts.quarantined
        if not counts.quarantined:
            return
        quarantined = self.counts.quarantined + sum(self._undecided.values())
        self._require_quota(quarantined)

    def _require_quota(self, quarantined: int, *, at_end: bool = False) -> None:
        quota = self._pipeline.quota
        if quota.exceeded(quarantined, self._claimed, at_end=at_end):
            problem = f"{quarantined} of {self._claimed} rows {'are' if at_end else 'would be'} in quarantine"
            raise TooManyQuarantinedError(f"{problem}, max_quarantined is {quota}")

    def _raise_if_lost(self) -> None:
        if self._control.lost:
            raise RunLostError(f"run {self._run.run_id} was ended by somebody else")

    def _context(self, batch: Batch) -> BatchContext:
        return BatchContext(
            run_id=self._run.run_id,
            job=self._run.job,
            trigger=self._run.trigger,
            scheduled_for=self._run.scheduled_for,
            batch=batch,
            logger=self._log,
            resources=self._drive.resources,
            trusted_seconds=self._control.remaining,
            is_stopping=lambda: self._control.stopping,
        )


def claim_stage(batch: Batch) -> StageCounts:
    """The claim's part in a batch; rows split off from another batch were claimed with that one."""
    seconds = [batch.claim_seconds] if batch.claim_seconds else []
    return StageCounts(
        "claim", rows_out=len(batch), busy_s=sum(seconds), calls=histogram(seconds), waited_s=batch.claim_waited
    )


def _killed(batch: Batch) -> Processed:
    """Rows that were alone when their process died, for the last time."""
    message = f"the process died {batch.crashes} times while it handled this row, the last time nothing else"
    failure = Failure("process", ErrorText("ProcessDied", message, ""), attempts=batch.crashes)
    return Processed(failures=dict.fromkeys(range(len(batch)), failure))
