"""The statements that name a user's table: composed here and nowhere else.

Identifiers come from the catalog and are quoted; values are always parameters; keys travel as text and are cast to
the column's own type, so that the server compares them, never Python. The user's own fragments (`pending`, `done`,
`failed`, `query`) stand on lines of their own, so that a comment at their end swallows nothing, and the table goes by
its own name, so that they may qualify their columns with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from etl.core.batch import Batch
from etl.core.table import Column, quote_identifier
from etl.postgres.codecs import array_of_numbers
from etl.postgres.held_rows import ISSUE, HeldRows, still_open
from etl.postgres.keyed_table import HANDLED, ORDINAL, VERSION, Shard, as_row, quote_literal

_FEW = 1000  # issues that are looked through one by one
_PENDING = '"etl:pending"'
MARKED = '"etl:marked"'


@dataclass(frozen=True)
class UserTable(HeldRows):
    """A source table as one job sees it, resolved, with the statements on it.

    `name` is the source's identity for reservations. `wanted`: the columns to read (None: all). `replay` makes the rows
    in question those with an open issue that a replay asked for, instead of the pending ones; the first three
    parameters of what selects them are then the replay run, the job and the source. Parameters of the statements are
    named in each docstring. The first `leading` columns of the key say in which order rows come. `shards` are what the
    rows are divided into, `shard` is the one that this is about; `in_turn`: no two batches of a shard are in work at
    once. "key" stands for a JSON array of the key's parts as text, "keys" for one text array per
    key column.
    """

    name: str
    pending: str
    done: str = ""
    failed: str | None = None
    query: str | None = None
    replay: bool = False
    wanted: tuple[str, ...] | None = None
    leading: int = 0
    shards: tuple[Shard, ...] = ()
    shard: Shard | None = None
    in_turn: bool = False

    @property
    def key_signature(self) -> str:
        """What keys of this source are made of; equal for jobs whose claims can exclude each other."""
        parts = ", ".join(f"{column.name} {column.base}" for column in self.key)
        if not self.shards:
            return parts
        by = ", ".join(column.name for column in self.shards[0].columns)
        return f"{parts}; {len(self.shards)} shards by {by}{', in turn' if self.in_turn else ''}"

    @property
    def lane(self) -> str:
        """The name under which ranges are reserved: the source's, or one for each shard."""
        return self.name if self.shard is None else f"{self.name}#{self.shard.number}/{self.shard.of}"

    def _lane(self, parameter: str) -> str:
        """The same in statements that get the source's name as a parameter."""
        return parameter if self.shard is None else quote_literal(self.lane)

    @property
    def row_key(self) -> tuple[Column, ...]:
        """The key without what only orders rows."""
        return self.key[self.leading :]

    @property
    def issue_key(self) -> tuple[Column, ...]:
        """The same: it may be to change its place in the order that somebody touches a row that was set aside."""
        return self.key[self.leading :]

    @property
    def by_range(self) -> bool:
        """Whether rows are done with by the range of their batch, which then has to be completed as a whole."""
        return False

    @property
    def as_a_whole(self) -> bool:
        """Whether a batch has to be completed as a whole, without rows that go on by themselves."""
        return self.by_range or self.in_turn

    @property
    def columns(self) -> tuple[str, ...]:
        """What a claim returns besides version and key: the columns wanted, or nothing if `query` reads them."""
        if self.query is not None:
            return ()
        return tuple(self.table.columns) if self.wanted is None else self.wanted

    # What a claim needs to know, and which rows it takes

    @cached_property
    def sweep_end(self) -> str:
        """The last key in question -> (key) or no row."""
        return f"SELECT {self._key_json} FROM {self._rows_in_question(' DESC')} ORDER BY {self._order(' DESC')} LIMIT 1"

    @cached_property
    def survey(self) -> str:
        """$1 run, $2 job, $3 source -> key, position, now, reserved, issues, last, large; or no row.

        What a sweep has to know before it begins, in one statement: by what key the source is claimed, where the job's
        last sweep ended, whether ranges are reserved and rows set aside, the last key in question, and whether there
        are rows too large for a page, whose size has to be looked at.
        """
        lane = "c.source = $3" if self.shard is None else f"c.source = {self._lane('$3')} AND s.source = $3"
        return f"""
SELECT {"c" if self.shard is None else "s"}.key, {self._position} AS position, clock_timestamp() AS now,
       EXISTS (SELECT 1 FROM etl.batch b WHERE b.source = c.source AND b.state IN ('open', 'expired')) AS reserved,
       EXISTS (SELECT 1 FROM etl.row_issue i
                WHERE i.job = $2 AND i.source = $3 AND i.state IN ('open', 'deferred')) AS issues,
       ({self.sweep_end}) AS last,
       EXISTS (SELECT 1 FROM pg_catalog.pg_class r
                WHERE (r.oid = {self._regclass} OR r.oid IN (SELECT relid FROM pg_partition_tree({self._regclass})))
                  AND r.reltoastrelid <> 0 AND pg_relation_size(r.reltoastrelid) > 0) AS large
  FROM etl.source_cursor c{"" if self.shard is None else " CROSS JOIN etl.source_cursor s"}
 WHERE {lane} AND $1::uuid IS NOT NULL
"""

    @property
    def _position(self) -> str:
        return "c.positions -> $2"

    @cached_property
    def claim_state(self) -> str:
        """$1 token, $2 source, $3 job, $4 key to look after (or null), $5 a run whose own issues do not count, as long
        as they are few (or null) -> known, expired, issues, holders, busy, reserved."""
        issues = """
SELECT i.run_id FROM etl.row_issue i WHERE i.job = $3 AND i.source = $2 AND i.state IN ('open', 'deferred')"""
        return f"""
SELECT (SELECT to_jsonb(b) FROM etl.batch b WHERE b.token = $1) AS known,
       (SELECT b.token FROM etl.batch b WHERE b.source = {self._lane("$2")} AND b.job = $3 AND b.state = 'expired'
         ORDER BY b.opened_at, b.number LIMIT 1) AS expired,
       EXISTS (SELECT 1 FROM ({issues} LIMIT {_FEW}) AS few WHERE few.run_id IS DISTINCT FROM $5::uuid)
           OR EXISTS ({issues} OFFSET {_FEW} LIMIT 1) AS issues,
       ARRAY(SELECT DISTINCT b.run_id::text FROM etl.batch b
              WHERE b.source = {self._lane("$2")} AND b.state IN ('open', 'expired') AND b.run_id IS NOT NULL)
           AS holders,
       EXISTS (SELECT 1 FROM etl.batch b WHERE b.source = {self._lane("$2")} AND b.state = 'open') AS busy,
       to_jsonb({self._reserved()}) AS reserved
"""

    def _reserved(self, which: str = "") -> str:
        return f"""
       ARRAY(SELECT jsonb_build_array(b.lo, b.hi) FROM etl.batch b
              WHERE b.source = {self._lane("$2")} AND b.state IN ('open', 'expired'){which}
                AND ($4::jsonb IS NULL OR {self._key_of_json("b.hi")} > {self._key_of_json("$4::jsonb")})
              ORDER BY {self._key_of_json("b.lo", row=False)})"""

    def reach(self, *, after: bool, before: bool) -> str | None:
        """$1 last key, then exclusive bounds as asked for -> the key up to which `next_rows` looks in one go, or no row
        if that is to the end of these bounds. None: it always looks to the end."""
        return None

    def next_rows(self, *, after: bool, before: bool, most_bytes: int | None = None) -> str:
        """$1 issues to respect?, $2 job, $3 source, $4 limit, $5 last key, then exclusive bounds as asked for.

        `most_bytes`: no further row once those before have that many, as they are stored.
        """
        return self._select(self._found(self._bounds(5, after=after, before=before)), most_bytes)

    @cached_property
    def rows_between(self) -> str:
        """$1 issues to respect?, $2 job, $3 source, $4 limit, $5 last key, $6 first key (both included)."""
        bounds = [
            f"{self._row} <= {self._key_of_json('$5::jsonb')}",
            f"{self._row} >= {self._key_of_json('$6::jsonb')}",
        ]
        return self._select(self._found(bounds))

    @cached_property
    def query_rows(self) -> str:
        """keys -> ordinal (from 1) and the query's columns, for the keys the query answers."""
        assert self.query is not None
        row = quote_identifier("etl:query")
        matches = " AND ".join(
            f"{row}.{quote_identifier(c.name)} = {self._handled_key(c, n)}"
            for n, c in self._numbered
            if c in self.row_key
        )
        return f"""
SELECT {HANDLED}.{ORDINAL}, {row}.*
  FROM {self._handled(versions=False)}
  JOIN (
{self.query}
) AS {row} ON {matches}
"""

    # What becomes of the rows

    @cached_property
    def complete(self) -> str:
        """keys, versions, first and last key -> one row: how many were marked done, is one of them still pending?,
        positions (from 0) of those that were marked, null if all were.

        That the keys lie between two bounds is said for the planner: one walk along the index in place of a descent
        for each row.
        """
        marked = self._mark(
            self.done, f"{HANDLED}.{ORDINAL} - 1 AS position", f"(\n{self.pending}\n) AS pending", within=self._within
        )
        return f"""
WITH {MARKED} AS ({marked})
SELECT count(*), coalesce(bool_or(pending), false),
       CASE WHEN count(*) < {self._how_many} THEN coalesce(jsonb_agg(position), '[]') END
  FROM {MARKED}
"""

    def done_if(self, condition: str) -> str:
        """keys, versions, first and last key -> (pending) of the rows that were marked done: none, unless so. With
        `done_parameters`.

        Which version belongs to which row need not be said: of a row that was read in one version, no other one can be
        as old as those that were read with it.
        """
        pending, within = f"(\n{self.pending}\n) AS pending", f"{self._within}\n   AND {condition}"
        if len(self.key) > 1:
            return self._mark(self.done, pending, within=within)
        array, version = self.handled_arrays, f"${len(self.key) + 1}::text::xid[]"
        return f"""
UPDATE {self._table}
   SET
{self.done}
 WHERE {self._column(self.key[0])} = ANY ({array}) AND {self._alias}.xmin = ANY ({version})
   AND {within}
   AND (
{self.pending}
)
RETURNING {pending}
"""

    def done_parameters(self, batch: Batch, positions: Sequence[int]) -> list[Any]:
        """The rows at these positions as `done_if` takes them."""
        parameters = self.parameters(batch, positions)
        if len(self.key) == 1:
            parameters[-1] = array_of_numbers([*{batch.versions[n] for n in positions}])
        return parameters

    @cached_property
    def fail(self) -> str | None:
        """keys, versions -> (position from 0, still pending?, new version) of the rows that were marked failed."""
        if self.failed is None:
            return None
        position, version = f"{HANDLED}.{ORDINAL} - 1", f"{self._alias}.xmin::text"
        return self._mark(self.failed, position, f"(\n{self.pending}\n)", version)

    def fail_if(self, condition: str, first: int) -> str:
        """The same as a part of another statement, if `condition`: parameters from number `first` on -> (pending)."""
        assert self.failed is not None
        return self._mark(self.failed, f"(\n{self.pending}\n) AS pending", within=condition, first=first)

    def unchanged(self, *, payload: bool = True) -> str:
        """keys, versions -> (position from 0, version, payload as JSON text) of the rows still as they were claimed."""
        content = f"to_jsonb({self._alias}.*)::text" if payload else "NULL::text"
        return f"""
SELECT {HANDLED}.{ORDINAL} - 1, {self._alias}.xmin::text, {content}
  FROM {self._handled()}
  JOIN {self._table} ON {self._matches}
"""

    @cached_property
    def unmarked(self) -> str | None:
        """keys, versions -> positions of the rows that are as they were claimed and still pending. None: such a row may
        well have been left unmarked."""
        return f"""
SELECT {HANDLED}.{ORDINAL} - 1
  FROM {self._handled()}
  JOIN {self._table} ON {self._matches}
 WHERE {self._left}
"""

    @cached_property
    def held(self) -> str:
        """keys, versions -> positions of the rows still as they were claimed, locked."""
        return f"""
SELECT {HANDLED}.{ORDINAL} - 1
  FROM {self._handled()}
  JOIN {self._table} ON {self._matches}
   FOR NO KEY UPDATE OF {self._alias}
"""

    @cached_property
    def lockable(self) -> str | None:
        """keys, versions -> positions of the rows still as they were claimed and not locked by another session. None:
        nobody's lock is in the way of completing them."""
        return f"{self.held} SKIP LOCKED"

    def _mark(self, assignments: str, *returning: str, within: str = "", first: int = 1) -> str:
        pending = "" if self.replay else f"\n   AND (\n{self.pending}\n)"
        bounds = f"\n   AND {within}" if within else ""
        return f"""
UPDATE {self._table}
   SET
{assignments}
  FROM {self._handled(first=first)}
 WHERE {self._matches}{bounds}{pending}
RETURNING {", ".join(returning)}
"""

    # Pieces

    @property
    def _left(self) -> str:
        """The condition under which a row waits for work."""
        return f"(\n{self.pending}\n){self._in_shard}"

    @property
    def _in_shard(self) -> str:
        """One more condition, that rows are of this shard."""
        if self.shard is None:
            return ""
        return f" AND {self.shard_of(self.shard.columns)} % {self.shard.of} = {self.shard.number}"

    def _bounds(self, number: int, *, after: bool, before: bool) -> list[str]:
        """Parameter `number` is the last key, the next ones are exclusive bounds as asked for."""
        bounds = [f"{self._row} <= {self._key_of_json(f'${number}::jsonb')}"]
        for wanted, comparison in ((after, ">"), (before, "<")):
            if wanted:
                number += 1
                bounds.append(f"{self._row} {comparison} {self._key_of_json(f'${number}::jsonb')}")
        return bounds

    @property
    def _sorted_by(self) -> list[str]:
        """The key by which rows are bounded and sorted: in a replay the issue's, which equals the row's."""
        columns = [self._column(column) for column in self.key]
        issue = [f"{ISSUE}.{name}" for name in self._issue_names]
        return [*columns[: self.leading], *issue] if self.replay else columns

    @property
    def _issue_names(self) -> list[str]:
        return [f'"etl:key{n}"' for n, _ in self._numbered[self.leading :]]

    def _order(self, direction: str = "") -> str:
        return ", ".join(part + direction for part in self._sorted_by)

    @property
    def _row(self) -> str:
        return as_row(self._sorted_by)

    @property
    def _matches(self) -> str:
        return f"{self._same_key}\n   AND {self._alias}.xmin = {HANDLED}.{VERSION}"

    def _rows_in_question(self, direction: str = "") -> str:
        """What follows FROM, up to a WHERE that more conditions may follow."""
        if not self.replay:
            return f"{self._table}\n WHERE {self._left}"
        issue = [(*each, name) for each, name in zip(self._parts_of_issue("key"), self._issue_names, strict=True)]
        parts = ", ".join(f"{part} AS {name}" for _, part, name in issue)
        matches = " AND ".join(f"{self._column(column)} = {ISSUE}.{name}" for column, _, name in issue)
        wanted = dict.fromkeys([*(column.name for column in self.key), *self.columns])
        columns = ", ".join(f"{self._alias}.{quote_identifier(name)}" for name in wanted)
        # The issues are sorted first and each row is looked up by its key (OFFSET 0 keeps it so). A planner that takes
        # issues which were asked back just now for one or two would rather walk the user's table in key order, and go
        # through all the issues for each of its rows.
        return f"""(
       SELECT replay_crashes, held, version, {parts} FROM etl.row_issue
        WHERE replay_id = $1::uuid AND job = $2 AND source = $3 AND state = 'open'
        ORDER BY {", ".join(name + direction for name in self._issue_names)}) AS {ISSUE}
 CROSS JOIN LATERAL (
       SELECT {self._alias}.xmin, {columns}, {self._pending_still} AS {_PENDING}
         FROM {self._table} WHERE {matches}{self._in_shard} OFFSET 0) AS {self._alias}
 WHERE {still_open(self._alias, f"{self._alias}.{_PENDING}")}"""

    @property
    def _regclass(self) -> str:
        return "'" + self.table.sql.replace("'", "''") + "'::regclass"

    def _found(self, bounds: Sequence[str]) -> str:
        """What follows FROM where rows within bounds are looked for."""
        limits = "".join(f"\n   AND {bound}" for bound in bounds)
        return f"{self._rows_in_question()}{limits}{'' if self.replay else self._not_held}"

    def _select(self, found: str, most_bytes: int | None = None) -> str:
        keys = [f"{self._column(column)}::text" for column in self.key]
        columns = [self._read(self.table.columns[name]) for name in self.columns]
        crashes = f"{ISSUE}.replay_crashes" if self.replay else "0"
        body = f"""  FROM {found}
 ORDER BY {self._order()}
 LIMIT $4
"""
        selected = [*columns, f"{self._alias}.xmin", crashes, *keys]
        if most_bytes is None:
            return f"\nSELECT {', '.join(selected)}\n{body}"
        names = [f'"etl:{n}"' for n in range(len(selected))]
        named = ", ".join(f"{part} AS {name}" for part, name in zip(selected, names, strict=True))
        before = f"ORDER BY {self._order()} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING"
        return f"""
SELECT {", ".join(names)} FROM (
SELECT {named}, coalesce(sum({self._size_of(self.columns)}) OVER ({before}), 0) AS "etl:bytes"
{body}) AS "etl:weighed"
 WHERE "etl:bytes" < {most_bytes}
"""
