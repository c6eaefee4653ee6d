"""The rows that all contenders move, always the same, and the proof that they were moved rightly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.benchmarks.bench import Connection

# The same table for all, with the columns that the hand-written loop keeps its claims in; nobody else needs them.
_SCHEMA = """
DROP TABLE IF EXISTS bench_source, bench_sink;
CREATE TABLE bench_source (id bigint PRIMARY KEY, payload jsonb NOT NULL,
                           status text NOT NULL DEFAULT 'pending', claim_token uuid, lease_until timestamptz,
                           attempts integer NOT NULL DEFAULT 0, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE bench_sink (id bigint PRIMARY KEY, payload jsonb NOT NULL{checks});
INSERT INTO bench_source (id, payload)
SELECT n, jsonb_build_object('name', 'item ' || n, 'tags', jsonb_build_array('a', 'b', 'c'), 'amount', n * 1.5,
                             'text', repeat('x', {text}))
  FROM generate_series(1, {rows}) AS n;
CREATE INDEX bench_pending ON bench_source (id) WHERE status = 'pending';
"""
# `transform`, said in SQL.
TRANSFORMED = "payload || jsonb_build_object('amount', (payload ->> 'amount')::numeric * 2, 'checked', true)"
_WRONG = f"""
SELECT (SELECT count(*) FROM bench_source WHERE status = 'pending') AS pending,
       (SELECT count(*) FROM bench_source WHERE status = 'done') AS done,
       (SELECT count(*) FROM bench_sink) AS written,
       (SELECT sum(hashtextextended(payload::text, id)) FROM bench_sink)
           IS NOT DISTINCT FROM
       (SELECT sum(hashtextextended(({TRANSFORMED})::text, id)) FROM bench_source WHERE status = 'done') AS equal
"""
_RESULTS = f"""
SELECT (SELECT count(*) FROM bench_sink),
       (SELECT sum(hashtextextended(payload::text, id)) FROM bench_sink)
           IS NOT DISTINCT FROM (SELECT sum(hashtextextended(({TRANSFORMED})::text, id)) FROM bench_source)
"""


def transform(payload: dict[str, Any]) -> dict[str, Any]:
    """The work on a row."""
    return {**payload, "amount": payload["amount"] * 2, "checked": True}


@dataclass(frozen=True, slots=True)
class Rows:
    """`count` pending rows. `text`: characters of filling each has (120: a row of about 200 bytes). `checks`:
    constraints of the sink."""

    connection: Connection
    count: int
    text: int = 120
    checks: tuple[str, ...] = ()

    async def lay(self) -> None:
        """Make both tables anew."""
        checks = "".join(f", CHECK ({each})" for each in self.checks)
        schema = _SCHEMA.format(checks=checks, text=self.text, rows=self.count)
        await self.connection.execute(schema)
        await self.connection.execute("VACUUM ANALYZE bench_source, bench_sink")

    async def verify_results(self) -> None:
        """The sink holds what it must, whatever the source says. Raises AssertionError."""
        found = await self.connection.fetchrow(_RESULTS)
        assert found is not None
        assert (self.count, True) == tuple(found), f"(written, equal): {self.count} expected, {tuple(found)} found"

    async def verify(self, *, without: int = 0) -> None:
        """Each row, but for so many, was moved once and rightly. Raises AssertionError."""
        found = await self.connection.fetchrow(_WRONG)
        expected = (without, self.count - without, self.count - without, True)
        assert found is not None
        assert expected == tuple(found), f"(pending, done, written, equal): {expected} expected, {tuple(found)} found"
