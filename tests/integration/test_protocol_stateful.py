"""The claim protocol against the real server, in random order: hypothesis chooses the steps, SQL judges after each.

One process drives runs of one or two jobs on one table through everything that can happen to them: claims whose
answer is lost, completions repeated or late, crashes, reaping, takeovers, replays, and users who insert, change, delete
and re-insert rows in between. After each step one query looks for anything that must never be; after each history
all runs are crashed and recovered, and no row may be left behind.

Whether such a search finds anything is itself tested: each broken twin leaves one rule of the protocol out, and the
query, on its own, has to notice.

    ETL_STATEFUL_EXAMPLES=2000   more histories than the usual ones (for a nightly run); failures are then shrunk too
    ETL_STATEFUL_SEED=7          another seed
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from etl import BatchProcessingSource, Pipeline, PostgresSink
from etl.core.batch import Batch, Failure, Processed
from etl.core.blocker import Blocker
from etl.core.counts import Counts
from etl.core.ports import BatchSource, RunEnd, RunRequest, WorkerIdentity
from etl.core.run import MANUAL, REPLAY, Run, RunState
from etl.core.suspects import is_poison, must_be_alone
from etl.errors import RunLostError
from etl.postgres import claim as claim_module
from etl.postgres.binding import PostgresBinder
from etl.postgres.claim import Claim
from etl.postgres.claimed_table import ClaimedTable
from etl.postgres.database import ConnectionSettings, Database
from etl.postgres.issues import PostgresIssues
from etl.postgres.leases import LeaseConnection
from etl.postgres.resolution import resolve_source
from etl.postgres.run_store import PostgresRunStore
from etl.postgres.statements import statement
from etl.postgres.user_table import UserTable
from tests.conftest import Where

SEED = int(os.environ.get("ETL_STATEFUL_SEED", "20130101"))
NIGHTLY = int(os.environ.get("ETL_STATEFUL_EXAMPLES", "0"))
EXAMPLES = NIGHTLY or 30
TWIN_EXAMPLES = 300  # a twin is found long before
STEPS = 50

FOR_EVER = timedelta(hours=1)  # leases end when a rule says so, never by themselves
KEYS = range(1, 41)
BATCH_SIZE = 8  # pieces of a first crash: 1

T = TypeVar("T")

# `v` names a version of a row: each change by the user draws a new one. What a row's version decides (so that SQL can
# tell, too): one in five is filtered by the processor, one in thirteen refused by the sink.
TABLES = """
CREATE SEQUENCE version;
CREATE TABLE src (
    id bigint PRIMARY KEY,
    v bigint NOT NULL DEFAULT nextval('version'),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    status text NOT NULL DEFAULT 'pending'
);
CREATE TABLE effect (id bigint, v bigint CHECK (v % 13 <> 7), token uuid);
CREATE TABLE ended (id uuid PRIMARY KEY, content jsonb);
"""

EMPTY = """
TRUNCATE src, effect, ended, etl.run, etl.batch, etl.row_issue, etl.source_cursor RESTART IDENTITY;
ALTER SEQUENCE version RESTART
"""

# Everything that must never be: (rule, what was seen).
VIOLATIONS = """
WITH reserved AS (
    SELECT token, source, (lo ->> 0)::bigint AS lo, (hi ->> 0)::bigint AS hi
      FROM etl.batch WHERE state IN ('open', 'expired')
), effects AS (
    SELECT id, v, count(*) AS n FROM effect GROUP BY id, v
), rows AS (
    SELECT src.*, coalesce(effects.n, 0) AS written, src.v % 5 = 0 AS filtered,
           EXISTS (SELECT 1 FROM etl.row_issue i
                    WHERE i.state IN ('open', 'deferred') AND i.key = jsonb_build_array(src.id::text)) AS aside
      FROM src LEFT JOIN effects USING (id, v)
), final AS (
    SELECT run_id AS id, to_jsonb(r) AS content FROM etl.run r WHERE ended_at IS NOT NULL
    UNION ALL
    SELECT token, to_jsonb(b) FROM etl.batch b WHERE ended_at IS NOT NULL
), remembered AS (
    INSERT INTO ended SELECT * FROM final ON CONFLICT DO NOTHING
)
SELECT 'reserved ranges are disjoint' AS rule, format('%s-%s and %s-%s', a.lo, a.hi, b.lo, b.hi) AS seen
  FROM reserved a JOIN reserved b ON a.source = b.source AND a.token < b.token AND a.lo <= b.hi AND b.lo <= a.hi
UNION ALL
SELECT 'a range has its ends in order', format('%s-%s', lo, hi) FROM reserved WHERE lo > hi
UNION ALL
SELECT 'an open batch belongs to a running run', format('batch %s, run %s', b.token, r.state)
  FROM etl.batch b LEFT JOIN etl.run r USING (run_id) WHERE b.state = 'open' AND r.state IS DISTINCT FROM 'running'
