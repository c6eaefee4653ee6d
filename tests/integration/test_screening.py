"""Rows that the sink's table refuses are found before their batch is tried; and nothing else comes out than without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import uuid4

import asyncpg
import pytest

from etl.core.batch import Batch, Failure, Processed, Turn, now
from etl.errors import RunLostError
from etl.postgres import at_once, screening
from etl.postgres.database import Database
from tests.conftest import Where
from tests.faults import Cut
from tests.protocol import Holder, Scene, counted, faulty, ids, open_scene

ROWS, SIZE = 30, 10  # three batches

Result = Callable[[int], Any]


@pytest.fixture
def sent(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that stood alone."""
    seen: list[str] = []
    send = database.single

    async def single(sql: str, *parameters: Any, timeout: timedelta | None = None) -> list[asyncpg.Record]:
        seen.append(sql)
        return await send(sql, *parameters, timeout=timeout)

    monkeypatch.setattr(database, "single", single)
    return seen


@pytest.fixture
async def scene(where: Where, database: Database, sent: list[str]) -> AsyncIterator[Scene]:
    async with open_scene(where, database) as opened:
        await opened.fill(ROWS)
        yield opened


@pytest.fixture
def unscreened(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Go on as if there were no screen."""

    async def nothing(*_: object) -> dict[int, Failure]:
        return {}

    return lambda: monkeypatch.setattr(at_once, "screened", nothing)


def processed_by(batch: Batch, result: Result) -> Processed:
    """What a processor makes of the rows by their keys: a result, a list of them, None, or an exception."""
    processed, outputs = Processed(), []
    for position, key in enumerate(ids(batch)):
        made = result(key)
        if made is None:
            processed.filtered.append(position)
        elif isinstance(made, BaseException):
            processed.failures[position] = Failure.of("process", made)
        else:
            outputs += [(position, one) for one in (made if isinstance(made, list) else [made])]
    processed.outputs = outputs
    return processed


class Tries(NamedTuple):
    """What was sent for a batch: tries to complete it, searches for rows, rows tried by themselves."""

    whole: int
    searches: int = 0
    trials: int = 0

    @classmethod
    def of(cls, sent: list[str]) -> Tries:
        return cls(*(sum(mark in sql for sql in sent) for mark in ('"etl:fence"', 'AS "etl:rows"', '"etl:trial"')))


async def one_batch(holder: Holder, result: Result, turn: Turn = now) -> dict[str, int] | None:
    """Claim and complete the next batch; what became of its rows."""
    if (batch := await holder.claims.next(uuid4(), SIZE)) is None:
        return None
    processed = processed_by(batch, result)
    return counted(await holder.claims.complete(batch, processed, lambda _: None, turn=turn))


async def run_through(holder: Holder, result: Result, sent: list[str]) -> tuple[list[dict[str, int]], list[Tries]]:
    """Claim and complete all there is: the counts and the tries of each batch."""
    counts, tries = [], []
    sent.clear()
    while (done := await one_batch(holder, result)) is not None:
        counts.append(done)
        tries.append(Tries.of(sent))
        sent.clear()
    await holder.end()
    return counts, tries


@dataclass(frozen=True)
class Case:
    """A sink, what is to go there, and how often each batch is to be tried. `pieces`: without the screen the rows would
    be found in a transaction, by another call of the driver."""

    ddl: str
    result: Result
    tries: tuple[int, ...] = (2, 1, 1)
    key: str | None = None
    failed: str | None = None
    pieces: bool = False


def last(good: Any, bad: Any) -> Result:
    """`n` of the last row of each batch is another than that of the others."""
    return lambda n: {"id": n, "n": good if n % SIZE else bad}


_N = "id bigint, n bigint CHECK (n > 0)"
CASES = {
    "a document": Case("id bigint PRIMARY KEY, n jsonb CHECK (NOT n ? 'poison')", last({"a": 1}, {"poison": 1})),
    "names that must be quoted": Case(
        """id bigint, "order" bigint, "A ""b"" %s {} $1" text CHECK ("A ""b"" %s {} $1" <> 'x' OR "order" > 0)""",
        lambda n: {"id": n, "order": 0, 'A "b" %s {} $1': "y" if n % SIZE else "x"},
    ),
    "null passes": Case(_N, last(None, -1)),
    "null does not pass": Case("id bigint, n bigint NOT NULL", last(1, None)),
    "what is rounded": Case(
        "id bigint, n numeric(5, 2) CHECK (n > 0 AND n <= 2)", last(Decimal("2.004"), Decimal("0.004"))
    ),
    "what is rounded, or null": Case(
        "id bigint, n numeric(5, 2) NOT NULL CHECK (n > 0 AND n <= 2)",
        lambda n: {"id": n, "n": {1: Decimal("0.004"), 0: None}.get(n % SIZE, Decimal("2.004"))},
        (3, 1, 1),
    ),
    "what is padded": Case(
        "id bigint, n char(3) CHECK (octet_length(n) = 3 AND n <> 'no')", last("y", "no"), (1, 1, 1), pieces=True
    ),
    "a domain": Case("id bigint, n positive", last(1, -1), (1, 1, 1)),
    "a column of a domain": Case("id bigint, n whole CHECK (n > 0)", last(1, -1)),
    "an enum": Case("id bigint, n mood CHECK (n <> 'sad')", last("happy", "sad")),
    "two constraints": Case(
        "id bigint, a bigint CHECK (a > 0), b bigint CHECK (b > 0)",
        lambda n: {"id": n, "a": n % SIZE or -1, "b": -1 if n % SIZE in (0, 1) else 1},
        (3, 1, 1),
    ),
    "several results": Case(
        "id bigint, part bigint CHECK (part <> 3), PRIMARY KEY (id, part)",
        lambda n: [{"id": n, "part": part} for part in (0, 1, *((4, 3) if n % SIZE == 5 else ()))],
    ),
    "filtered and failed rows": Case(
        _N, lambda n: {7: None, 8: ValueError("no"), 9: {"id": n, "n": -1}}.get(n % SIZE, {"id": n, "n": n})
    ),
    "an upsert": Case(
        "id bigint PRIMARY KEY, n bigint CHECK (n > 0)", lambda n: {"id": n % 15, "n": n % SIZE or -1}, key="id"
    ),
    "an upsert of what comes twice": Case(  # the last one is written, so the one before it is not refused
        "id bigint PRIMARY KEY, n bigint CHECK (n > 0)",
        lambda n: {"id": (n + 1) // 2, "n": -1 if n % SIZE in (0, 3) else n},
        (2, 2, 2),
        key="id",
    ),
    "an upsert whose keys only the server compares": Case(
        "id numeric PRIMARY KEY, n bigint CHECK (n > 0)", last(1, -1), (2, 2, 2), key="id"
    ),
    "partitions": Case(  # what one of them demands besides is not known of the whole
        f"{_N}) PARTITION BY RANGE (id);"
        " CREATE TABLE sink_1 PARTITION OF sink FOR VALUES FROM (0) TO (15);"
        " CREATE TABLE sink_2 PARTITION OF sink (CHECK (id <> 25)) FOR VALUES FROM (15) TO (100",
        last(1, -1),
        (2, 1, 2),
    ),
    "a default": Case("id bigint, n bigint, least bigint DEFAULT 3 CHECK (n > least)", last(5, 1), (2, 2, 2)),
    "the row as a whole": Case(
        "id bigint, n bigint); CREATE FUNCTION fine(sink) RETURNS bool IMMUTABLE RETURN $1.n > 0;"
        " ALTER TABLE sink ADD CHECK (fine(sink)",
        last(1, -1),
        (2, 2, 2),
    ),
    "the clock": Case(
        "id bigint, n timestamptz CHECK (n < clock_timestamp() + interval '1 hour')",
        last(datetime(2020, 1, 1, tzinfo=UTC), datetime(2222, 1, 1, tzinfo=UTC)),
        (2, 2, 2),
    ),
    "today": Case("id bigint, n date CHECK (n <= CURRENT_DATE)", last(date(2020, 1, 1), date(2222, 1, 1)), (2, 2, 2)),
    "a condition that raises": Case(  # at one row of the second batch
        "id bigint, n bigint CHECK (cautious(n))",
        lambda n: {"id": n, "n": {10: -1, 15: 13, 30: -1}.get(n, 1)},
        (2, 1, 2),
    ),
    "another reason besides": Case(
        f"{_N}, u bigint UNIQUE",
        lambda n: {"id": n, "n": n % SIZE or -1, "u": 7 if n % SIZE == 7 else n + 100},
        (2, 2, 2),
    ),
    "different columns": Case(
        _N, lambda n: {"id": n, "n": n % SIZE or -1} if n % 3 else {"id": n}, (0, 0, 0), pieces=True
    ),
    "most of them": Case(_N, lambda n: {"id": n, "n": 1 if n % SIZE == 3 else -n}, (9, 1, 1), pieces=True),
    "all of them": Case(_N, lambda n: {"id": n, "n": -n}, (9, 0, 0), pieces=True),
    "marked as failed": Case(_N, last(1, -1), (2, 1, 1), failed="status = 'failed'"),
}

_TYPES = """
CREATE DOMAIN positive AS bigint CHECK (VALUE > 0);
CREATE DOMAIN whole AS bigint;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE FUNCTION cautious(n bigint) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN IF n = 13 THEN RAISE 'not this one'; END IF; RETURN n > 0; END $$"""


async def _outcome(scene: Scene, name: str, case: Case, sent: list[str]) -> tuple[Any, list[Tries]]:
    """Everything that somebody can see of a case afterwards, and how often each batch was tried."""
    await scene.execute(f"CREATE TABLE sink ({case.ddl})")
    source = await scene.source("src", failed=case.failed)
    holder = await scene.run(name, source=source, sink="sink", sink_key=case.key, batch_size=SIZE)
    counts, tries = await run_through(holder, case.result, sent)
    issues = await scene.fetch(
        f"""SELECT key, stage, state, error_type, message, attempts, payload
                   {"" if case.pieces else ", traceback, fingerprint"}
              FROM etl.row_issue WHERE run_id = $1 ORDER BY key""",
        holder.run_id,
    )
    stages = await scene.fetch(
        "SELECT (stages -> -1) - '{busy_s,calls}'::text[] FROM etl.batch WHERE run_id = $1 ORDER BY number",
        holder.run_id,
    )
    written = await scene.fetch("SELECT s::text FROM sink AS s ORDER BY 1")
    states = await scene.fetch("SELECT status FROM src ORDER BY id")
    await scene.execute("UPDATE src SET status = 'pending'; DROP TABLE sink CASCADE")
    return {"counts": counts, "issues": issues, "stages": stages, "written": written, "states": states}, tries


async def test_nothing_else_comes_out_than_without_the_screen(
    scene: Scene, sent: list[str], unscreened: Callable[[], None]
) -> None:
    await scene.execute(_TYPES)
    screened = {name: await _outcome(scene, f"{name} 1", case, sent) for name, case in CASES.items()}
    unscreened()

    plain = {name: await _outcome(scene, f"{name} 2", case, sent) for name, case in CASES.items()}

    for name, case in CASES.items():
        assert plain[name][0] == screened[name][0], name
        assert case.tries == tuple(each.whole for each in screened[name][1]), name
        assert [(0, 0)] * 3 == [each[1:] for each in plain[name][1]]


ALL = ROWS + SIZE
_BAD = last(1, -1)
_ONE_REFUSED = {"claimed": SIZE, "written": SIZE - 1, "quarantined": 1}


@pytest.fixture
async def holder(scene: Scene) -> Holder:
    """A run that knows by its second batch what rows are refused for; two batches are left."""
    await scene.execute("CREATE TABLE sink (id bigint, n bigint CONSTRAINT positive CHECK (n > 0))")
    await scene.add(ROWS + 1, ALL)
    holder = await scene.run(sink="sink", batch_size=SIZE)
    assert [_ONE_REFUSED] * 2 == [await one_batch(holder, _BAD) for _ in range(2)]
    return holder


GOOD = [n for n in range(1, ALL + 1) if n % SIZE]


async def _sunk(scene: Scene) -> list[int]:
    return await scene.fetch("SELECT id FROM sink ORDER BY id")


async def test_a_constraint_that_was_dropped_meanwhile_keeps_no_row_back(
    scene: Scene, holder: Holder, sent: list[str]
) -> None:
    await scene.execute("ALTER TABLE sink DROP CONSTRAINT positive")

    counts, tries = await run_through(holder, _BAD, sent)

    assert [{"claimed": SIZE, "written": SIZE}] * 2 == counts
    assert sorted([*GOOD, 30, 40]) == await _sunk(scene)
    assert [Tries(1, 1, 1), Tries(1)] == tries, "and nobody looks for it any more"
    assert [(key, "open", "CheckViolationError") for key in ("10", "20")] == await scene.issues()


async def test_a_constraint_that_was_changed_meanwhile_is_found_out_anew(
    scene: Scene, holder: Holder, sent: list[str]
) -> None:
    """Its name is the same, so what is known of it is wrong; at the first doubt that is forgotten."""
    await scene.execute("ALTER TABLE sink DROP CONSTRAINT positive, ADD CONSTRAINT positive CHECK (n < 0) NOT VALID")

    counts, tries = await run_through(holder, last(-1, 1), sent)

    assert [_ONE_REFUSED] * 2 == counts
    assert [Tries(2, 1, 1), Tries(1, 1, 1)] == tries
    assert ["10", "20", "30", "40"] == [key for key, _, _ in await scene.issues()]


async def test_a_row_that_needs_one_of_the_batch_before_is_not_set_aside_for_coming_too_soon(scene: Scene) -> None:
    """A condition may call a function that looks at other rows: so far at those that the batch before has not written."""
    await scene.execute("""
        CREATE TABLE sink (id bigint, parent bigint);
        CREATE FUNCTION known(p bigint) RETURNS bool LANGUAGE sql RETURN p IS NULL OR EXISTS (SELECT FROM sink WHERE id = p);
        ALTER TABLE sink ADD CHECK (known(parent))""")
    holder = await scene.run(sink="sink", batch_size=SIZE)
    parents = {1: -1, 30: 20}

    def child(n: int) -> Any:
        return {"id": n, "parent": parents.get(n)}

    assert _ONE_REFUSED == await one_batch(holder, child)
    before = await holder.must_claim()

    async def turn() -> None:
        await holder.complete(before, processed_by(before, child))

    counts = await one_batch(holder, child, turn)

    assert counts == {"claimed": SIZE, "written": SIZE}
    assert ["1"] == [key for key, _, _ in await scene.issues()]


@pytest.mark.parametrize("dropped", [False, True])
async def test_a_row_that_is_found_is_set_aside_for_nothing_but_what_was_looked_for(
    scene: Scene, dropped: bool
) -> None:
    """Another constraint may look at rows that the batch before has not written when the row is tried by itself."""
    await scene.execute("""
        CREATE TABLE sink (id bigint, n bigint CONSTRAINT positive CHECK (n > 0), parent bigint);
        CREATE FUNCTION known(p bigint) RETURNS bool LANGUAGE sql RETURN p IS NULL OR EXISTS (SELECT FROM sink WHERE id = p);
        ALTER TABLE sink ADD CONSTRAINT a_known CHECK (known(parent))""")
    holder = await scene.run(sink="sink", batch_size=SIZE)
    await scene.add(ROWS + 1, ALL)
    parents = {ALL: ALL - 2 * SIZE + 1}

    def child(n: int) -> Any:
        return {"id": n, "n": n % SIZE or -1, "parent": parents.get(n)}

    assert [_ONE_REFUSED] * 2 == [await one_batch(holder, child) for _ in range(2)]
    before = await holder.must_claim()
    if dropped:
        await scene.execute("ALTER TABLE sink DROP CONSTRAINT positive")

    async def turn() -> None:
        await holder.complete(before, processed_by(before, child))

    counts = await one_batch(holder, child, turn)

    expected = {"claimed": SIZE, "written": SIZE} if dropped else _ONE_REFUSED
    assert counts == expected
    named = await scene.fetch("SELECT DISTINCT substring(message FROM 'constraint \"(.*?)\"') FROM etl.row_issue")
    assert ["positive"] == named


async def test_rows_are_looked_for_before_their_batch_has_its_turn(
    scene: Scene, holder: Holder, sent: list[str]
) -> None:
    """While the batch before it is being written."""
    sent.clear()
    before: list[Tries] = []

    async def turn() -> None:
        before.append(Tries.of(sent))

    await one_batch(holder, _BAD, turn)

    assert [Tries(0, 1, 1)] == before
    assert Tries(1, 1, 1) == Tries.of(sent)


async def test_of_more_rows_than_are_worth_it_none_is_tried_by_itself(
    scene: Scene, holder: Holder, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "MOST_TRIED", 2)

    counts, tries = await run_through(holder, lambda n: {"id": n, "n": -1 if n % SIZE < 3 else 1}, sent)

    assert [{"claimed": SIZE, "written": SIZE - 3, "quarantined": 3}] * 2 == counts
    assert [0, 0] == [each.trials for each in tries]
    assert [n for n in GOOD if n % SIZE > 2 or n < 2 * SIZE] == await _sunk(scene)


async def test_batches_that_are_looked_through_at_the_same_time_do_not_disturb_each_other(
    scene: Scene, holder: Holder, sent: list[str]
) -> None:
    sent.clear()

    counts = await asyncio.gather(one_batch(holder, _BAD), one_batch(holder, _BAD))

    assert [_ONE_REFUSED] * 2 == [*counts]
    assert Tries(2, 2, 2) == Tries.of(sent)
    assert await _sunk(scene) == GOOD


async def test_a_connection_that_is_lost_while_a_row_is_tried_costs_nothing(scene: Scene, where: Where) -> None:
    await scene.execute("CREATE TABLE sink (id bigint, n bigint CHECK (n > 0))")
    async with faulty(where) as (proxy, database):
        holder = await scene.run(sink="sink", batch_size=SIZE, database=database)
        assert [_ONE_REFUSED] * 2 == [await one_batch(holder, _BAD) for _ in range(2)]
        lost = proxy.cut(Cut.AFTER, at="etl:trial")

        counts = await one_batch(holder, _BAD)

        assert lost.fired
    assert counts == _ONE_REFUSED
    assert [n for n in range(1, ROWS + 1) if n % SIZE] == await _sunk(scene)
    assert ["10", "20", "30"] == [key for key, _, _ in await scene.issues()]


async def test_rows_of_a_process_that_dies_before_it_writes_what_it_has_tried_are_somebody_elses(
    scene: Scene, holder: Holder, sent: list[str]
) -> None:
    sent.clear()
    died: list[Tries] = []

    async def turn() -> None:
        if not died:
            died.append(Tries.of(sent))
            await holder.die()

    with pytest.raises(RunLostError):
        await one_batch(holder, _BAD, turn)

    assert [Tries(0, 1, 1)] == died
    assert [n for n in GOOD if n < 2 * SIZE] == await _sunk(scene)
    await run_through(await scene.run(sink="sink", batch_size=SIZE), _BAD, sent)
    assert await _sunk(scene) == GOOD
    assert ["10", "20", "30", "40"] == sorted(key for key, _, _ in await scene.issues())
