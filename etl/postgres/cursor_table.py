"""A source whose table is only read, and only ever added to: a cursor over the transactions that wrote its rows.

The key is the transaction's id and then the row's own key. A row whose transaction id lies below the oldest one still
running (the horizon) is committed, and no other will ever appear there: up to the horizon the table stands still. So
what is done need not be known row by row: it is a range of keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from etl.core.table import Column
from etl.postgres.keyed_table import HANDLED, ORDINAL, quote_literal
from etl.postgres.user_table import UserTable


@dataclass(frozen=True)
class CursorTable(UserTable):
    """`key` begins with the transaction id's column.

    The range of a batch begins after `lo` (null: at the beginning) and ends with `hi`. It covers what lies between
    its rows and the neighbouring ranges as well, so that ranges join without a gap.
    """

    estimable: ClassVar[bool] = False  # where in the table the cursor is, it cannot know

    @property
    def by_range(self) -> bool:
        """A replay takes single rows, in ranges that are covered already."""
        return not self.replay

    @property
    def row_key(self) -> tuple[Column, ...]:
        """Without the transaction's id, unless that is part of the table's own key."""
        own = self.key[1:]
        names = {column.name for column in own}
        return own if any(set(unique) == names for unique in self.table.keys) else self.key

    @property
    def cursor(self) -> Column:
        """The column with the transaction's id."""
        return self.key[0]

    @cached_property
    def outlook(self) -> str:
        """-> transaction of the newest row (or null), transaction that the cursor has come to (or null), horizon, next
        transaction; all seen at the same moment."""
        return f"""
SELECT ({self.newest}) AS newest, ({self._covered("(upto ->> 0)::xid8")}) AS reached,
       pg_snapshot_xmin(snapshot) AS horizon, pg_snapshot_xmax(snapshot) AS next
  FROM pg_current_snapshot() AS snapshot
"""

    @property
    def newest(self) -> str:
        """-> transaction of the newest row, by one descent of the index that claims go by."""
        return f"SELECT {self._column(self.cursor)} FROM {self._table} ORDER BY {self._order(' DESC')} LIMIT 1"

    @cached_property
    def sweep_end(self) -> str:
        """The last key below the horizon, whether its row is pending or not, unless the cursor has come to it."""
        if self.replay:
            return super().sweep_end
        found = '"etl:last"'
        return f"""
SELECT {found}.key
  FROM (SELECT {self._key_json} AS key
          FROM {self._table}
         WHERE {self._column(self.cursor)} < pg_snapshot_xmin(pg_current_snapshot())
         ORDER BY {self._order(" DESC")}
         LIMIT 1) AS {found}
  LEFT JOIN ({self._covered("upto")}) AS c ON true
 WHERE c.upto IS NULL OR {self._key_of_json(f"{found}.key")} > {self._key_of_json("c.upto")}"""

    @property
    def _position(self) -> str:
        return f"({self._covered('upto')})"

    def _covered(self, what: str) -> str:
        """How far it has come without a gap."""
        return f"SELECT {what} FROM etl.covered WHERE source = {quote_literal(self.name)} AND after IS NULL"

    def _reserved(self, which: str = "") -> str:
        """Stretches that are covered or in somebody's hands, between $4 and $6 (the sweep's end), with whether each
        reaches the end; what began before $4 begins there. Replayed rows lie in ranges that are covered."""
        if self.replay:
            return super()._reserved(" AND b.replay")
        after, last = self._key_of_json("$4::jsonb"), self._key_of_json("$6::jsonb")
        lo, hi = self._key_of_json("s.lo"), self._key_of_json("s.hi")
        later = f"s.lo IS NOT NULL AND ($4::jsonb IS NULL OR {lo} > {after})"
        begins = ", ".join(f"{part} NULLS FIRST" for part in self._parts_of_json("s.lo"))
        return f"""
       ARRAY(SELECT jsonb_build_array(
                        CASE WHEN {later} THEN s.lo ELSE $4::jsonb END, s.hi, {hi} >= {last})
               FROM (SELECT c.after AS lo, c.upto AS hi FROM etl.covered c WHERE c.source = $2 AND c.upto IS NOT NULL
                      UNION ALL
                     SELECT b.lo, b.hi FROM etl.batch b
                      WHERE b.source = $2 AND b.state IN ('open', 'expired') AND NOT b.replay) AS s
              WHERE ($4::jsonb IS NULL OR {hi} > {after}) AND (s.lo IS NULL OR {lo} < {last})
              ORDER BY {begins})"""

    def _of_waiting(self, what: str, also: str = "") -> str:
        """Rows wait that lie after what is covered without a gap."""
        later = f" AND {self._own_row} > (SELECT {', '.join(self._parts_of_json('upto'))} FROM reached)"
        return f"""
WITH reached AS MATERIALIZED ({self._covered("upto")} AND upto IS NOT NULL)
SELECT CASE WHEN EXISTS (SELECT 1 FROM reached)
            THEN ({super()._of_waiting(what, also + later)})
            ELSE ({super()._of_waiting(what, also)}) END
"""

    @cached_property
    def waiting(self) -> str:
        """-> 1 for each of them."""
        reached = f"{self._covered('1')} AND upto IS NOT NULL"
        upto = f"SELECT {', '.join(self._parts_of_json('upto'))} FROM etl.covered"
        covered = f"WHERE source = {quote_literal(self.name)} AND after IS NULL AND upto IS NOT NULL"
        return f"""
SELECT 1 FROM {self._table} WHERE {self._left} AND {self._own_row} > ({upto} {covered})
 UNION ALL
SELECT 1 FROM {self._table} WHERE {self._left} AND NOT EXISTS ({reached})"""

    @cached_property
    def complete(self) -> str:
        """Marks nothing: tells which rows are there still. The batch's range says that they are done."""
        pending = "" if self.replay else f"\n   AND {self._left}"
        return f"""
WITH {HANDLED} AS (
    SELECT {HANDLED}.{ORDINAL} - 1 AS position
      FROM {self._handled()}
      JOIN {self._table} ON {self._matches}
       AND {self._within}{pending}
)
SELECT count(*), false,
       CASE WHEN count(*) < {self._how_many} THEN coalesce(jsonb_agg(position), '[]') END
  FROM {HANDLED}
"""

    @property
    def unmarked(self) -> str | None:
        """A row that is gone, or has come back under another transaction, is not marked."""
        return None

    @property
    def lockable(self) -> str | None:
        """Nothing is written to the rows, so nobody's lock is in the way."""
        return None

    @property
    def _matches(self) -> str:
        """By key alone: the cursor passes the row, so a change that leaves its transaction id alone does not count."""
        return self._same_key