UNION ALL
SELECT 'one active run per job', string_agg(run_id::text, ', ')
  FROM etl.run WHERE state IN ('queued', 'running') GROUP BY overlap_key HAVING count(*) > 1
UNION ALL
SELECT 'no version of a row is written twice', format('row %s version %s: %s times', id, v, n) FROM effects WHERE n > 1
UNION ALL
SELECT 'a done row was written once, or filtered', format('row %s version %s: %s', id, v, written)
  FROM rows WHERE status = 'done' AND written <> CASE WHEN filtered THEN 0 ELSE 1 END
UNION ALL
SELECT 'a row that is not done was not written', format('row %s version %s is %s', id, v, status)
  FROM rows WHERE status <> 'done' AND written > 0
UNION ALL
SELECT 'a failed row is in quarantine', format('row %s', id) FROM rows WHERE status = 'failed' AND NOT aside
UNION ALL
SELECT 'only a completed batch has written', format('batch %s is %s: %s', b.token, b.state, count(*))
  FROM etl.batch b JOIN effect USING (token) WHERE b.state <> 'done' GROUP BY b.token
UNION ALL
SELECT 'a batch tells what it did', format('batch %s', b.token)
  FROM etl.batch b
 WHERE b.state = 'done'
   AND (b.claimed <> b.written + b.filtered + b.quarantined + b.deferred + b.vanished
        OR b.written <> (SELECT count(*) FROM effect e WHERE e.token = b.token)
        OR b.quarantined <> (SELECT count(*) FROM etl.row_issue i WHERE i.token = b.token AND i.due_at IS NULL)
        OR b.deferred <> (SELECT count(*) FROM etl.row_issue i WHERE i.token = b.token AND i.due_at IS NOT NULL))
UNION ALL
SELECT 'the books of an ended run balance', format('run %s', r.run_id)
  FROM etl.run r
 WHERE r.ended_at IS NOT NULL
   AND (r.claimed <> r.written + r.filtered + r.quarantined + r.deferred + r.released + r.vanished
        OR r.claimed <> (SELECT coalesce(sum(b.claimed), 0) FROM etl.batch b WHERE b.run_id = r.run_id)
        OR r.written <> (SELECT coalesce(sum(b.written), 0) FROM etl.batch b WHERE b.run_id = r.run_id))
UNION ALL
SELECT 'what has ended stays as it was', format('%s is now %s', ended.content, final.content)
  FROM ended LEFT JOIN final USING (id) WHERE final.content IS DISTINCT FROM ended.content
UNION ALL
SELECT 'a row taken over stays reserved, and remembers the crash', format('row %s of batch %s', rows.id, x.token)
  FROM rows JOIN etl.batch x ON rows.id BETWEEN (x.lo ->> 0)::bigint AND (x.hi ->> 0)::bigint AND rows.at < x.ended_at
 WHERE x.state = 'replaced' AND NOT x.replay AND rows.status = 'pending' AND NOT rows.aside
   AND NOT EXISTS (SELECT 1 FROM etl.batch y
                    WHERE y.opened_at >= x.ended_at AND y.crashes >= least(x.crashes, 2)
                      AND rows.id BETWEEN (y.lo ->> 0)::bigint AND (y.hi ->> 0)::bigint)
"""

# After everything was recovered: rows that nobody would ever take.
LEFT_BEHIND = """
SELECT id, status FROM src
 WHERE status = 'pending'
   AND $1 > (SELECT count(*) FROM etl.row_issue i
              WHERE i.held AND i.key = jsonb_build_array(src.id::text)
                AND (i.state = 'open' AND i.version = src.xmin::text OR i.state = 'deferred'))
"""


# What a claim of a range must answer: the pending rows that the job has not set aside as they are.
TO_BE_CLAIMED = """
SELECT id FROM src
 WHERE status = 'pending' AND id BETWEEN $1 AND $2
   AND NOT EXISTS (SELECT 1 FROM etl.row_issue i
                    WHERE i.held AND i.job = $3 AND i.key = jsonb_build_array(src.id::text)
                      AND (i.state = 'open' AND i.version = src.xmin::text
                           OR i.state = 'deferred' AND i.due_at > clock_timestamp()))
 ORDER BY id
