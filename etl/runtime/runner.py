"""Drives one run from its start to its end: calls the source's `cycle()`, then closes the books."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from etl.core.arguments import named_by, refuse_strange
from etl.core.backfill import lane_of
from etl.core.counts import Counts
from etl.core.pipeline import Pipeline
from etl.core.ports import Binder, Bound, Chain, Delivering, RunEnd, RunStore, Tracing, WorkerIdentity
from etl.core.redaction import redacting
from etl.core.run import REPLAY, Run, RunState
from etl.core.sanitise import describe_exception
from etl.core.stages import StageCounts
from etl.core.table_source import TableSource
from etl.core.trigger import ClockTrigger
from etl.errors import DatabaseUnavailableError, EtlError, RunLostError
from etl.runtime.accounts import Accounts
from etl.runtime.code_version import code_version
from etl.runtime.control import RunControl, RunStoppingError
from etl.runtime.driven import Drive, DrivenPipeline
from etl.runtime.gate import SuspectGate
from etl.runtime.heartbeat import Heartbeat
from etl.runtime.resources import Resources

logger = logging.getLogger("etl.run")

# Ends that nobody has to look into.
_ORDERLY = (RunState.succeeded, RunState.partial, RunState.cancelled)


@dataclass(frozen=True, slots=True)
class Tools:
    """What all runs of this process share."""

    store: RunStore
    binder: Binder
    tracing: Tracing
    heartbeat: Heartbeat
    gate: SuspectGate
    resources: Resources
    worker: WorkerIdentity
    chain_for: Callable[[Pipeline], Chain]
    delivery_for: Callable[[Pipeline], Delivering | None]
    explain: Callable[[BaseException], BaseException]  # a driver's error as an error of ours, where it is one


@dataclass(frozen=True, slots=True)
class Manner:
    """How a run is driven: by a person at a terminal or by a worker."""

    # After each batch: the run's counts so far, and what the stages did to this batch.
    on_progress: Callable[[Counts, Sequence[StageCounts]], None] = lambda counts, stages: None
    reap_dead: Callable[[Sequence[UUID]], Awaitable[None]] | None = None
    continue_later: bool = False  # queue another run for what a shutdown leaves over


@dataclass(frozen=True, slots=True)
class _Swept:
    """A cycle that came to its end; `cut_short`: because the run was asked to stop."""

    positions: Mapping[str, list[str]]
    cut_short: bool


class Runner:
    """Drives runs. The run is already recorded as running here, since `started` (`time.monotonic()`)."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def drive(self, pipeline: Pipeline, run: Run, control: RunControl, started: float, manner: Manner) -> Run:
        """Do the run's work and end it; returns it as it ended (or was ended by somebody else).

        Raises `DatabaseUnavailableError` when its end could not be recorded; whoever reaps it will do that.
        """
        tools = self._tools
        accounts = Accounts()
        tools.heartbeat.add(run.run_id, control.lose, started=started, on_cancel=control.cancel)
        run.code_version = code_version(pipeline.declared_at)
        try:
            with (
                accounts.open(),
                redacting(pipeline.redaction),
                tools.tracing.run(run, **_attributes(run)) as span,
            ):
                noting = asyncio.create_task(tools.store.note_trace(run))  # nobody has to wait for that but its end
                logger.info("run started", extra={"etl": _facts(run, "started")})
                try:
                    end = await self._work(pipeline, run, control, manner, accounts)
                    await noting
                finally:
                    noting.cancel()
                if not control.lost:
                    end = replace(end, took=await accounts.close())
                ended = await self._end(run, end, control)
                span.set(**{f"etl.rows.{name}": value for name, value in _counted(ended.counts).items()})
                span.set(**{"etl.run.state": str(ended.state)})
                span.ended(ended, lost=control.lost, idle=end.may_fold and _found_nothing(ended))
                if ended.state not in _ORDERLY:
                    span.fail(ended.error or str(ended.state))
                level = logging.INFO if ended.state in _ORDERLY else logging.ERROR
                logger.log(level, "run ended", extra={"etl": _facts(ended, "ended")})
                return ended
        finally:
            tools.heartbeat.remove(run.run_id)

    async def _work(
        self, pipeline: Pipeline, run: Run, control: RunControl, manner: Manner, accounts: Accounts
    ) -> RunEnd:
        """Everything between start and end, with every way it can go wrong turned into a way to end."""
        task = asyncio.ensure_future(self._cycle(pipeline, run, control, manner, accounts))
        timeout = pipeline.timeout.total_seconds() if pipeline.timeout is not None else None
        control.attach(task, None if timeout is None else time.monotonic() + timeout)
        try:
            async with asyncio.timeout(timeout) as limit:
                try:
                    swept = await task
                except asyncio.CancelledError:
                    if control.stopping and not limit.expired():  # aborted or lost
                        return self._stopped(control, {}, manner)
                    raise
        except TimeoutError as error:
            if not task.cancelled():  # the user's own
                return self._failed(run, error)
            return RunEnd(RunState.timed_out, "TimeoutError", f"the run took longer than its timeout of {timeout:g} s")
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return self._failed(run, _single(error))
        if swept.cut_short:
            return self._stopped(control, swept.positions, manner)
        return RunEnd(positions=swept.positions, may_fold=_may_fold(pipeline, run))

    async def _cycle(
        self, pipeline: Pipeline, run: Run, control: RunControl, manner: Manner, accounts: Accounts
    ) -> _Swept:
        """The source's cycle, and the rows that go on after it."""
        tools = self._tools
        bound: Bound = await tools.binder.bind(pipeline, run, tools.worker)
        accounts.backlog = bound.backlog
        drive = Drive(
            chain=tools.chain_for(pipeline),
            delivery=tools.delivery_for(pipeline),
            tracing=tools.tracing,
            gate=tools.gate,
            resources=await tools.resources.of(pipeline),
            on_progress=lambda counts, stages: self._report(run, counts, stages, manner, accounts),
            reap_dead=manner.reap_dead,
        )
        driven = DrivenPipeline(pipeline, run, bound, control, drive)
        source = pipeline.source.bound(driven)
        try:
            try:
                if run.trigger == REPLAY and bound.source is None:
                    await driven.replay_events()
                else:
                    await _call_cycle(source.cycle, run, _interval(pipeline, run))
            except* RunStoppingError:
                driven.cut_short = True
            await driven.settle()
        except BaseException:
            driven.drop()
            raise
        return _Swept(driven.positions(), driven.cut_short)

    def _report(
        self, run: Run, counts: Counts, stages: Sequence[StageCounts], manner: Manner, accounts: Accounts
    ) -> None:
        accounts.handled = True
        manner.on_progress(counts, stages)
        self._tools.tracing.progress(run, counts)

    def _stopped(self, control: RunControl, positions: Mapping[str, list[str]], manner: Manner) -> RunEnd:
        if control.lost:
            return RunEnd(RunState.crashed, "RunLostError", "the run was ended by somebody else")
        later = uuid4() if manner.continue_later and not control.cancelled else None
        return RunEnd(RunState.cancelled, "Stopped", control.stop_reason, positions, continue_as=later)

    def _failed(self, run: Run, error: BaseException) -> RunEnd:
        explained = self._tools.explain(error)
        told = describe_exception(explained)
        if isinstance(explained, EtlError):
            logger.error("run failed: %s", told.message, extra={"etl": _facts(run, "failing")})
        else:
            logger.error(
                "run failed: %s: %s\n%s", told.type, told.message, told.traceback, extra={"etl": _facts(run, "failing")}
            )
        if isinstance(error, RunLostError):
            return RunEnd(RunState.crashed, told.type, told.message)
        return RunEnd(RunState.failed, told.type, told.message)

    async def _end(self, run: Run, end: RunEnd, control: RunControl) -> Run:
        """Record the end; if the run is not ours any more, what was recorded instead."""
        tools = self._tools
        try:
            return await tools.store.end(run.run_id, tools.worker, end)
        except RunLostError:
            control.lost = True
            recorded = await tools.store.read(run.run_id)
            return recorded if recorded is not None else run
        except DatabaseUnavailableError:
            logger.error("run %s could not be ended: the database is away; it will be recorded as crashed", run.run_id)
            raise


