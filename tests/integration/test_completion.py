"""Completing a batch, rule by rule of the protocol: once per token, only what is still as it was claimed, and every
row that cannot be written set aside alone.

The batch row is locked and seen open first; then rows are marked done by key, version and `pending`; only the results
of rows that were marked go to the sink, in the same transaction. A `done` without effect is a configuration error.
A refused batch is bisected inside the transaction; a row another session has locked is deferred alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from etl import BatchProcessingSource, Context, Pipeline, PostgresSink, Retry, TriggerSource, processor
from etl.app import Application, HandControls, connection_settings
from etl.config import Settings
from etl.core.run import Run, RunState
from etl.errors import ConfigurationError, RunLostError, TooManyQuarantinedError
from etl.postgres import completion
from etl.postgres.completion import Completion
from etl.postgres.database import Database
from etl.postgres.statements import statement
from etl.runtime import driven
from tests.conftest import LEASE, PATIENT, Where
from tests.faults import Cut
from tests.kit import NoTracing, a_job, eventually, processed_to, schedules
from tests.protocol import Scene, counted, failing, faulty, ids, open_scene, written


@pytest.fixture
def lease() -> timedelta:
    """A locked row is waited for as long as the lease allows."""
    return LEASE


@pytest.fixture(params=[True, False], ids=["at once", "in turn"])
async def scene(where: Where, database: Database, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """Both ways to complete a batch: by one statement where that can be, and always by a transaction."""
    async with open_scene(where, database, at_once=request.param) as opened:
        yield opened


# Once per token


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.DURING, Cut.AFTER, Cut.LATE])
async def test_a_completion_whose_commit_was_lost_takes_effect_once(scene: Scene, where: Where, cut: Cut) -> None:
    """The same completion issued again finds the batch done, or does it."""
    await scene.fill(10)
    async with faulty(where) as (proxy, database):
        holder = await scene.run(database=database)
        batch = await holder.must_claim()
        lost = proxy.cut(cut, at="etl:fence" if scene.at_once else "^COMMIT")

        counts = await holder.complete(batch)

        assert lost.fired
        await proxy.let_late_through()
        await lost.settled.wait()
        assert counted(counts) == {"claimed": 10, "written": 10}
        assert await scene.results() == [*range(1, 11)]
        assert (await holder.end()).counts.written == 10


async def test_a_token_completed_again_reports_what_was_recorded_and_writes_nothing(scene: Scene) -> None:
    await scene.fill(10)
    holder = await scene.run()
    batch = await holder.must_claim()
    first = await holder.complete(batch, failing(batch, {3: ValueError("no"), 5: ValueError("no")}))

    again = await holder.complete(batch, written(batch, result=lambda row: {"id": row["id"], "v": "twice"}))

    assert again == first
    assert counted(again) == {"claimed": 10, "written": 8, "quarantined": 2}
    assert await scene.results() == [1, 2, 4, 6, 7, 8, 9, 10]
    assert await scene.value("SELECT count(*) FROM dst WHERE v = 'twice'") == 0


@pytest.mark.parametrize("fate", ["released", "expired", "replaced", "gone"])
async def test_a_token_that_was_taken_away_writes_nothing(scene: Scene, fate: str) -> None:
    await scene.fill(10)
    holder = await scene.run()
    batch = await holder.must_claim()
    if fate == "released":
        await holder.end(RunState.cancelled)
    elif fate == "gone":
        await scene.execute("DELETE FROM etl.batch")
    else:
        await holder.die()
    if fate == "replaced":
        await (await scene.run()).must_claim()

    with pytest.raises(RunLostError, match=f"batch {batch.token} is {fate}"):
        await holder.complete(batch, failing(batch, {3: ValueError("no")}))

    assert await scene.results() == await scene.issues() == []
    assert await scene.pending() == [*range(1, 11)]


@pytest.mark.parametrize("state", ["released", "expired", "replaced"])
async def test_a_batch_that_is_not_open_is_not_recorded_as_done(scene: Scene, state: str) -> None:
    """The last statement of a completion stands by itself, whatever was seen of the batch before."""
    await scene.fill(8)
    holder = await scene.run(batch_size=4)
    batch, _ = await holder.must_claim(), await holder.must_claim()
    ended = "NULL" if state == "expired" else "clock_timestamp()"
    await scene.execute(f"UPDATE etl.batch SET state = $2, ended_at = {ended} WHERE token = $1", batch.token, state)

    recorded = await scene.execute(statement("complete_batch"), batch.token, 4, 4, 0, 0, 0, 0, 0, [])

    assert recorded == "UPDATE 0"
    assert await scene.fetch("SELECT state, written FROM etl.batch ORDER BY number") == [(state, 0), ("open", 0)]


async def test_a_completion_does_not_touch_the_row_of_its_run(scene: Scene, db: Any) -> None:
    """Somebody else has it locked, as a heartbeat or a reaper would, and the batch is completed all the same."""
    await scene.fill(10)
    holder = await scene.run()
    batch = await holder.must_claim()

    async with db.transaction():
        await db.execute("SELECT FROM etl.run FOR UPDATE")
        counts = await asyncio.wait_for(holder.complete(batch), 10)

    assert counted(counts) == {"claimed": 10, "written": 10}


async def test_a_batch_the_quota_objects_to_leaves_no_trace(scene: Scene) -> None:
    await scene.fill(10)
    holder = await scene.run()
    batch = await holder.must_claim()

    def object_to(counts: Any) -> None:
        raise TooManyQuarantinedError(f"{counts.quarantined} are too many")

    with pytest.raises(TooManyQuarantinedError, match="1 are too many"):
        await holder.complete(batch, failing(batch, {3: ValueError("no")}), judge=object_to)

    assert await scene.results() == await scene.issues() == []
    assert await scene.batches() == [("open", 10)]
    assert (await holder.end(RunState.failed)).counts.released == 10


# What changed while it was claimed

_CHANGES = {
    "updated": ("UPDATE src SET v = 'new' WHERE id = 3", [3]),
    "updated to itself": ("UPDATE src SET v = v WHERE id = 3", [3]),
    "done by somebody else": ("UPDATE src SET status = 'done' WHERE id = 3", []),
    "deleted": ("DELETE FROM src WHERE id = 3", []),
    "deleted and inserted again": ("DELETE FROM src WHERE id = 3; INSERT INTO src VALUES (3, 'x3', 'pending')", [3]),
    "given another key": ("UPDATE src SET id = 33 WHERE id = 3", [33]),
    "its key given to another": ("UPDATE src SET id = 33 WHERE id = 3; INSERT INTO src VALUES (3, 'other')", [3, 33]),
}


@pytest.mark.parametrize("change", _CHANGES)
async def test_a_row_that_changed_while_it_was_claimed_has_vanished(scene: Scene, change: str) -> None:
    """Its result would speak of a row that is no more; if it is pending, it waits for the next sweep."""
    sql, still_pending = _CHANGES[change]
    await scene.fill(10)
    holder = await scene.run()
    batch = await holder.must_claim()
    await scene.execute(sql)

    counts = await holder.complete(batch)

    assert counted(counts) == {"claimed": 10, "written": 9, "vanished": 1}
    assert await scene.results() == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert await scene.pending() == still_pending
    assert await (await scene.run()).drain() == still_pending


async def test_two_rows_that_swapped_their_keys_have_both_vanished(scene: Scene) -> None:
    await scene.fill(5)
    holder = await scene.run()
    batch = await holder.must_claim()
    await scene.execute(
        "UPDATE src SET id = -2 WHERE id = 2; UPDATE src SET id = 2 WHERE id = 4; UPDATE src SET id = 4 WHERE id = -2"
    )

    counts = await holder.complete(batch)

    assert counted(counts) == {"claimed": 5, "written": 3, "vanished": 2}
    assert await scene.results() == [1, 3, 5]
    assert await scene.pending() == [2, 4]


@pytest.mark.parametrize("outcome", ["filtered", "quarantined"])
async def test_a_changed_row_has_vanished_whatever_the_processors_made_of_it(scene: Scene, outcome: str) -> None:
    await scene.fill(4)
    holder = await scene.run()
    batch = await holder.must_claim()
    await scene.execute("UPDATE src SET v = 'new' WHERE id = 3")

    made = written(batch, only=[1, 2]) if outcome == "filtered" else failing(batch, dict.fromkeys((3, 4), OSError()))
    counts = await holder.complete(batch, made)

    assert counted(counts) == {"claimed": 4, "written": 2, outcome: 1, "vanished": 1}
    assert 3 in await scene.pending()


async def test_a_completion_waits_for_a_session_that_has_just_changed_a_row(scene: Scene, db: Any) -> None:
    """It finds out at the row itself: what it read when it claimed is not what it marks."""
    await scene.fill(10)
    holder = await scene.run()
    batch = await holder.must_claim()
    change = db.transaction()
    await change.start()
    await db.execute("UPDATE src SET v = 'new' WHERE id = 3")

    completion = asyncio.create_task(holder.complete(batch))
    await scene.waiting_for_locks()
    await change.commit()

    assert counted(await completion) == {"claimed": 10, "written": 9, "vanished": 1}
    assert await scene.pending() == [3]


async def test_a_row_moved_to_another_partition_has_vanished(scene: Scene, db: Any) -> None:
    """One before the completion and one in the middle of it, which the server reports as a serialization failure."""
    await scene.execute("""
        CREATE TABLE parts (id bigint, half text, status text NOT NULL DEFAULT 'pending', PRIMARY KEY (id, half))
          PARTITION BY LIST (half);
        CREATE TABLE part_a PARTITION OF parts FOR VALUES IN ('a');
        CREATE TABLE part_b PARTITION OF parts FOR VALUES IN ('b');
        CREATE UNIQUE INDEX ON part_a (id); CREATE UNIQUE INDEX ON part_b (id);
        INSERT INTO parts SELECT g, 'a' FROM generate_series(1, 5) g;
        CREATE TABLE dst (id bigint, v text)""")
    holder = await scene.run(source=await scene.source("parts"))
    batch = await holder.must_claim()
    await scene.execute("UPDATE parts SET half = 'b' WHERE id = 2")
    move = db.transaction()
    await move.start()
    await db.execute("UPDATE parts SET half = 'b' WHERE id = 4")

    result = written(batch, result=lambda row: {"id": row["id"], "v": row["half"]})
    completion = asyncio.create_task(holder.complete(batch, result))
    await scene.waiting_for_locks()
    await move.commit()

    assert counted(await completion) == {"claimed": 5, "written": 3, "vanished": 2}
    assert await scene.results() == [1, 3, 5]
    assert await scene.fetch("SELECT id FROM parts WHERE status = 'pending' ORDER BY id") == [2, 4]


# A `done` that does not do what it says


async def test_a_done_that_leaves_rows_pending_is_refused_and_rolled_back(scene: Scene) -> None:
    await scene.fill(5)
    holder = await scene.run(source=await scene.source(done="v = v || '!'"))
    batch = await holder.must_claim()

    with pytest.raises(ConfigurationError, match="job job: done: leaves the row pending"):
        await holder.complete(batch)

    await _untouched(scene, 5)


async def test_a_done_that_a_trigger_swallows_is_refused_and_rolled_back(scene: Scene) -> None:
    """The UPDATE reports success and changes nothing: without this check the sweep would come back for ever."""
    await scene.fill(5)
    await scene.execute("""
        CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER swallow BEFORE UPDATE ON src FOR EACH ROW WHEN (OLD.id = 4) EXECUTE FUNCTION swallow()""")
    holder = await scene.run()
    batch = await holder.must_claim()

    with pytest.raises(ConfigurationError, match="done: has no effect on some rows"):
        await holder.complete(batch)

    await _untouched(scene, 5)


async def test_a_done_that_row_level_security_hides_rows_from_is_refused_and_rolled_back(
    scene: Scene, where: Where
) -> None:
    await scene.fill(5)
    await scene.execute("""
        ALTER TABLE src ENABLE ROW LEVEL SECURITY;
        CREATE POLICY readable ON src FOR SELECT USING (true);
        CREATE POLICY writable ON src FOR UPDATE USING (id <> 4)""")
    async with _ordinary_user(scene, where) as database:
        holder = await scene.run(database=database)
        batch = await holder.must_claim()

        with pytest.raises(ConfigurationError, match="done: has no effect on some rows"):
            await holder.complete(batch)

    await _untouched(scene, 5)


@asynccontextmanager
async def _ordinary_user(scene: Scene, where: Where) -> AsyncIterator[Database]:
    """The framework as a database user to whom row-level security applies."""
    role = f"{where.database}_ordinary"
    await scene.execute(f"""
        CREATE ROLE {role};
        GRANT USAGE ON SCHEMA etl TO {role};
        GRANT ALL ON ALL TABLES IN SCHEMA etl, public TO {role}""")
    database = Database(connection_settings(Settings(lease=PATIENT), f"{where.dsn}&role={role}"))
    await database.open()
    try:
        yield database
    finally:
        await database.close()
        await scene.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def _untouched(scene: Scene, rows: int) -> None:
    assert await scene.results() == []
    assert await scene.pending() == [*range(1, rows + 1)]
    assert await scene.batches() == [("open", rows)]


@pytest.mark.parametrize(
    "done",
    ["id = -id", "status = 'done', ID = 5", '"id" = 5', "(status, id) = ('done', 5)", "status = 'a,b' /* , */, id = 1"],
)
async def test_a_done_that_sets_the_key_is_refused(scene: Scene, done: str) -> None:
    await scene.fill(1)

    with pytest.raises(ConfigurationError, match="done: sets 'id', a column of the key"):
        await scene.source(done=done)


# Locked rows


async def test_a_row_that_another_session_has_locked_is_deferred_alone(scene: Scene, db: Any) -> None:
    """In the source or in the sink; its neighbours do not wait for it."""
    await scene.fill(10)
    await scene.execute("CREATE UNIQUE INDEX ON dst (id); INSERT INTO dst VALUES (7, 'old')")
    holder = await scene.run(sink_key="id")
    batch = await holder.must_claim()

    async with db.transaction():
        await db.execute("SELECT FROM src WHERE id = 3 FOR UPDATE")
        await db.execute("SELECT FROM dst WHERE id = 7 FOR UPDATE")
        counts = await holder.complete(batch)

    assert counted(counts) == {"claimed": 10, "written": 8, "deferred": 2}
    assert await scene.issues() == [("3", "deferred", "RowLocked"), ("7", "deferred", "RowLocked")]
    assert await scene.fetch("SELECT v FROM dst WHERE id IN (3, 7)") == ["old"]
    assert await scene.pending() == [3, 7]
    assert (await holder.end()).state is RunState.succeeded


async def test_where_many_rows_are_locked_they_are_not_all_waited_for_one_by_one(
    scene: Scene, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions that wait for what has been written so far would find no end of it, nor would this one of them."""
    await scene.fill(64)
    await scene.execute(
        "CREATE UNIQUE INDEX ON dst (id); INSERT INTO dst SELECT n, 'old' FROM generate_series(5, 64) n"
    )
    holder = await scene.run(sink_key="id")
    batch = await holder.must_claim(64)
    monkeypatch.setattr(completion, "IMPATIENTLY", "SET LOCAL lock_timeout = '5ms'")
    tries: list[int] = []
    attempt = Completion._mark_and_write

    async def counting(self: Completion, connection: Any, progress: Any, positions: Sequence[int]) -> None:
        tries.append(len(positions))
        await attempt(self, connection, progress, positions)

    monkeypatch.setattr(Completion, "_mark_and_write", counting)
    async with db.transaction():
        await db.execute("SELECT FROM dst FOR UPDATE")
        counts = await holder.complete(batch)

    assert {"claimed": 64, "written": 4, "deferred": 60} == counted(counts)
    assert [*range(5, 65)] == await scene.pending()
    assert len(tries) < completion.LOCK_WAITS + 10, tries