"""


class Lab:
    """A database with its event loop, used by all histories of one test."""

    def __init__(self, dsn: str) -> None:
        self._runner = asyncio.Runner()
        self._dsn = dsn
        self.database = Database(
            ConnectionSettings(
                dsn,
                pooled=False,
                lock_timeout=timedelta(milliseconds=40),
                idle_timeout=timedelta(seconds=30),
                patience=timedelta(seconds=10),
            )
        )
        self.store = PostgresRunStore(self.database)
        self.issues = PostgresIssues(self.database)
        self.user: asyncpg.Connection[asyncpg.Record]
        self.colleague: asyncpg.Connection[asyncpg.Record]
        self.do(self._open())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to its end on the one event loop."""
        return self._runner.run(work)

    def sql(self, text: str, *parameters: Any) -> list[asyncpg.Record]:
        """What the user does, on a connection of their own."""

        async def fetch() -> list[asyncpg.Record]:
            return await self.user.fetch(text, *parameters)

        return self.do(fetch())

    def close(self) -> None:
        """Close everything."""
        self.do(self._close())
        self._runner.close()

    async def _open(self) -> None:
        await self.database.open()
        self.user = await asyncpg.connect(self._dsn)
        self.colleague = await asyncpg.connect(self._dsn)
        await self.user.execute(TABLES)

    async def _close(self) -> None:
        await self.database.close()
        await self.user.close()
        await self.colleague.close()


@pytest.fixture
def lab(where: Where) -> Iterator[Lab]:
    made = Lab(where.dsn)
    yield made
    made.close()


def pipeline_of(job: str, failed: str | None) -> Pipeline:
    """A job on `src`."""
    source = BatchProcessingSource(
        "src", pending="status = 'pending'", done="status = 'done'", failed=failed, batch_size=BATCH_SIZE
    )
    return Pipeline(job, source, PostgresSink("effect"))


@dataclass(eq=False)
class Holder:
    """A process with a run in hand, whether or not the run is still its own."""

    run: Run
    worker: WorkerIdentity
    source: BatchSource
    alive: bool = True  # false once the run has ended, whoever ended it
    lapsed: bool = False  # the lease is over
    swept: bool = False
    unheard: Unheard | None = None
    ended_as: Run | None = None

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def __repr__(self) -> str:
        return f"<{self.run.trigger} run {str(self.run.run_id)[:8]} of {self.run.job}>"


@dataclass(frozen=True)
class Unheard:
    """A claim whose answer was lost: what it takes to issue it again exactly as it was."""

    token: UUID
    most: int
    further: int
    segments: Any
    number: int
    keys: list[str] | None


@dataclass(eq=False)
class Held:
    """A batch in the hands of a process. `fate`: open, done, or void (revoked or given back)."""

    holder: Holder
    batch: Batch
    fate: str = "open"
    processed: Processed | None = None
    counts: Counts | None = None

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def __repr__(self) -> str:
        keys = ",".join(self.batch.keys[0])
        return f"<{self.fate} batch of {keys} of {self.holder!r}>"


def one_of(members: Callable[[Any], Sequence[Any]]) -> st.SearchStrategy[Any]:
    """One of what the machine has at the moment."""
    return st.runner().flatmap(lambda machine: st.sampled_from(members(machine)))


def has(members: Callable[[Any], Sequence[Any]]) -> Callable[[Any], bool]:
    """Whether the machine has any."""
    return lambda machine: bool(members(machine))


def holders(machine: ProtocolMachine) -> Sequence[Holder]:
    return machine.holders


def alive(machine: ProtocolMachine) -> Sequence[Holder]:
    return [holder for holder in machine.holders if holder.alive]


def listening(machine: ProtocolMachine) -> Sequence[Holder]:
    """Those that wait for no answer."""
    return [holder for holder in machine.holders if holder.unheard is None]


def waiting(machine: ProtocolMachine) -> Sequence[Holder]:
    return [holder for holder in machine.holders if holder.unheard is not None]


def in_hand(machine: ProtocolMachine) -> Sequence[Held]:
    """Batches nobody has completed, revoked ones included."""
    return [held for held in machine.batches if held.fate != "done"]


def still_open(machine: ProtocolMachine) -> Sequence[Held]:
    return [held for held in machine.batches if held.fate == "open"]


def completed(machine: ProtocolMachine) -> Sequence[Held]:
    return [held for held in machine.batches if held.fate == "done"]


def names(machine: ProtocolMachine) -> Sequence[str]:
    return sorted(machine.jobs)


def has_quarantined(machine: ProtocolMachine) -> bool:
    return any(held.counts is not None and held.counts.quarantined for held in machine.batches)


def has_deferred(machine: ProtocolMachine) -> bool:
    return any(held.counts is not None and held.counts.deferred for held in machine.batches)


jobs = one_of(names)
some_keys = st.one_of(
    st.sets(st.sampled_from(KEYS), min_size=1, max_size=4),
    st.builds(lambda first, n: set(range(first, first + n)), st.sampled_from(KEYS), st.integers(1, 15)),
)
sizes = st.integers(1, BATCH_SIZE)
furthers = st.sampled_from([0, 0, 1, 3])
meanwhile = st.sampled_from(["nothing", "change", "change", "withdraw", "delete", "re-insert"])
masks = st.sampled_from([0, 0, 0, 1, 2, 3, 4, 8, 15, 85, 170, 240, 255])  # positions in a batch, as bits