def _may_fold(pipeline: Pipeline, run: Run) -> bool:
    """Whether one row of history is enough, should this run and the one before have found nothing to do.

    Only where the framework knows what a run found, and where nobody in particular asked for it.
    """
    backfill = run.overlap_key == lane_of(pipeline.overlap_key)
    by_itself = run.trigger in pipeline.source.named_triggers() and not backfill
    return by_itself and isinstance(pipeline.source, TableSource) and not (run.serves_messages or run.arguments)


def _found_nothing(run: Run) -> bool:
    return run.state is RunState.succeeded and not run.counts.claimed and not run.counts.batches


def _interval(pipeline: Pipeline, run: Run) -> tuple[datetime, datetime] | None:
    """From the fire time before to the one that the run is for: what came in meanwhile is this run's share.

    In UTC, both: Python finds no moment of an hour that comes twice equal to one of another zone, so the end of one
    interval would not be the beginning of the next.
    """
    trigger = pipeline.source.named_triggers().get(run.trigger)
    if run.scheduled_for is None or not isinstance(trigger, ClockTrigger):
        return None
    before = trigger.last_fire_time(run.scheduled_for - timedelta(microseconds=1), job=run.job)
    return None if before is None else (before.astimezone(UTC), run.scheduled_for.astimezone(UTC))


