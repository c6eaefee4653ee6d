"""A source whose table is only read: the rows that were processed are written down in `etl.processed`.

The key's text stands for a row there, so that one table serves every source; a probe of its primary key costs about
as much as reading the row. Rows that are done are passed again by each sweep, so a claim looks at a limited number of
rows in one go, and its plan is fixed: along the user's key, one probe for each row. (OFFSET 0 keeps a probe from
becoming a join: a server without statistics would join by the source alone and compare each row with every entry.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from etl.core.table import Column, quote_identifier
from etl.postgres.keyed_table import HANDLED, ORDINAL, quote_literal
from etl.postgres.user_table import MARKED, UserTable

# Rows that one transaction of a claim looks at: tens of milliseconds.
STEP = 10_000

_PROCESSED = '"etl:processed"'


@dataclass(frozen=True)
class LedgerTable(UserTable):
    """`changed`: the column whose value says whether a row has changed since it was processed; None: once is enough."""

    changed: Column | None = None

    estimable: ClassVar[bool] = False  # how many of the rows are in the ledger, it cannot know
    planning: ClassVar[str] = f"{UserTable.planning}; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off"
    claiming: ClassVar[str] = planning

    @cached_property
    def sweep_end(self) -> str:
        """The last key in question, done or not: to find the last one that is not done could mean to look at all."""
        if self.replay:
            return super().sweep_end
        return f"""
SELECT {self._key_json} FROM {self._table}
 WHERE (
{self.pending}
)
 ORDER BY {self._order(" DESC")} LIMIT 1"""

    def next_rows(self, *, after: bool, before: bool, most_bytes: int | None = None) -> str:
        """Looks at `STEP` rows at most, and answers with those that are not done."""
        if self.replay:
            return super().next_rows(after=after, before=before, most_bytes=most_bytes)
        changed = [] if self.changed is None else [self.changed.name]
        wanted = dict.fromkeys([*(column.name for column in self.key), *self.columns, *changed])
        columns = ", ".join([f"{self._alias}.xmin", *(f"{self._alias}.{quote_identifier(name)}" for name in wanted)])
        found = f"""(
       SELECT {columns}
         FROM {self._table}
        WHERE (
{self.pending}
){self._limits(5, after=after, before=before)}
        ORDER BY {self._order()}
        LIMIT {STEP}) AS {self._alias}
 WHERE {self._not_processed}{self._not_held}"""
        return self._select(found, most_bytes)

    def reach(self, *, after: bool, before: bool) -> str | None:
        """The key of the last of `STEP` rows."""
        if self.replay:
            return None
        return f"""
SELECT {self._key_json}
  FROM {self._table}
 WHERE (
{self.pending}
){self._limits(1, after=after, before=before)}
 ORDER BY {self._order()}
OFFSET {STEP - 1} LIMIT 1
"""

    @cached_property
    def complete(self) -> str:
        """Writes into the ledger in place of the row; a row that is in it already was not marked."""
        pending = "" if self.replay else f"\n   AND (\n{self.pending}\n)"
        version = "NULL" if self.changed is None else f"{self._column(self.changed)}::text"
        again = "NOTHING"
        if self.changed is not None:
            again = (
                f"UPDATE SET version = excluded.version\n WHERE {_PROCESSED}.version IS DISTINCT FROM excluded.version"
            )
        return f"""
WITH {HANDLED} AS MATERIALIZED (
    SELECT {HANDLED}.{ORDINAL} - 1 AS position, {self._key_text} AS key, {version} AS version
      FROM {self._handled()}
      JOIN {self._table} ON {self._matches}
       AND {self._within}{pending}
), {MARKED} AS (
    INSERT INTO etl.processed AS {_PROCESSED} (source_id, key, version)
    SELECT {self._source_id}, key, version
      FROM {HANDLED}
        ON CONFLICT (source_id, key) DO {again}
 RETURNING key
)
SELECT count(*), false,
       CASE WHEN count(*) < {self._how_many} THEN ARRAY(
           SELECT position FROM {HANDLED} WHERE key IN (SELECT key FROM {MARKED})) END
  FROM {MARKED}
"""

    @property
    def lockable(self) -> str | None:
        """Nothing is written to the rows, so nobody's lock is in the way."""
        return None

    @cached_property
    def forget_gone(self) -> str:
        """$1 key's text to look after (or null), $2 how many to look at -> (last key's text or null, how many entries
        were dropped): entries of rows that do not exist any more."""
        exists = " AND ".join(
            f"{self._column(column)} = {part}" for column, part in zip(self.key, self._parts_of_text, strict=True)
        )
        return f"""
WITH looked_at AS MATERIALIZED (
    SELECT key FROM etl.processed
     WHERE source_id = {self._source_id} AND ($1::text IS NULL OR key > $1 COLLATE "C")
     ORDER BY key
     LIMIT $2
), dropped AS (
    DELETE FROM etl.processed AS {_PROCESSED}
     USING looked_at
     WHERE {_PROCESSED}.source_id = {self._source_id} AND {_PROCESSED}.key = looked_at.key
       AND NOT EXISTS (SELECT 1 FROM {self._table} WHERE {exists} OFFSET 0)
 RETURNING 1
)
SELECT (SELECT max(key) FROM looked_at), (SELECT count(*) FROM dropped)
"""

    @property
    def _left(self) -> str:
        return f"((\n{self.pending}\n) AND {self._not_processed})"

    @property
    def _not_processed(self) -> str:
        same = (
            ""
            if self.changed is None
            else (f"\n          AND {_PROCESSED}.version IS NOT DISTINCT FROM {self._column(self.changed)}::text")
        )
        return f"""NOT EXISTS (
       SELECT 1 FROM etl.processed AS {_PROCESSED}
        WHERE {_PROCESSED}.source_id = {self._source_id} AND {_PROCESSED}.key = {self._key_text}{same} OFFSET 0)"""

    @property
    def _source_id(self) -> str:
        return f"(SELECT source_id FROM etl.source_cursor WHERE source = {quote_literal(self.name)})"

    @property
    def _key_text(self) -> str:
        text = f"{self._column(self.key[0])}::text" if len(self.key) == 1 else f"{self._key_json}::text"
        return f'({text}) COLLATE "C"'

    @property
    def _parts_of_text(self) -> list[str]:
        if len(self.key) > 1:
            return self._parts_of_json("looked_at.key::jsonb")
        column = self.key[0]
        return [f"looked_at.key::{column.type}" + (f" COLLATE {column.collation}" if column.collation else "")]

    def _limits(self, number: int, *, after: bool, before: bool) -> str:
        return "".join(f"\n          AND {bound}" for bound in self._bounds(number, after=after, before=before))