class ProtocolMachine(RuleBasedStateMachine):
    """Random histories. `strict`: the rules themselves expect things too; else only the SQL judges."""

    def __init__(self, lab: Lab, *, strict: bool = True) -> None:
        super().__init__()
        self.lab = lab
        self.strict = strict
        self.holders: list[Holder] = []
        self.batches: list[Held] = []
        self.queued: set[str] = set()
        self.sound = True
        lab.do(lab.user.execute(EMPTY))

    # How a history begins

    @initialize(two=st.booleans(), failed=st.sampled_from([None, "status = 'failed'"]), rows=some_keys)
    def begin(self, two: bool, failed: str | None, rows: set[int]) -> None:
        """One job, or two that share the table; with and without a mark for rows in quarantine."""
        self.jobs = {job: pipeline_of(job, failed) for job in (("alpha", "beta") if two else ("alpha",))}
        self.binder = PostgresBinder(self.lab.database)
        self.lab.sql("INSERT INTO src (id) SELECT unnest($1::bigint[])", sorted(rows))

    # The users

    @rule(rows=some_keys)
    def users_insert(self, rows: set[int]) -> None:
        """Behind, inside and ahead of whatever is claimed."""
        self._write("insert", rows)

    @rule(what=st.sampled_from(["insert", "change", "withdraw", "delete", "re-insert"]), rows=some_keys)
    def users_write(self, what: str, rows: set[int]) -> None:
        self._write(what, rows)

    def _write(self, what: str, rows: set[int]) -> None:
        ids, sql = sorted(rows), self.lab.sql
        if what == "insert":
            sql("INSERT INTO src (id) SELECT unnest($1::bigint[]) ON CONFLICT DO NOTHING", ids)
        elif what == "delete":
            sql("DELETE FROM src WHERE id = ANY ($1)", ids)
        elif what == "re-insert":
            deleted = [row["id"] for row in sql("DELETE FROM src WHERE id = ANY ($1) RETURNING id", ids)]
            sql("INSERT INTO src (id) SELECT unnest($1::bigint[])", deleted)
        elif what != "nothing":
            sql(
                "UPDATE src SET v = nextval('version'), at = clock_timestamp(), status = $2 WHERE id = ANY ($1)",
                ids,
                "pending" if what == "change" else "withdrawn",
            )

    # Runs

    @precondition(lambda machine: len(alive(machine)) < len(machine.jobs))
    @rule(job=jobs)
    def a_run_starts(self, job: str) -> None:
        self._start(job, MANUAL)

    @precondition(has_quarantined)
    @precondition(lambda machine: len(machine.jobs) == 1)
    @rule(most=sizes, failing=masks, again=st.booleans())
    def a_replay_starts(self, most: int, failing: int, again: bool) -> None:
        """With one job only: what another job has handled meanwhile would be written again."""
        for other in alive(self):
            self._end(other)
        holder = self._start("alpha", REPLAY)
        if holder is not None and holder.run.trigger == REPLAY:
            lab, source = self.lab, self.jobs["alpha"].source
            assert isinstance(source, BatchProcessingSource)
            table, _ = lab.do(lab.database.unit(lambda connection: resolve_source(connection, source)))
            lab.do(lab.issues.mark_for_replay(table, "alpha", holder.run.run_id, None, None))
            self.somebody_works_a_batch_off("alpha", most, "nothing", 0, failing, again)

    def _start(self, job: str, trigger: str) -> Holder | None:
        worker = WorkerIdentity(uuid4(), "here", 1)
        request = RunRequest(uuid4(), job, trigger, overlap_key=job)
        outcome = self.lab.do(self.lab.store.start(request, worker, FOR_EVER))
        blocked = job in self.queued or any(holder.run.job == job for holder in alive(self))
        self._expect(isinstance(outcome, Blocker) is blocked, f"{outcome} although blocked is {blocked}")
        if isinstance(outcome, Blocker) and outcome.state is RunState.queued:
            adopted = self.lab.do(self.lab.store.start_queued([job], worker, FOR_EVER, [], outcome.run_id))
            self._expect(adopted is not None, "a queued run did not start")
            self.queued.discard(job)
            outcome = adopted or outcome
        if isinstance(outcome, Blocker):
            return None
        bound = self.lab.do(self.binder.bind(self.jobs[job], outcome, worker))
        assert bound.source is not None
        holder = Holder(outcome, worker, bound.source)
        self.holders.append(holder)
        return holder

    @precondition(has(holders))
    @rule(holder=one_of(holders), what=st.sampled_from(["ends", "stops renewing", "renews", "dies", "dies"]))
    def a_process(self, holder: Holder, what: str) -> None:
        """Ends its run, stops, comes back, or stops for so long that the reaper comes."""
        if what == "ends":
            self._end(holder)
        elif what == "renews":
            self._renew(holder)
        elif holder.alive:
            self._lapse(holder)
            if what == "dies":
                self.the_reaper_looks()

    def _end(self, holder: Holder) -> None:
        """By its own process, which may have lost it, or may have ended it before."""
        positions = {**holder.source.positions} if holder.swept else {}
        end = RunEnd(positions=positions)
        try:
            run = self.lab.do(self.lab.store.end(holder.run.run_id, holder.worker, end))
        except RunLostError:
            self._expect(not holder.alive and holder.ended_as is None, "ended before its time")
            return
        self._expect(holder.alive or holder.ended_as == run, "ended twice, each time otherwise")
        holder.ended_as = holder.ended_as or run
        self._ended(holder)

    def _renew(self, holder: Holder) -> None:
        renewer = LeaseConnection(self.lab.database, holder.worker.worker_id, FOR_EVER)
        states = self.lab.do(renewer.renew([holder.run.run_id]))
        self._expect([holder.alive] == [state.renewed for state in states], f"renewal says {states}")
        holder.lapsed = holder.lapsed and not holder.alive

    @precondition(lambda machine: any(holder.lapsed for holder in alive(machine)))
    @rule()
    def the_reaper_looks(self) -> None:
        lapsed = [holder for holder in alive(self) if holder.lapsed]
        reaped = self.lab.do(self.lab.store.reap(None))
        self._expect({run.run_id for run in reaped} == {holder.run.run_id for holder in lapsed}, f"reaped {reaped}")
        for holder in lapsed:
            if any(held.holder is holder for held in still_open(self)) or holder.unheard is not None:
                self.queued |= {row["job"] for row in self.lab.sql("SELECT job FROM etl.run WHERE state = 'queued'")}
            self._ended(holder)

    def _lapse(self, holder: Holder) -> None:
        self.lab.sql(
            "UPDATE etl.run SET lease_until = clock_timestamp() - interval '1 hour' WHERE run_id = $1",
            holder.run.run_id,
        )
        holder.lapsed = True

    def _ended(self, holder: Holder) -> None:
        holder.alive = False
        for held in still_open(self):
            if held.holder is holder:
                held.fate = "void"

    # Claims

    @rule(job=jobs, most=sizes)
    def somebody_claims(self, job: str, most: int) -> None:
        """Fresh rows, or those of a vanished holder."""
        self._take(job, most)

    @rule(job=jobs, most=sizes, what=meanwhile, some=masks, failing=masks, again=st.booleans())
    def somebody_works_a_batch_off(self, job: str, most: int, what: str, some: int, failing: int, again: bool) -> None:
        """While users write the rows it has in hand; perhaps the COMMIT goes unheard."""
        held = self._take(job, most)
        if held is not None:
            self._begin(held)
            self._write(what, {int(key) for n, key in enumerate(held.batch.keys[0]) if some >> n & 1})
            held.processed = processed(held.batch, failing)
            self._complete(held)
            if again:
                self._complete_again(held)

    @rule(job=jobs, most=sizes, what=meanwhile, some=masks, how=st.sampled_from(["dies", "dies", "ends"]))
    def somebody_leaves_with_a_batch(self, job: str, most: int, what: str, some: int, how: str) -> None:
        held = self._take(job, most)
        if held is not None:
            self._begin(held)
            self._write(what, {int(key) for n, key in enumerate(held.batch.keys[0]) if some >> n & 1})
            self.a_process(held.holder, how)

    @precondition(has(listening))
    @rule(holder=one_of(listening), most=sizes, further=furthers)
    def a_process_claims(self, holder: Holder, most: int, further: int) -> None:
        """Refused if the run was lost; perhaps two batches at once."""
        batch = self._claim(holder, uuid4(), most, further)
        self._got(holder, batch, most)
        self._got_spare(holder, further)

    @precondition(has(listening))
    @rule(holder=one_of(listening), most=sizes, further=furthers)
    def a_process_claims_and_hears_no_answer(self, holder: Holder, most: int, further: int) -> None:
        self._begin_sweep(holder)
        claims = _claims_of(holder)
        before = (claims._segments, claims._numbers.last)
        token = uuid4()
        batch = self._claim(holder, token, most, further)
        spare, claims._spare = claims._spare, None
        if holder.alive:
            keys = None if batch is None else batch.keys[0] + ([] if spare is None else spare.keys[0])
            holder.unheard = Unheard(token, most, further, *before, keys)

    @precondition(has(waiting))
    @rule(holder=one_of(waiting))
    def a_process_claims_again(self, holder: Holder) -> None:
        self._take_again(holder)

    @precondition(has(alive))
    @rule(holder=one_of(alive), what=st.sampled_from(["sweep", "sweep without the hint", "free"]))
    def a_process_looks_around(self, holder: Holder, what: str) -> None:
        """Begins its sweep anew, or frees what nobody will take over."""
        if what == "free":
            self.lab.do(holder.source.free_abandoned())
        elif holder.unheard is None:
            self.lab.do(holder.source.begin_sweep(use_hint=what == "sweep"))
            holder.swept = True

    def _take(self, job: str, most: int) -> Held | None:
        """A batch for the job, whoever runs it."""
        running = [holder for holder in alive(self) if holder.run.job == job]
        holder = running[0] if running else self._start(job, MANUAL)
        if holder is None:
            return None
        if holder.unheard is not None:
            return self._take_again(holder)
        held = self._got(holder, self._claim(holder, uuid4(), most), most)
        if held is None:
            self._write("insert", set(KEYS))
            self._write("change", set(KEYS[::3]))
            held = self._got(holder, self._claim(holder, uuid4(), most), most)
        return held

    def _take_again(self, holder: Holder) -> Held | None:
        """The same token answers with the same range, minus what has left it, plus what became visible."""
        unheard, holder.unheard = holder.unheard, None
        assert unheard is not None
        claims = _claims_of(holder)
        claims._segments, claims._numbers.last = unheard.segments, unheard.number
        batch = self._claim(holder, unheard.token, unheard.most, unheard.further)
        if batch is None or not unheard.keys:
            held = self._got(holder, batch, unheard.most)
            self._got_spare(holder, unheard.further)
            return held
        answered = [batch] if claims._spare is None else [batch, claims._spare]
        claims._spare = None
        if holder.run.trigger != REPLAY:
            bounds = int(unheard.keys[0]), int(unheard.keys[-1])
            pending = [str(row["id"]) for row in self.lab.sql(TO_BE_CLAIMED, *bounds, holder.run.job)]
            found = [key for each in answered for key in each.keys[0]]
            between = [key for key in pending if key in found or len(answered) == 1]
            self._expect(found == between, f"{found}, not {between}, answer for {bounds}")
            late = {key for key in pending if key not in found}
            self._expect(late.isdisjoint(unheard.keys), f"{late} of {unheard.keys} are missing")
        self.batches += [Held(holder, each) for each in answered]
        return self.batches[-len(answered)]

    def _got_spare(self, holder: Holder, further: int) -> None:
        """The second of two batches that were claimed at once."""
        if _claims_of(holder)._spare is not None:
            self._got(holder, self._claim(holder, uuid4(), 1), further)

    def _begin_sweep(self, holder: Holder) -> None:
        if not holder.swept:
            self.lab.do(holder.source.begin_sweep())
            holder.swept = True

    def _claim(self, holder: Holder, token: UUID, most: int, further: int = 0) -> Batch | None:
        self._begin_sweep(holder)
        try:
            batch = self.lab.do(holder.source.next(token, most, further))
        except RunLostError:
            self._expect(not holder.alive, "lost before its time")
            return None
        self._expect(holder.alive or batch is None, "claimed for a run that has ended")
        return batch

    def _begin(self, held: Held) -> None:
        """What comes before the processors: of a row that is suspected, note that it is alone now."""
        if must_be_alone(held.batch.crashes) and not is_poison(held.batch.crashes):
            try:
                self.lab.do(held.holder.source.suspect(held.batch))
            except RunLostError:
                self._expect(held.fate == "void", f"refused although {held.fate}")

    def _got(self, holder: Holder, batch: Batch | None, most: int) -> Held | None:
        if batch is None:
            holder.swept = False
            return None
        self._expect(1 <= len(batch) <= most, f"{len(batch)} rows of {most}")
        taken = {key for held in still_open(self) for key in held.batch.keys[0]}
        self._expect(taken.isdisjoint(batch.keys[0]), f"{taken} and {batch.keys[0]}")
        held = Held(holder, batch)
        self.batches.append(held)
        return held

    # Completions

    @precondition(has(in_hand))
    @rule(
        held=one_of(in_hand), failing=masks, how=st.sampled_from(["", "", "a row is locked", "rows go on"]), some=masks
    )
    def a_batch_is_completed(self, held: Held, failing: int, how: str, some: int) -> None:
        """With rows failing, or locked by a colleague, or going on by themselves; too late, if it was taken away."""
        self._finish(held, failing, how, some)

    @precondition(has(still_open))
    @rule(failing=masks)
    def the_oldest_batch_is_completed(self, failing: int) -> None:
        self._finish(still_open(self)[0], failing, "", 0)

    def _finish(self, held: Held, failing: int, how: str, some: int) -> None:
        if how == "rows go on":
            self._complete_without(held, failing, some)
            return
        held.processed = processed(held.batch, failing)
        if how and len(held.batch):
            self._complete_beside_lock(held, int(held.batch.keys[0][some % len(held.batch)]))
        else:
            self._complete(held)

    def _complete_without(self, held: Held, failing: int, some: int) -> None:
        """Rows that wait for a retry go on under a token of their own, in the same transaction."""
        apart = [n for n in range(len(held.batch)) if some >> n & 1]
        rest = [n for n in range(len(held.batch)) if not some >> n & 1]
        carry = None
        if apart and rest:
            carry = held.batch.part(apart, uuid4(), held.holder.source.next_number())
            held.batch = held.batch.part(rest, held.batch.token, held.batch.number)
        held.processed = processed(held.batch, failing)
        self._complete(held, carry)
        if held.fate == "done" and carry is not None:
            self.batches.append(Held(held.holder, carry))

    def _complete_beside_lock(self, held: Held, key: int) -> None:
        """A locked row is deferred alone."""
        colleague = self.lab.colleague
        self.lab.do(colleague.execute(f"BEGIN; SELECT FROM src WHERE id = {key} FOR UPDATE"))
        try:
            self._complete(held)
        finally:
            self.lab.do(colleague.execute("ROLLBACK"))

    @precondition(has(completed))
    @rule(held=one_of(completed))
    def a_batch_is_completed_again(self, held: Held) -> None:
        self._complete_again(held)

    def _complete_again(self, held: Held) -> None:
        """The COMMIT took effect, but nobody heard."""
        counts = held.counts
        self._complete(held)
        self._expect(held.counts == counts, f"first {counts}, then {held.counts}")

    @precondition(has_deferred)
    @rule()
    def deferred_rows_become_due(self) -> None:
        self.lab.sql("UPDATE etl.row_issue SET due_at = clock_timestamp() WHERE state = 'deferred'")

    def _complete(self, held: Held, carry: Batch | None = None) -> None:
        assert held.processed is not None
        completion = held.holder.source.complete(held.batch, held.processed, lambda counts: None, carry)
        try:
            held.counts = self.lab.do(completion)
        except RunLostError:
            self._expect(held.fate == "void", f"refused although {held.fate}")
            return
        self._expect(held.fate != "void", "completed although it was taken away")
        self._expect(held.counts.balanced, f"{held.counts}")
        held.fate = "done"

    # Judgement

    @invariant()
    def nothing_is_as_it_must_never_be(self) -> None:
        self.sound = False
        violations = [f"{row['rule']}: {row['seen']}" for row in self.lab.sql(VIOLATIONS)]
        assert not violations, "; ".join(violations)
        self.sound = True

    def _expect(self, true: bool, otherwise: str) -> None:
        if self.strict and not true:
            self.sound = False
            raise AssertionError(otherwise)

    def teardown(self) -> None:
        """All processes die; whoever comes after them leaves no row behind."""
        if not self.sound or not hasattr(self, "jobs"):
            return
        for survivor in alive(self):
            self._lapse(survivor)
        self.the_reaper_looks()
        self.nothing_is_as_it_must_never_be()
        for _ in range(2):  # what a replay had in hand first, then everything
            for job in self.jobs:
                holder = self._start(job, MANUAL)
                assert holder is not None, "a dead run wedges its job"
                self._work_off(holder)
                self._end(holder)
                self.nothing_is_as_it_must_never_be()
        assert not self.lab.sql(LEFT_BEHIND, len(self.jobs))
        assert not self.lab.sql("SELECT FROM etl.batch WHERE state IN ('open', 'expired')")

    def _work_off(self, holder: Holder) -> None:
        while (batch := self._claim(holder, uuid4(), BATCH_SIZE)) is not None:
            held = Held(holder, batch, processed=processed(batch, 0))
            self._complete(held)