async def test_a_deferred_row_comes_back_when_it_is_due_and_asks_for_a_run(
    scene: Scene, database: Database, db: Any
) -> None:
    await scene.fill(5)
    await _defer(scene, db, 3)
    store = schedules(database, a_job("job"))
    early = await scene.run()
    too_early = await early.drain()
    await early.end()
    asleep = (await store.wake()).deferred
    await scene.execute("UPDATE etl.row_issue SET due_at = clock_timestamp()")

    awake = (await store.wake()).deferred
    await store.ask_for_deferred()
    handled = await (await scene.run()).drain()

    assert too_early == []
    assert (asleep, awake) == (False, True)
    assert await scene.fetch("SELECT trigger, state FROM etl.run WHERE state = 'queued'") == [("deferred", "queued")]
    assert handled == [3]
    assert await scene.issues() == [("3", "resolved", "RowLocked")]
    assert not (await store.wake()).deferred


@pytest.mark.parametrize("change", ["UPDATE src SET status = 'done' WHERE id = 3", "DELETE FROM src WHERE id = 3"])
async def test_a_deferred_row_that_somebody_else_has_handled_asks_for_one_run_and_no_more(
    scene: Scene, database: Database, db: Any, change: str
) -> None:
    """Whoever had it locked was at work on it: the run that comes to look settles the matter."""
    await scene.fill(5)
    await _defer(scene, db, 3)
    await scene.execute(change)
    await scene.execute("UPDATE etl.row_issue SET due_at = clock_timestamp()")
    store = schedules(database, a_job("job"))

    holder = await scene.run()
    handled = await holder.drain()
    await holder.end()

    assert handled == []
    assert not (await store.wake()).deferred
    assert await scene.issues() == [("3", "gone", "RowLocked")]


