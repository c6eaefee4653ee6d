"""The statements that tell how many rows of a user's table wait, and since when, without surprise to a large one."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from etl.core.table import Column
from etl.postgres.keyed_table import KeyedTable


@dataclass(frozen=True)
class WaitingRows(KeyedTable):
    """A table of which some rows are pending. `since`: the column that says since when one is.

    `estimable`: the server has statistics that tell how many are.
    """

    since: Column | None = field(default=None, kw_only=True)

    # Settings of the transactions that select rows. A table that was never analysed looks to the server as if next to
    # nothing were pending: it would fetch and sort all that is, for each claim, instead of walking along the key's
    # index and stopping after a batch.
    planning: ClassVar[str] = "SET LOCAL enable_sort = off"
    # Claims also ask for each row whether it is set aside, by a plan made when there were few issues and kept: reading
    # all of them would seem cheapest.
    claiming: ClassVar[str] = f"{planning}; SET LOCAL enable_seqscan = off"

    estimable: ClassVar[bool] = True

    @property
    def _left(self) -> str:
        """The condition under which a row waits for work."""
        raise NotImplementedError

    def _of_waiting(self, what: str, also: str = "") -> str:
        """-> an aggregate of the rows that are pending; `also`: what else is asked of them (` AND ...`)."""
        return f"SELECT {what} FROM {self._table} WHERE {self._left}{also}"

    @cached_property
    def backlog(self) -> str:
        """-> how many rows are pending."""
        return self._of_waiting("count(*)")

    @cached_property
    def oldest(self) -> str | None:
        """-> since when the row waits that has waited longest, by `since`; or null. None: no column says that.

        The first entry of an index on the column can answer it. A time that is not finite says nothing.
        """
        if self.since is None:
            return None
        value = self._column(self.since)
        return f"SELECT ({self._of_waiting(f'min({value})', f' AND isfinite({value})')})::timestamptz"

    @cached_property
    def oldest_at_work(self) -> str | None:
        """$1 job, $2 source -> the same without rows that the job has set aside. No index answers that."""
        if self.since is None:
            return None
        value = self._column(self.since)
        aside = f"""EXISTS (
       SELECT 1 FROM etl.row_issue AS "etl:issue"
        WHERE "etl:issue".job = $1 AND "etl:issue".source = $2 AND "etl:issue".held
          AND "etl:issue".key = {self._issue_key_json} AND "etl:issue".state = 'open'
          AND "etl:issue".version = {self._alias}.xmin::text)"""
        least = f"min({value}) FILTER (WHERE isfinite({value}) AND NOT {aside})"
        return f"SELECT ({self._of_waiting(least)})::timestamptz"

    @cached_property
    def waiting(self) -> str:
        """-> 1 for each row that is pending."""
        return f"SELECT 1 FROM {self._table} WHERE {self._left}"

    @cached_property
    def first_in_line(self) -> str:
        """$1 how many to count at most -> rows, oldest_at: of the first in line, where rows are ordered by a time and
        `since` does not tell better."""
        return f"""
SELECT count(*) AS rows, {self._first} AS oldest_at
  FROM (
{self.waiting}
 LIMIT $1) AS "etl:waiting"
"""

    @property
    def tells_time(self) -> bool:
        """Whether it is known since when rows wait: by `since`, or by the moment that they are ordered by."""
        return self.since is not None or self._time is not None

    @property
    def _first(self) -> str:
        if (column := self._time) is None or self.since is not None:
            return "NULL::timestamptz"
        order = ", ".join(self._column(each) for each in self.key)
        return f"(SELECT {self._column(column)} FROM {self._table} WHERE {self._left} ORDER BY {order} LIMIT 1)"

    @property
    def _time(self) -> Column | None:
        """The first column by which rows are ordered, if that is a moment."""
        first = self.key[0]
        return first if first.base == "timestamptz" else None