class ReplayingMachine(ProtocolMachine):
    """Histories of one job that begin with rows in quarantine: all of them may come to replays."""

    @initialize(two=st.just(False), failed=st.sampled_from([None, "status = 'failed'"]), rows=some_keys)
    def begin(self, two: bool, failed: str | None, rows: set[int]) -> None:
        """The first batch fails as a whole."""
        super().begin(two, failed, rows)
        self.somebody_works_a_batch_off("alpha", BATCH_SIZE, "nothing", 0, (1 << BATCH_SIZE) - 1, False)


def _claims_of(holder: Holder) -> Any:
    assert isinstance(holder.source, ClaimedTable)
    return holder.source._claims


def processed(batch: Batch, failing: int) -> Processed:
    """What becomes of a batch: versions divisible by five are filtered; bits of `failing` say who fails, and a row
    that is held to have killed its process is not even tried."""
    result = Processed()
    outputs: list[tuple[int, Any]] = []
    for position, row in enumerate(batch.rows):
        if failing >> position & 1 or is_poison(batch.crashes):
            result.failures[position] = Failure.of("process", ValueError("no good"))
        elif row["v"] % 5 == 0:
            result.filtered.append(position)
        else:
            outputs.append((position, {"id": row["id"], "v": row["v"], "token": batch.token}))
    result.outputs = outputs
    return result


