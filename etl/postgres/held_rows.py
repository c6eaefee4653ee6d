"""Which rows of a user's table are left alone because something of them was set aside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from etl.postgres.waiting import WaitingRows

ISSUE = '"etl:issue"'


@dataclass(frozen=True)
class HeldRows(WaitingRows):
    """A table some of whose rows have an open issue, as long as nobody has touched them since."""

    @cached_property
    def settled_elsewhere(self) -> str:
        """$1 replay, $2 job, $3 source -> (issue, does its row exist?) of issues whose rows are not to be replayed."""
        exists = f"{self._column(self.key[0])} IS NOT NULL"
        return f"""
SELECT {ISSUE}.issue_id, {exists} AS exists
  FROM etl.row_issue AS {ISSUE}
  LEFT JOIN {self._table} ON {self._issue_key}
 WHERE {ISSUE}.replay_id = $1 AND {ISSUE}.job = $2 AND {ISSUE}.source = $3 AND {ISSUE}.state = 'open'
   AND NOT ({exists} AND {still_open(self._alias, self._pending_still)})
"""

    @property
    def _not_held(self) -> str:
        """Leaves out rows in quarantine that nobody has touched since, and deferred rows that are not due."""
        return f"""
   AND NOT ($1::boolean AND EXISTS (
       SELECT 1 FROM etl.row_issue AS {ISSUE}
        WHERE {ISSUE}.job = $2 AND {ISSUE}.source = $3 AND {ISSUE}.key = {self._issue_key_json} AND {ISSUE}.held
          AND ({ISSUE}.state = 'open' AND {ISSUE}.version = {self._alias}.xmin::text
               OR {ISSUE}.state = 'deferred' AND {ISSUE}.due_at > clock_timestamp())))"""

    @property
    def _issue_key(self) -> str:
        same = [f"{self._column(column)} = {part}" for column, part in self._parts_of_issue(f"{ISSUE}.key")]
        return " AND ".join(same)

    @property
    def _pending_still(self) -> str:
        return f"{self._left} IS TRUE"


def still_open(row: str, pending: str) -> str:
    """A row left as it was may have been changed since: if it is not pending any more, somebody has handled it."""
    return f"(NOT {ISSUE}.held OR {ISSUE}.version = {row}.xmin::text OR {pending})"