async def _defer(scene: Scene, db: Any, key: int) -> None:
    """A run that handles all rows of `src` but one, which is locked."""
    holder = await scene.run()
    batch = await holder.must_claim()
    async with db.transaction():
        await db.execute("SELECT FROM src WHERE id = $1 FOR UPDATE", key)
        assert (await holder.complete(batch)).deferred == 1
    await holder.end()


# Rows the sink refuses


@pytest.mark.parametrize(
    "refused", [[10], [1], [5], [1, 2, 9], [*range(1, 11)]], ids=["last", "first", "middle", "several", "all"]
)
async def test_a_row_that_the_sink_refuses_is_set_aside_alone(scene: Scene, refused: list[int]) -> None:
    await scene.fill(10)
    await scene.execute("CREATE UNIQUE INDEX taken ON dst (id)")
    await scene.execute("INSERT INTO dst SELECT unnest($1::bigint[]), 'first come'", refused)
    holder = await scene.run()
    batch = await holder.must_claim()

    counts = await holder.complete(batch)

    good = [key for key in range(1, 11) if key not in refused]
    assert (counts.claimed, counts.written, counts.quarantined) == (10, len(good), len(refused))
    assert await scene.fetch("SELECT id FROM dst WHERE v <> 'first come' ORDER BY id") == good
    assert await scene.pending() == refused
    assert await scene.issues() == [(str(key), "open", "UniqueViolationError") for key in refused]