def search(
    lab: Lab, *, examples: int, strict: bool, shrink: bool, histories: type[ProtocolMachine] = ProtocolMachine
) -> None:
    """Run random histories until one is wrong (AssertionError) or there have been enough."""

    @seed(SEED)
    def machine() -> ProtocolMachine:
        return histories(lab, strict=strict)

    how = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=how)  # type: ignore[arg-type]


def test_no_history_breaks_the_claim_protocol(lab: Lab) -> None:
    print(f"{EXAMPLES} histories of up to {STEPS} steps from seed {SEED}")
    search(lab, examples=EXAMPLES, strict=True, shrink=bool(NIGHTLY))


# Broken twins: the protocol with one rule left out


def break_statement(monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str) -> None:
    """Have every module send the statement `name` with `new` in place of `old`."""
    for module in [module for name, module in sys.modules.items() if name.startswith("etl.postgres.")]:
        if (sent := getattr(module, "statement", None)) is not None and module.__name__ != statement.__module__:
            monkeypatch.setattr(module, "statement", partial(_broken, sent, name, old, new))


def _broken(sent: Callable[[str], str], name: str, old: str, new: str, wanted: str) -> str:
    assert old in sent(name)
    return sent(wanted).replace(old, new) if wanted == name else sent(wanted)


