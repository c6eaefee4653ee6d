"""What poison rows cost: k of them among n are found with O(k log n) statements, wherever they lie."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from etl import PostgresSink
from etl.postgres.database import Connection, Database
from etl.postgres.resolution import resolve_sink
from tests.conftest import Where
from tests.protocol import Scene, counted, open_scene, written


class Counting(Database):
    """Counts the statements it sends, by their beginnings."""

    def __init__(self, like: Database) -> None:
        super().__init__(like.settings)
        self.sent: Counter[str] = Counter()

    @asynccontextmanager
    async def transaction(self, *, local: str = "") -> AsyncIterator[Connection]:
        def note(record: Any) -> None:
            self.sent[" ".join(record.query.split()[:3])] += 1

        async with super().transaction(local=local) as connection:
            connection.add_query_logger(note)
            try:
                yield connection
            finally:
                connection.remove_query_logger(note)


@pytest.mark.parametrize(
    ("rows", "poison"),
    [(64, [1]), (1024, [700]), (1024, [1, 2, 3, 4]), (1024, [1, 300, 600, 1024]), (1024, [*range(1, 1025, 64)])],
    ids=["one of few", "one", "four together", "four apart", "sixteen apart"],
)
async def test_poison_rows_are_found_with_few_statements(
    where: Where, database: Database, rows: int, poison: list[int]
) -> None:
    """Each poison row has at most two pieces at each of the log n levels that are tried because of it."""
    counting = Counting(database)
    await counting.open()
    try:
        async with open_scene(where, database) as scene:
            await _prepare(scene, rows, poison)
            holder = await (await scene.run(batch_size=rows)).through(counting)
            batch = await holder.must_claim(rows)
            counting.sent.clear()

            counts = await holder.complete(batch)
    finally:
        await counting.close()

    good = rows - len(poison)
    assert {"claimed": rows, "written": good, "quarantined": len(poison)} == counted(counts)
    pieces = 1 + 2 * len(poison) * math.ceil(math.log2(rows))
    assert len(poison) * 2 < counting.sent["SAVEPOINT etl_piece"] <= pieces
    assert counting.sent['INSERT INTO "public"."dst"'] <= pieces + 1, "and once the batch as a whole"
    assert sum(counting.sent.values()) <= 6 * pieces + 20


async def _prepare(scene: Scene, rows: int, poison: list[int]) -> None:
    await scene.fill(rows)
    """The table refuses them without a word about which row it was."""
    await scene.execute("CREATE TABLE poison AS SELECT unnest($1::bigint[]) AS id", poison)
    await scene.execute("""
        CREATE FUNCTION complain() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN IF EXISTS (SELECT FROM poison WHERE id = NEW.id) THEN RAISE 'not this one'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER complain BEFORE INSERT ON dst FOR EACH ROW EXECUTE FUNCTION complain()""")


@pytest.mark.parametrize(("mode", "key"), [("append", None), ("merge", "id")])
async def test_poison_rows_among_those_that_are_copied_cost_only_themselves(
    where: Where, database: Database, mode: str, key: str | None
) -> None:
    """Refused by the driver in the middle of the COPY, by the server as it reads them, and at the end of the INSERT."""
    poison = {5: 2**70, 20: "text", 21: -1, 40: 5.5}
    async with open_scene(where, database) as scene:
        await scene.fill(40)
        await scene.execute("CREATE TABLE out (id bigint PRIMARY KEY, n bigint CHECK (n >= 0), t text DEFAULT 'x')")
        writer, _ = await database.unit(lambda c: resolve_sink(c, PostgresSink("out", key, mode=mode)))
        holder = await replace(await scene.run(batch_size=40), writer=writer).through(database)
        batch = await holder.must_claim(40)

        processed = written(
            batch, result=lambda row: {"id": row["id"], "n": poison.get(row["id"], 1), "t": "\0" * (row["id"] == 30)}
        )
        counts = await holder.complete(batch, processed)

        assert {"claimed": 40, "written": 35, "quarantined": 5} == counted(counts)
        assert [("5", "ValueRefusedError"), ("20", "ValueRefusedError"), ("21", "CheckViolationError"),
                ("30", "CharacterNotInRepertoireError"), ("40", "ValueRefusedError")] == [
            (key, error) for key, _, error in await scene.issues()
        ]  # fmt: skip
        assert 35 == await scene.value("SELECT count(*) FROM out")