class NoJson:
    """A value without JSON form."""


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


# What a result can carry that its column cannot, and the error that tells so.
_UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "NUL": ({"t": "a\0b"}, "CharacterNotInRepertoireError"),
    "lone surrogate": ({"t": "a\ud800b"}, "ValueRefusedError"),
    "too long text": ({"short": "four"}, "StringDataRightTruncationError"),
    "integer overflow": ({"small": 2**40}, "ValueRefusedError"),
    "numeric overflow": ({"amount": Decimal("1000.00")}, "NumericValueOutOfRangeError"),
    "NaN": ({"f": float("nan")}, "ValueRefusedError"),
    "infinity": ({"f": float("-inf")}, "ValueRefusedError"),
    "decimal NaN": ({"amount": Decimal("NaN")}, "ValueRefusedError"),
    "NaN in words": ({"amount": "NaN"}, "ValueRefusedError"),
    "no number": ({"amount": "many"}, "ValueRefusedError"),
    "naive datetime": ({"at": datetime(2024, 1, 1)}, "ValueRefusedError"),
    "NaN in JSON": ({"doc": {"a": [float("nan")]}}, "ValueRefusedError"),
    "NUL in JSON": ({"doc": {"a": "\0"}}, "UntranslatableCharacterError"),
    "surrogate in JSON": ({"doc": {"a": "\ud800"}}, "ValueRefusedError"),
    "naive datetime in JSON": ({"doc": [datetime(2024, 1, 1)]}, "ValueRefusedError"),
    "no JSON form": ({"doc": NoJson()}, "ValueRefusedError"),
    "another type": ({"t": 5}, "ValueRefusedError"),
    "null": ({"needed": None}, "NotNullViolationError"),
    "CHECK": ({"small": 13}, "CheckViolationError"),
    "foreign key": ({"ref": 99}, "ForeignKeyViolationError"),
    "trigger": ({"t": "raise"}, "RaiseError"),
    "unknown column": ({"no such": 1}, "ValueRefusedError"),
    "not a dict": ({}, "ValueRefusedError"),
}