def without_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A completion does not look whether the batch is still its own."""
    always_open = "CASE state WHEN 'done' THEN state ELSE 'open' END AS state"
    break_statement(monkeypatch, "lock_batch", "SELECT state", f"SELECT {always_open}")


def reaping_without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reaper ends the run and forgets its batches."""
    break_statement(monkeypatch, "expire_batches", "WHERE run_id = $1", "WHERE run_id = $1 AND false")
    ending_with_open_batches(monkeypatch)


def ending_without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends does not give back what it holds."""
    break_statement(monkeypatch, "release_batches", "WHERE run_id = $1", "WHERE run_id = $1 AND false")
    ending_with_open_batches(monkeypatch)


def ending_with_open_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The statement that ends a run does not see to it that nothing is open."""
    break_statement(monkeypatch, "end_run", " AND b.open = 0", "")


def blind_to_reservations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim takes rows wherever they are."""
    monkeypatch.setattr(claim_module, "gaps", lambda after, reserved: [(after, None)])


def without_version(matches: str) -> str:
    """The condition that finds a claimed row again, by its key alone."""
    condition, version = matches.rsplit("\n   AND ", 1)
    assert "xmin" in version
    return condition


def blind_to_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A completion marks rows by their key alone, however they have changed since."""
    matches: Any = UserTable.__dict__["_matches"]
    monkeypatch.setattr(UserTable, "_matches", property(lambda table: without_version(matches.fget(table))))


