"""The statements that tell how many rows of a user's table wait, without being a surprise to a large one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from etl.core.table import Column
from etl.postgres.keyed_table import KeyedTable


@dataclass(frozen=True)
class WaitingRows(KeyedTable):
    """A table of which some rows are pending. `estimable`: the server has statistics that tell how many."""

    estimable: ClassVar[bool] = True

    @property
    def _left(self) -> str:
        """The condition under which a row waits for work."""
        raise NotImplementedError

    @cached_property
    def waiting(self) -> str:
        """-> 1 for each row that is pending."""
        return f"SELECT 1 FROM {self._table} WHERE {self._left}"

    @cached_property
    def first_in_line(self) -> str:
        """$1 how many to count at most -> rows, oldest_at: of the first in line, where rows are ordered by a time."""
        return f"""
SELECT count(*) AS rows, {self._oldest} AS oldest_at
  FROM (
{self.waiting}
 LIMIT $1) AS "etl:waiting"
"""

    @property
    def tells_time(self) -> bool:
        """Whether rows are ordered by a moment, so that the first in line tells since when it waits."""
        return self._time is not None

    @property
    def _oldest(self) -> str:
        if (column := self._time) is None:
            return "NULL::timestamptz"
        order = ", ".join(self._column(each) for each in self.key)
        return f"(SELECT {self._column(column)} FROM {self._table} WHERE {self._left} ORDER BY {order} LIMIT 1)"

    @property
    def _time(self) -> Column | None:
        """The first column by which rows are ordered, if that is a moment."""
        first = self.key[0]
        return first if first.base == "timestamptz" else None