async def test_every_value_that_does_not_fit_costs_its_own_row_only(scene: Scene) -> None:
    """One batch in which every other row carries another unfit value; the constraint is checked late, at COMMIT."""
    await scene.fill(2 * len(_UNFIT))
    await scene.execute("""
        CREATE TABLE known (id bigint PRIMARY KEY);
        CREATE TABLE out (
            id bigint PRIMARY KEY, t text, short varchar(3), small int CHECK (small <> 13), amount numeric(5, 2),
            f float8, at timestamptz, doc jsonb, needed text NOT NULL DEFAULT '',
            ref bigint REFERENCES known DEFERRABLE INITIALLY DEFERRED);
        CREATE FUNCTION complain() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN IF NEW.t = 'raise' THEN RAISE 'not this one'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER complain BEFORE INSERT ON out FOR EACH ROW EXECUTE FUNCTION complain()""")
    unfit = {2 * n: values for n, (values, _) in enumerate(_UNFIT.values(), start=1)}

    def result(row: Any) -> Any:
        return "not a dict" if unfit.get(row["id"]) == {} else {"id": row["id"], **unfit.get(row["id"], {"t": "good"})}

    holder = await scene.run(sink="out", sink_key="id", batch_size=100)
    batch = await holder.must_claim()
    counts = await holder.complete(batch, written(batch, result=result))

    assert counted(counts) == {"claimed": 2 * len(_UNFIT), "written": len(_UNFIT), "quarantined": len(_UNFIT)}
    assert await scene.fetch("SELECT id FROM out ORDER BY id") == [*range(1, 2 * len(_UNFIT), 2)]
    assert dict(zip(_UNFIT, [issue[2] for issue in await scene.issues()], strict=True)) == {
        name: error for name, (_, error) in _UNFIT.items()
    }
    told = await scene.fetch("SELECT message FROM etl.row_issue WHERE message LIKE '%number' ORDER BY 1")
    assert ["column 'amount': NaN is not a finite number"] * 2 + ["column 'amount': text that is not a number"] == [
        each for each in told if "'amount'" in each
    ]


async def test_large_numbers_are_numbers(scene: Scene) -> None:
    """Beyond what a float holds, but not beyond a numeric."""
    await scene.fill(2)
    await scene.execute("CREATE TABLE out (id bigint PRIMARY KEY, n numeric)")
    holder = await scene.run(sink="out")
    batch = await holder.must_claim()

    large = {1: 10**400, 2: Decimal("-1E+400")}
    counts = await holder.complete(batch, written(batch, result=lambda row: {"id": row["id"], "n": large[row["id"]]}))

    assert counted(counts) == {"claimed": 2, "written": 2}
    assert await scene.fetch("SELECT n FROM out ORDER BY id") == [*large.values()]


async def test_neighbours_that_name_an_unknown_column_cost_only_themselves(scene: Scene) -> None:
    """Only if every row of a batch does so is the job itself at fault."""
    await scene.fill(8)
    holder = await scene.run()
    batch = await holder.must_claim()

    def result(row: Any) -> Any:
        return {"id": row["id"], "w" if row["id"] > 4 else "v": "x"}

    counts = await holder.complete(batch, written(batch, result=result))

    assert counted(counts) == {"claimed": 8, "written": 4, "quarantined": 4}
    assert await scene.results() == [1, 2, 3, 4]


async def test_a_column_that_no_row_of_a_batch_gets_right_stops_the_job(scene: Scene) -> None:
    await scene.fill(8)
    holder = await scene.run()
    batch = await holder.must_claim()

    with pytest.raises(ConfigurationError, match=r"table public\.dst has no column 'w'"):
        await holder.complete(batch, written(batch, result=lambda row: {"id": row["id"], "w": "x"}))

    await _untouched(scene, 8)


async def test_a_source_row_that_its_own_table_will_not_mark_is_set_aside_alone(scene: Scene) -> None:
    """A trigger that raises at once, and a constraint that is checked late."""
    await scene.fill(10)
    await scene.execute("""
        CREATE FUNCTION complain() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.status = 'done' THEN RAISE 'not this one'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER complain BEFORE UPDATE ON src FOR EACH ROW WHEN (NEW.id = 3) EXECUTE FUNCTION complain();
        CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON src DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.id = 7)
            EXECUTE FUNCTION complain()""")
    holder = await scene.run()
    batch = await holder.must_claim()

    counts = await holder.complete(batch)

    assert counted(counts) == {"claimed": 10, "written": 8, "quarantined": 2}
    assert await scene.results() == [1, 2, 4, 5, 6, 8, 9, 10]
    assert await scene.issues() == [("3", "open", "RaiseError"), ("7", "open", "RaiseError")]


