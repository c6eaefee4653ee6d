"""Triggers and ticks: each fire time is decided about once in the whole cluster, by the database's clock."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from etl.core.ports import RunRequest, Wake, WorkerIdentity
from etl.core.run import DEFERRED, Run
from etl.core.schedule import Due, due
from etl.core.service import Served, Service
from etl.core.tick import MISSED, PAUSED, QUEUED, RAN, Tick
from etl.core.trigger import ClockTrigger
from etl.postgres.asking import ask, insert_run, record
from etl.postgres.database import Connection, Database
from etl.postgres.messages import send_message
from etl.postgres.retention import tidy_history
from etl.postgres.run_store import Starter, start_for_messages, start_oldest, starting
from etl.postgres.statements import statement

logger = logging.getLogger("etl.schedule")

# Triggers decided about in one transaction.
_AT_ONCE = 500
# Messages looked at in one transaction, for one trigger.
_MESSAGES_AT_ONCE = 1000

_ONE_RUN = (RAN, QUEUED)  # decisions with a run of their own


class PostgresScheduleStore:
    """`core.ports.ScheduleStore` for the jobs that this process serves."""

    def __init__(
        self, database: Database, service: Service, worker: WorkerIdentity, lease: timedelta, history: timedelta
    ) -> None:
        self._database = database
        self._service = service
        self._worker = worker
        self._lease = lease
        self._history = history
        self._jobs = list(service.jobs)
        self._known = service.definitions()

    async def register(self) -> None:
        """Make the triggers and this worker known.

        Changed triggers take effect from now on, vanished ones are dropped. A trigger that fires when a job begins to
        be served does so if nobody else serves it.
        """
        await self._database.unit(self._register)

    async def adopt(self) -> bool:
        """Register again if a worker that is gone had defined a trigger differently."""
        disowned = await self._database.unit(
            lambda connection: connection.fetchval(statement("find_disowned"), *self._known, self._worker.worker_id)
        )
        if disowned:
            await self.register()
        return bool(disowned)

    async def stopped(self) -> None:
        """This worker ends."""
        await self._database.unit(
            lambda connection: connection.execute(statement("stop_worker"), self._worker.worker_id)
        )

    async def fire(self) -> int:
        """Decide about all fire times that are due; returns how many triggers that concerned."""
        fired = 0
        while True:
            count = await self._database.unit(self._fire_some)
            fired += count
            if count < _AT_ONCE:
                return fired

    async def fire_messages(self) -> int:
        """Ask for runs for messages that wait; returns how many triggers that concerned."""

        async def fire(connection: Connection) -> int:
            waiting = await self._lock_triggers(connection)
            await self._ask_for_messages(connection, waiting)
            return len(waiting)

        return await self._database.unit(fire)

    async def serve_messages(self, in_hand: Sequence[UUID]) -> Run | None:
        """Ask for runs for messages that wait, and start the oldest queued run here, in one transaction: a message that
        has just come is not asked about twice. Where nothing stands in its way, its run is not queued first."""

        asked = False

        async def serve(connection: Connection) -> Run | None:
            nonlocal asked
            waiting = await self._lock_triggers(connection)
            asked = bool(waiting) or asked  # before, perhaps, by a COMMIT unheard of
            if not asked:
                return None
            starter = Starter(self._worker, self._lease, self._jobs, in_hand, self._service.pools)
            if len(waiting) == 1 and waiting[0].trigger.overlap.gathers:
                started = await start_for_messages(connection, waiting[0].request(serves_messages=True), starter)
                if started is not None:
                    return started
            await self._ask_for_messages(connection, waiting)
            return await start_oldest(connection, starter)

        return await starting(self._database, serve)

    async def fire_idle(self, most: int) -> int:
        """Ask for runs of at most so many triggers that fire when there is nothing else to do."""
        idle = self._service.opportunistic()
        if not idle.jobs or most < 1:
            return 0

        async def fire(connection: Connection) -> int:
            rows = await connection.fetch(statement("find_opportunities"), *idle, most)
            for row in rows:
                served = self._service[row["job"], row["trigger"]]
                await record(connection, [await ask(connection, _request(served, row["now"]), row["now"])])
            return len(rows)

        return await self._database.unit(fire)

    async def send(
        self,
        job: str,
        trigger: str,
        arguments: Mapping[str, Any],
        idempotency_key: str | None,
        traceparent: str | None = None,
    ) -> None:
        """A trigger fired by itself; returns when that cannot be lost any more."""
        key = idempotency_key or str(uuid4())  # one of our own, so that a lost COMMIT is not sent twice
        await self._database.unit(
            lambda connection: send_message(connection, job, trigger, arguments, key, traceparent)
        )

    async def wake(self) -> Wake:
        """When this process has something to do next."""
        row = (await self._database.query(statement("next_wake"), *self._known, self._jobs))[0]
        return Wake(row["due_in"], row["queued"], row["deferred"], row["messages"])

    async def ask_for_deferred(self) -> None:
        """Queue a run for each job with deferred rows that are due."""

        async def ask_for(connection: Connection) -> None:
            for row in await connection.fetch(statement("due_deferred"), self._jobs):
                await insert_run(connection, self._service.request(row["job"], DEFERRED))

        await self._database.unit(ask_for)

    async def tidy(self) -> None:
        """Drop history that is older than it is kept, a little at a time."""
        await tidy_history(self._database, self._history)

    async def _register(self, connection: Connection) -> None:
        jobs, worker = self._jobs, self._worker
        await connection.execute(statement("register_jobs"), jobs)
        alone = {row["job"] for row in await connection.fetch(statement("lock_jobs"), jobs) if not row["served"]}
        facts = (worker.worker_id, worker.host, worker.pid, jobs, self._lease.total_seconds())
        await connection.execute(statement("register_worker"), *facts)
        now = await connection.fetchval("SELECT clock_timestamp()")
        stored = await connection.fetch(statement("list_schedules"), jobs)
        changed = self._service.changed({(row["job"], row["trigger"]): row["spec"] for row in stored}, now)
        await connection.execute(statement("forget_schedules"), jobs, *self._known[:2])
        for refused in changed.refused:
            logger.error("%s", refused)
        await connection.execute(statement("register_schedules"), *changed[:4])
        await connection.execute(statement("replace_subscriptions"), jobs, *self._service.subscriptions())
        ticks = [await ask(connection, _request(each, now), now) for each in self._service.on_start(alone)]
        await record(connection, ticks)

    async def _fire_some(self, connection: Connection) -> int:
        await connection.execute(statement("drop_late_runs"))
        rows = await connection.fetch(statement("lock_due_schedules"), *self._known, _AT_ONCE)
        firings = [_firing(self._service[row["job"], row["trigger"]], row) for row in rows]
        moved = (
            await connection.fetch(
                statement("advance_schedules"),
                *zip(
                    *((each.served.job, each.served.trigger_name, each.former, each.due.next_at) for each in firings),
                    strict=True,
                ),
            )
            if firings
            else []
        )
        known = {(row["job"], row["trigger"]) for row in moved}
        await self._serve(
            connection, [each for each in firings if (each.served.job, each.served.trigger_name) in known]
        )
        return len(rows)

    async def _serve(self, connection: Connection, firings: Sequence[_Firing]) -> None:
        """Ask for the runs of all fire times at once; where a run is active already, one by one by policy."""
        ticks = [tick for firing in firings for tick in firing.passed_over()]
        requests = sorted((request for firing in firings for request in firing.requests()), key=_moment)
        ran = await _insert_runs(connection, requests)
        for request in requests:
            assert request.scheduled_for is not None
            if request.run_id in ran:
                ticks.append(Tick(request.job, request.trigger, request.scheduled_for, RAN, run_id=request.run_id))
            else:
                ticks.append(await ask(connection, request, request.scheduled_for))
        await record(connection, ticks)

    async def _lock_triggers(self, connection: Connection) -> list[Served]:
        """The triggers with messages that wait, which nobody else asks for runs of until this transaction ends."""
        rows = await connection.fetch(statement("lock_triggers_with_messages"), *self._known, _AT_ONCE)
        return [self._service[row["job"], row["trigger"]] for row in rows]

    async def _ask_for_messages(self, connection: Connection, triggers: Sequence[Served]) -> None:
        for served in triggers:
            waiting = await connection.fetch(
                statement("waiting_messages"), served.job, served.trigger_name, _MESSAGES_AT_ONCE
            )
            if served.trigger.overlap.gathers:
                if waiting and not waiting[0]["expected"]:
                    await _ask_for_all(connection, served, waiting[0]["now"])
            else:
                await _ask_for_each(connection, served, waiting)


@dataclass(frozen=True, slots=True)
class _Firing:
    """One trigger that is due, and what was decided about its fire times."""

    served: Served
    former: datetime
    due: Due
    paused: str | None

    def requests(self) -> list[RunRequest]:
        """Runs to ask for. What is made up for besides the latest waits its turn, whatever the policy."""
        if self.paused is not None:
            return []
        behind = len(self.due.serve) - 1
        return [self.served.request(scheduled_for=moment, made_up=behind) for moment in self.due.serve]

    def passed_over(self) -> list[Tick]:
        """Ticks of the fire times that nothing comes of."""
        job, name = self.served.job, self.served.trigger_name
        ticks = [Tick(job, name, moment, MISSED, "nobody was there to serve it") for moment in self.due.missed]
        if (gap := self.due.missed_range) is not None:
            count = f"{gap.count:,}" if gap.count is not None else "more than 10,000"
            reason = f"{count} fire times passed while nobody was there to serve them"
            ticks.append(Tick(job, name, gap.first, MISSED, reason, missed_until=gap.last, missed_count=gap.count))
        if self.paused is not None:
            ticks += [Tick(job, name, moment, PAUSED, self.paused) for moment in self.due.serve]
        return ticks


def _firing(served: Served, row: asyncpg.Record) -> _Firing:
    assert isinstance(served.trigger, ClockTrigger)
    paused = None
    if row["paused_at"] is not None:
        paused = f"paused by {row['paused_by']} since {row['paused_at']:%Y-%m-%d %H:%M:%S %Z}"
    decided = due(served.trigger, row["next_at"], row["now"], job=served.job)
    return _Firing(served, row["next_at"], decided, paused)


def _moment(request: RunRequest) -> datetime:
    assert request.scheduled_for is not None
    return request.scheduled_for


async def _insert_runs(connection: Connection, requests: Sequence[RunRequest]) -> set[UUID]:
    """Insert the runs whose overlap key is free; which those were."""
    if not requests:
        return set()
    columns = zip(
        *(
            (
                request.run_id,
                request.job,
                request.trigger,
                request.scheduled_for,
                request.overlap_key,
                max(request.places, request.overlap.places),
                None if request.pool is None else request.pool.name,
                None if request.start_within is None else request.start_within.total_seconds(),
            )
            for request in requests
        ),
        strict=True,
    )
    return {row["run_id"] for row in await connection.fetch(statement("insert_runs"), *map(list, columns))}


def _request(served: Served, moment: datetime) -> RunRequest:
    return served.request(scheduled_for=moment)


async def _ask_for_all(connection: Connection, served: Served, now: datetime) -> None:
    """One run for all messages that wait; it takes them when it starts."""
    request = served.request(serves_messages=True)
    tick = await ask(connection, request, now)
    if tick.decision in _ONE_RUN:
        await record(connection, [tick])


async def _ask_for_each(connection: Connection, served: Served, waiting: Sequence[asyncpg.Record]) -> None:
    """A run for each message, as far as the policy has places; the others come to nothing."""
    for number, message in enumerate(waiting):
        data = message["data"] if isinstance(message["data"], dict) else {"data": message["data"]}
        request = served.request(scheduled_for=message["scheduled_for"], serves_messages=True, arguments=data)
        if request.scheduled_for is not None:  # of a run that is not the first of its fire time, perhaps
            known = await connection.fetchval(
                statement("find_run_of_tick"), request.job, request.trigger, request.scheduled_for
            )
            request = replace(request, parent_id=known)
        moment = request.scheduled_for or message["now"] + number * timedelta(microseconds=1)
        tick = await ask(connection, request, moment)
        if tick.run_id == request.run_id:
            await connection.execute(statement("assign_messages"), request.run_id, [message["message_id"]])
        elif tick.blocked_by is not None:
            await connection.execute(statement("drop_messages"), [message["message_id"]])
        else:
            return  # a moment later there is a place
        await record(connection, [tick])