def replays_completed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replayed batch may be completed again: neither its state nor the versions of its rows are compared."""
    never_done = "CASE WHEN replay AND state = 'done' THEN 'open' ELSE state END AS state"
    break_statement(monkeypatch, "lock_batch", "SELECT state", f"SELECT {never_done}")
    matches: Any = UserTable.__dict__["_matches"]

    def of_replays_without_version(table: UserTable) -> str:
        condition: str = matches.fget(table)
        return without_version(condition) if table.replay else condition

    monkeypatch.setattr(UserTable, "_matches", property(of_replays_without_version))


def forgetful_takeover(monkeypatch: pytest.MonkeyPatch) -> None:
    """A takeover keeps the first piece and forgets the rest of the range."""
    insert = Claim._insert

    async def insert_open_ones_only(self: Claim, token: UUID, run_id: UUID | None, *rest: Any) -> None:
        if run_id is not None:
            await insert(self, token, run_id, *rest)

    monkeypatch.setattr(Claim, "_insert", insert_open_ones_only)


# With the histories that come to it soonest: among all of them it takes hundreds until a replay is completed twice.
TWINS = [
    (without_fence, ProtocolMachine, "only a completed batch has written"),
    (reaping_without_rows, ProtocolMachine, "an open batch belongs to a running run"),
    (ending_without_rows, ProtocolMachine, "an open batch belongs to a running run"),
    (blind_to_reservations, ProtocolMachine, "reserved ranges are disjoint"),
    (blind_to_versions, ProtocolMachine, "a done row was written once, or filtered"),
    (replays_completed_twice, ReplayingMachine, "no version of a row is written twice|a batch tells what it did"),
    (forgetful_takeover, ProtocolMachine, "a row taken over stays reserved"),
]


@pytest.mark.parametrize(("breaking", "histories", "violated"), TWINS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_search_finds_a_protocol_without(
    breaking: Callable[[pytest.MonkeyPatch], None],
    histories: type[ProtocolMachine],
    violated: str,
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    breaking(monkeypatch)

    with pytest.raises(AssertionError, match=violated):
        search(lab, examples=TWIN_EXAMPLES, strict=False, shrink=False, histories=histories)