async def test_equal_keys_of_the_sink_collapse_and_the_last_one_wins(scene: Scene) -> None:
    """Rows with different columns and keys that only the server knows to be equal included."""
    await scene.fill(6)
    await scene.execute("CREATE TABLE out (k numeric PRIMARY KEY, v text, w text)")
    results = {1: {"k": 1, "v": "a"}, 2: {"k": Decimal("1.00"), "v": "b"}, 3: {"k": "1", "v": "c", "w": "d"},
               4: {"k": 2, "v": "e"}, 5: {"k": 1, "v": "last"}, 6: {"k": 2, "w": "f"}}  # fmt: skip
    holder = await scene.run(sink="out", sink_key="k")
    batch = await holder.must_claim()

    counts = await holder.complete(batch, written(batch, result=lambda row: results[row["id"]]))

    assert counted(counts) == {"claimed": 6, "written": 6}
    assert await scene.fetch("SELECT k, v FROM out ORDER BY k") == [(1, "last"), (2, None)]


async def test_a_row_with_one_refused_result_of_several_is_set_aside_whole(scene: Scene) -> None:
    await scene.fill(4)
    await scene.execute("CREATE TABLE out (id bigint, part int CHECK (part <> 2))")
    holder = await scene.run(sink="out")
    batch = await holder.must_claim()
    parts = {1: [1, 3], 2: [1, 2, 3], 3: [1], 4: [3]}

    fanned = [(n, {"id": key, "part": part}) for n, key in enumerate(ids(batch)) for part in parts[key]]
    counts = await holder.complete(batch, processed_to(fanned))

    assert counted(counts) == {"claimed": 4, "written": 3, "quarantined": 1}
    assert await scene.fetch("SELECT id, part FROM out ORDER BY 1, 2") == [(1, 1), (1, 3), (3, 1), (4, 3)]
    assert await scene.pending() == [2]


# Rows set aside


async def test_filtered_rows_are_marked_done_too(scene: Scene) -> None:
    await scene.fill(5)
    holder = await scene.run()
    batch = await holder.must_claim()

    counts = await holder.complete(batch, written(batch, only=[1, 2]))

    assert counted(counts) == {"claimed": 5, "written": 2, "filtered": 3}
    assert await scene.results() == [1, 2]
    assert await scene.pending() == []


async def test_a_quarantined_row_is_kept_apart_until_it_changes(scene: Scene) -> None:
    """Without `failed=` it looks pending for ever; a row somebody touched deserves another try."""
    await scene.fill(5)
    first = await scene.run()
    batch = await first.must_claim()
    await first.complete(batch, failing(batch, dict.fromkeys((2, 4), ValueError("no"))))

    untouched = await (await scene.run()).drain()
    await scene.execute("UPDATE src SET v = 'repaired' WHERE id = 4")
    touched = await (await scene.run()).drain()

    assert untouched == []
    assert touched == [4]
    assert await scene.pending() == [2]
    assert await scene.issues() == [("2", "open", "ValueError"), ("4", "resolved", "ValueError")]


async def test_a_row_that_fails_again_has_one_open_issue(scene: Scene) -> None:
    await scene.fill(3)
    for error in (ValueError("first"), KeyError("second")):
        holder = await scene.run()
        batch = await holder.must_claim()
        await holder.complete(batch, failing(batch, {2: error}))
        await scene.execute("UPDATE src SET v = 'touched' WHERE id = 2")

    assert await scene.issues() == [("2", "superseded", "ValueError"), ("2", "open", "KeyError")]


async def test_a_quarantined_row_is_marked_in_the_source_where_the_job_says_how(scene: Scene) -> None:
    await scene.fill(5)
    source = await scene.source(failed="status = 'failed', v = 'see etl quarantine' -- for people")
    holder = await scene.run(source=source)
    batch = await holder.must_claim()

    counts = await holder.complete(batch, failing(batch, dict.fromkeys((2, 4), ValueError("no"))))

    assert counted(counts) == {"claimed": 5, "written": 3, "quarantined": 2}
    assert await scene.fetch("SELECT id, status FROM src WHERE status <> 'done' ORDER BY id") == [
        (2, "failed"),
        (4, "failed"),
    ]
    await scene.execute("UPDATE src SET status = 'pending' WHERE id = 4")
    assert await (await scene.run(source=source)).drain() == [4]


async def test_a_failed_that_leaves_the_row_pending_is_refused_and_rolled_back(scene: Scene) -> None:
    await scene.fill(5)
    holder = await scene.run(source=await scene.source(failed="v = 'failed'"))
    batch = await holder.must_claim()

    with pytest.raises(ConfigurationError, match="failed: leaves the row pending"):
        await holder.complete(batch, failing(batch, {2: ValueError("no")}))

    await _untouched(scene, 5)
    assert await scene.issues() == []