async def _call_cycle(
    cycle: Callable[..., Awaitable[None]], run: Run, interval: tuple[datetime, datetime] | None
) -> None:
    """Give `cycle` the run's arguments, and of the facts about the run those that it names."""
    refuse_strange(cycle, run.arguments, run.job)
    named = named_by(cycle)
    facts = {
        "trigger_name": run.trigger,
        "scheduled_for": run.scheduled_for,
        "interval": interval,
        "messages": list(run.messages),
    }
    await cycle(**{**run.arguments, **{name: fact for name, fact in facts.items() if name in named}})


def _single(error: BaseException) -> BaseException:
    """The error behind a group with one member (task groups wrap what a lane raised)."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error


def _attributes(run: Run) -> dict[str, Any]:
    return {
        "etl.job.name": run.job,
        "etl.run.id": str(run.run_id),
        "etl.trigger": run.trigger,
        "etl.attempt": run.attempt,
        "etl.scheduled_for": None if run.scheduled_for is None else run.scheduled_for.isoformat(),
        "etl.lateness_s": run.lateness_s,
        "host.name": run.host,
        "process.pid": run.pid,
        **_messaging(run),
    }


def _messaging(run: Run) -> dict[str, Any]:
    """By the semantic conventions for messages."""
    if not run.messages:
        return {}
    topics = sorted({message.topic for message in run.messages})
    return {
        "messaging.system": "etl",
        "messaging.operation.type": "process",
        "messaging.destination.name": ", ".join(topics),
        "messaging.batch.message_count": len(run.messages) + sum(message.repeats for message in run.messages),
    }


def _counted(counts: Counts) -> dict[str, int]:
    return {
        "claimed": counts.claimed,
        "written": counts.written,
        "filtered": counts.filtered,
        "quarantined": counts.quarantined,
        "deferred": counts.deferred,
        "released": counts.released,
        "vanished": counts.vanished,
        "retried": counts.retried,
    }


def _facts(run: Run, event: str) -> dict[str, Any]:
    """The structured part of a log line about a run."""
    facts: dict[str, Any] = {
        "event": f"run.{event}",
        "run_id": str(run.run_id),
        "job": run.job,
        "trigger": run.trigger,
        "trace_id": run.trace_id,
    }
    if run.scheduled_for is not None:
        facts["scheduled_for"] = run.scheduled_for.isoformat()
    if event == "ended":
        facts |= {"status": str(run.state), "duration_s": run.duration_s, **_counted(run.counts)}
        facts |= {"batches": run.counts.batches, "balanced": run.counts.balanced}
        if run.error:
            facts |= {"error_type": run.error_type, "error": run.error}
    return facts