async def test_quarantining_never_fails(scene: Scene, db: Any) -> None:
    """Not for a mark that is refused or swallowed, a row of 10 MB, types the driver does not know, or hostile errors."""
    await scene.execute("""
        CREATE TYPE mood AS ENUM ('sad'); CREATE DOMAIN even AS int CHECK (VALUE % 2 = 0);
        CREATE TYPE pair AS (a int, b text)""")
    await scene.fill(8)
    await scene.execute("""
        ALTER TABLE src ADD weird_1 tsvector DEFAULT 'a:1', ADD weird_2 int4range DEFAULT '[1,)', ADD weird_3 pair
            DEFAULT (1, 'x'), ADD weird_4 mood[] DEFAULT '{sad}', ADD weird_5 even DEFAULT 4, ADD weird_6 money DEFAULT 1,
            ADD weird_7 float8 DEFAULT 'NaN', ADD weird_8 timestamptz DEFAULT '-infinity', ADD weird_9 bit(3)
            DEFAULT '101', ADD weird_10 interval DEFAULT '1 mon', ADD weird_11 bytea DEFAULT '\\x00ff', ADD weird_12 xid
            DEFAULT '5', ADD weird_13 point DEFAULT '(1,2)', ADD weird_14 xml, ADD weird_15 cidr DEFAULT '10.0.0.0/8';
        UPDATE src SET v = repeat('x', 10 * 1024 * 1024) WHERE id = 3;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.id = 4 THEN RAISE 'no marks here'; ELSIF NEW.id = 5 THEN RETURN NULL; END IF; RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON src FOR EACH ROW WHEN (NEW.status = 'failed') EXECUTE FUNCTION refuse()""")
    errors = {2: UnspeakableError(), 3: ValueError("\0 \ud800 " + "m" * 100_000), 4: KeyError("a"), 5: KeyError("b"),
              6: ExceptionGroup("g", [ValueError(1)]), 7: RecursionError()}  # fmt: skip
    source = await scene.source(failed="status = 'failed'")
    holder = await scene.run(source=source)
    batch = await holder.must_claim()

    async with db.transaction():
        await db.execute("SELECT FROM src WHERE id = 7 FOR SHARE")
        counts = await holder.complete(batch, failing(batch, errors))

    assert counted(counts) == {"claimed": 8, "written": 2, "quarantined": 6}
    assert await scene.fetch("SELECT id, status FROM src WHERE id BETWEEN 2 AND 7 ORDER BY 1") == [
        (2, "failed"), (3, "failed"), (4, "pending"), (5, "pending"), (6, "failed"), (7, "pending"),
    ]  # fmt: skip
    assert await (await scene.run(source=source)).drain() == []
    sizes = await scene.fetch("SELECT length(payload::text || message || traceback) FROM etl.row_issue ORDER BY key")
    assert all(0 < size < 100_000 for size in sizes), sizes


# Replay


def _application(database: Database) -> Application:
    return Application(Settings(lease=PATIENT), database, NoTracing())


async def test_a_replay_takes_quarantined_rows_and_nothing_else(scene: Scene, database: Database) -> None:
    """Also rows that were marked as failed, and not those whose row is gone."""
    await scene.fill(10)
    broken = {2, 4, 6, 8}

    @processor(inline=True)
    def touchy(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] in broken:
            raise KeyError(row["id"]) if row["id"] == 8 else ValueError(row["id"])
        return {"id": row["id"], "v": row["v"]}

    source = BatchProcessingSource(
        "src", pending="status = 'pending'", done="status = 'done'", failed="status = 'failed'", batch_size=4
    )
    job = Pipeline("job", source, touchy, PostgresSink("dst"))
    application = _application(database)
    await application.run_job(job, HandControls())
    await scene.add(11, 12)
    await scene.execute("DELETE FROM src WHERE id = 4")
    broken -= {2, 8}

    replayed = await application.replay(job, HandControls(), error="ValueError", run_id=None)

    assert (replayed.taken, replayed.gone) == (2, 1)
    assert isinstance(replayed.run, Run)
    assert (replayed.run.counts.written, replayed.run.counts.quarantined) == (1, 1)
    assert await scene.results() == [1, 2, 3, 5, 7, 9, 10]
    assert await scene.pending() == [11, 12]
    assert await scene.issues() == [
        ("2", "resolved", "ValueError"), ("4", "gone", "ValueError"), ("6", "superseded", "ValueError"),
        ("8", "open", "KeyError"), ("6", "open", "ValueError"),
    ]  # fmt: skip


async def test_a_replay_of_rows_that_changed_takes_them_as_they_are_now(scene: Scene, database: Database) -> None:
    await scene.fill(3)

    @processor(inline=True)
    def touchy(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if row["v"] == "x2":
            raise ValueError
        return {"id": row["id"], "v": row["v"]}

    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'")
    job = Pipeline("job", source, touchy, PostgresSink("dst"))
    application = _application(database)
    await application.run_job(job, HandControls())
    await scene.execute("UPDATE src SET v = 'repaired' WHERE id = 2")

    replayed = await application.replay(job, HandControls(), error=None, run_id=None)

    assert replayed.taken == 1
    assert await scene.fetch("SELECT v FROM dst ORDER BY id") == ["x1", "repaired", "x3"]
    assert await scene.pending() == []


async def test_a_replay_leaves_alone_what_somebody_else_has_handled_since(scene: Scene, database: Database) -> None:
    """Two jobs on one table share its rows: what the other one did meanwhile is not done again."""
    await scene.fill(4)

    @processor(inline=True)
    def touchy(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if context.job == "job" and row["id"] in (2, 3):
            raise ValueError
        return {"id": row["id"], "v": context.job}

    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'")
    job, other = (Pipeline(name, source, touchy, PostgresSink("dst")) for name in ("job", "other"))
    application = _application(database)
    await application.run_job(job, HandControls())
    await scene.execute("UPDATE src SET status = 'done' WHERE id = 3")
    await application.run_job(other, HandControls())

    replayed = await application.replay(job, HandControls(), error=None, run_id=None)

    assert (replayed.taken, replayed.gone) == (0, 2)
    assert await scene.fetch("SELECT v FROM dst ORDER BY id") == ["job", "other", "job"]
    assert [("2", "resolved", "ValueError"), ("3", "resolved", "ValueError")] == await scene.issues()


@pytest.mark.parametrize(("share", "state"), [("50%", RunState.partial), ("49%", RunState.failed)])
async def test_a_share_of_few_rows_is_judged_at_the_end_of_the_run(
    scene: Scene, database: Database, share: str, state: RunState
) -> None:
    """Before that, a share of very few rows says nothing."""
    await scene.fill(20)

    @processor(inline=True)
    def touchy(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] % 2:
            raise ValueError
        return {"id": row["id"], "v": row["v"]}

    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'", batch_size=4)
    job = Pipeline("job", source, touchy, PostgresSink("dst"), max_quarantined=share)

    run = await _application(database).run_job(job, HandControls())

    assert isinstance(run, Run)
    assert (run.state, run.counts.written, run.counts.quarantined) == (state, 10, 10)
    assert (run.error_type == "TooManyQuarantinedError") is (state is RunState.failed)


async def test_events_are_quarantined_and_replayed_as_they_were_brought(scene: Scene, database: Database) -> None:
    """They have no row to look at again; an event that JSON cannot hold exactly stays in quarantine."""
    await scene.execute("CREATE TABLE dst (id bigint, v text)")
    broken = {2, 3}

    class Numbers(TriggerSource):
        async def cycle(self, *args: Any, **kwargs: Any) -> None:
            await self.pipeline.ready()
            await self.pipeline.process({"id": 1}, {"id": 2}, {"id": 3, "when": datetime(2024, 1, 1)})

    @processor(inline=True)
    def touchy(context: Context, event: dict[str, Any]) -> dict[str, Any]:
        if event["id"] in broken:
            raise ValueError(event["id"])
        return {"id": event["id"], "v": str(sorted(event))}

    job = Pipeline("job", Numbers(), touchy, PostgresSink("dst"))
    application = _application(database)
    first = await application.run_job(job, HandControls())
    broken.clear()

    replayed = await application.replay(job, HandControls(), error=None, run_id=None)

    assert isinstance(first, Run)
    assert counted(first.counts) == {"claimed": 3, "written": 1, "quarantined": 2}
    assert replayed.taken == 1
    assert await scene.results() == [1, 2]
    assert await scene.fetch("SELECT state, exact FROM etl.row_issue ORDER BY issue_id") == [
        ("resolved", True),
        ("open", False),
    ]


# Rows that go on by themselves


async def test_rows_in_retry_do_not_hold_up_their_neighbours(
    scene: Scene, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call of rows 3 and 4 returns only after everybody else's results can be seen."""
    monkeypatch.setattr(driven, "STRAGGLER_SECONDS", 0.01)
    await scene.fill(10)

    async def neighbours_written() -> bool:
        return await scene.results() == [1, 2, 5, 6, 7, 8, 9, 10]

    @processor(retry=Retry(attempts=2, delay=0.01))
    async def touchy(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] in (3, 4):
            if context.attempt == 1:
                raise TimeoutError
            await eventually(neighbours_written)
            await scene.check()
            if row["id"] == 4:
                raise TimeoutError
        return {"id": row["id"], "v": row["v"]}

    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'", batch_size=10)
    run = await _application(database).run_job(Pipeline("job", source, touchy, PostgresSink("dst")), HandControls())

    assert isinstance(run, Run)
    assert counted(run.counts) == {"claimed": 10, "written": 9, "quarantined": 1}
    assert run.counts.retried == 2
    assert await scene.fetch("SELECT claimed, written, lo, hi FROM etl.batch ORDER BY number") == [
        (8, 8, ["1"], ["10"]),
        (2, 1, ["3"], ["4"]),
    ]


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
async def test_rows_that_go_on_by_themselves_change_hands_in_the_transaction_that_completes_the_others(
    scene: Scene, where: Where, cut: Cut
) -> None:
    """Not a moment without a reservation, and once, whatever became of the COMMIT."""
    await scene.fill(10)
    async with faulty(where) as (proxy, database):
        holder = await scene.run(database=database)
        batch = await holder.must_claim()
        settled = batch.part([0, 1, 4, 5, 6, 7, 8, 9], batch.token, batch.number)
        carry = batch.part([2, 3], uuid4(), holder.claims.next_number())
        lost = proxy.cut(cut, at="^COMMIT")

        others = await holder.complete(settled, carry=carry)

        assert lost.fired
        assert counted(others) == {"claimed": 8, "written": 8}
        assert await scene.batches() == [("done", 8), ("open", 2)]
        assert await (await scene.run()).drain() == []
        assert counted(await holder.complete(carry)) == {"claimed": 2, "written": 2}
        assert counted((await holder.end()).counts) == {"claimed": 10, "written": 10}
    assert await scene.results() == [*range(1, 11)]
