"""The statements that name a user's table: composed here and nowhere else.

Identifiers come from the catalog and are quoted; values are always parameters; keys travel as text and are cast to
the column's own type, so that the server compares them, never Python. The user's own fragments (`pending`, `done`,
`failed`, `query`) stand on lines of their own, so that a comment at their end swallows nothing, and the table goes by
its own name, so that they may qualify their columns with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from etl.core.batch import Batch
from etl.core.table import Column, Table, quote_identifier

# Names of ours inside composed statements; a colon keeps them apart from any sane column.
_VERSION = '"etl:version"'
_ORDINAL = '"etl:ordinal"'
_HANDLED = '"etl:handled"'
_ISSUE = '"etl:issue"'
_PENDING = '"etl:pending"'
_MARKED = '"etl:marked"'
# Types whose values have one size or a small one, and those that know their length.
_NUMBERS = ("bool", "int2", "int4", "int8", "float4", "float8", "numeric", "money", "uuid", "oid")
_FIXED = frozenset((*_NUMBERS, "date", "time", "timetz", "timestamp", "timestamptz", "interval"))
_TEXT = frozenset(("text", "varchar", "bytea"))


@dataclass(frozen=True)
class UserTable:
    """A source table as one job sees it, resolved, with the statements on it.

    `name` is the source's identity for reservations. `wanted`: the columns to read (None: all). `replay` makes the rows
    in question those with an open issue that a replay asked for, instead of the pending ones; the first three
    parameters of what selects them are then the replay run, the job and the source. Parameters of the statements are
    named in each docstring; "key" stands for a JSON array of the key's parts as text, "keys" for one text array per
    key column.
    """

    table: Table
    key: tuple[Column, ...]
    name: str
    pending: str
    done: str
    failed: str | None = None
    query: str | None = None
    replay: bool = False
    wanted: tuple[str, ...] | None = None

    @property
    def key_signature(self) -> str:
        """What keys of this source are made of; equal for jobs whose claims can exclude each other."""
        return ", ".join(f"{column.name} {column.base}" for column in self.key)

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
        return f"""
SELECT c.key, c.positions -> $2 AS position, clock_timestamp() AS now,
       EXISTS (SELECT 1 FROM etl.batch b WHERE b.source = c.source AND b.state IN ('open', 'expired')) AS reserved,
       EXISTS (SELECT 1 FROM etl.row_issue i
                WHERE i.job = $2 AND i.source = $3 AND i.state IN ('open', 'deferred')) AS issues,
       ({self.sweep_end}) AS last,
       EXISTS (SELECT 1 FROM pg_catalog.pg_class r
                WHERE (r.oid = {self._regclass} OR r.oid IN (SELECT relid FROM pg_partition_tree({self._regclass})))
                  AND r.reltoastrelid <> 0 AND pg_relation_size(r.reltoastrelid) > 0) AS large
  FROM etl.source_cursor c
 WHERE c.source = $3 AND $1::uuid IS NOT NULL
"""

    @cached_property
    def backlog(self) -> str:
        """-> how many rows are pending."""
        return f"SELECT count(*) FROM {self._table} WHERE (\n{self.pending}\n)"

    @cached_property
    def claim_state(self) -> str:
        """$1 token, $2 source, $3 job, $4 key to look after (or null) -> known, expired, issues, holders, reserved."""
        hi = self._key_of_json("b.hi")
        return f"""
SELECT (SELECT to_jsonb(b) FROM etl.batch b WHERE b.token = $1) AS known,
       (SELECT b.token FROM etl.batch b WHERE b.source = $2 AND b.job = $3 AND b.state = 'expired'
         ORDER BY b.opened_at, b.number LIMIT 1) AS expired,
       EXISTS (SELECT 1 FROM etl.row_issue i
                WHERE i.job = $3 AND i.source = $2 AND i.state IN ('open', 'deferred')) AS issues,
       ARRAY(SELECT DISTINCT b.run_id::text FROM etl.batch b
              WHERE b.source = $2 AND b.state IN ('open', 'expired') AND b.run_id IS NOT NULL) AS holders,
       ARRAY(SELECT jsonb_build_array(b.lo, b.hi) FROM etl.batch b
              WHERE b.source = $2 AND b.state IN ('open', 'expired')
                AND ($4::jsonb IS NULL OR {hi} > {self._key_of_json("$4::jsonb")})
              ORDER BY {self._key_of_json("b.lo", row=False)}) AS reserved
"""

    def next_rows(self, *, after: bool, before: bool, most_bytes: int | None = None) -> str:
        """$1 issues to respect?, $2 job, $3 source, $4 limit, $5 last key, then exclusive bounds as asked for.

        `most_bytes`: no further row once those before have that many, as they are stored.
        """
        bounds = [f"{self._row} <= {self._key_of_json('$5::jsonb')}"]
        number = 6
        for wanted, comparison in ((after, ">"), (before, "<")):
            if wanted:
                bounds.append(f"{self._row} {comparison} {self._key_of_json(f'${number}::jsonb')}")
                number += 1
        return self._select(bounds, most_bytes)

    @cached_property
    def rows_between(self) -> str:
        """$1 issues to respect?, $2 job, $3 source, $4 limit, $5 last key, $6 first key (both included)."""
        return self._select(
            [f"{self._row} <= {self._key_of_json('$5::jsonb')}", f"{self._row} >= {self._key_of_json('$6::jsonb')}"]
        )

    @cached_property
    def query_rows(self) -> str:
        """keys -> ordinal (from 1) and the query's columns, for the keys the query answers."""
        assert self.query is not None
        row = quote_identifier("etl:query")
        matches = " AND ".join(
            f"{row}.{quote_identifier(c.name)} = {self._handled_key(c, n)}" for n, c in self._numbered
        )
        return f"""
SELECT {_HANDLED}.{_ORDINAL}, {row}.*
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
        first, last = (f"${len(self.key) + n}::jsonb" for n in (2, 3))
        row = _as_row([self._column(column) for column in self.key])
        within = f"{row} >= {self._key_of_json(first)}\n   AND {row} <= {self._key_of_json(last)}"
        marked = self._mark(
            self.done, f"{_HANDLED}.{_ORDINAL} - 1 AS position", f"(\n{self.pending}\n) AS pending", within=within
        )
        return f"""
WITH {_MARKED} AS ({marked})
SELECT count(*), coalesce(bool_or(pending), false),
       CASE WHEN count(*) < cardinality($1) THEN coalesce(array_agg(position), ARRAY[]::bigint[]) END
  FROM {_MARKED}
"""

    @cached_property
    def fail(self) -> str | None:
        """keys, versions -> (position from 0, still pending?, new version) of the rows that were marked failed."""
        if self.failed is None:
            return None
        position, version = f"{_HANDLED}.{_ORDINAL} - 1", f"{self._alias}.xmin::text"
        return self._mark(self.failed, position, f"(\n{self.pending}\n)", version)

    def unchanged(self, *, payload: bool = True) -> str:
        """keys, versions -> (position from 0, version, payload as JSON text) of the rows still as they were claimed."""
        content = f"to_jsonb({self._alias}.*)::text" if payload else "NULL::text"
        return f"""
SELECT {_HANDLED}.{_ORDINAL} - 1, {self._alias}.xmin::text, {content}
  FROM {self._handled()}
  JOIN {self._table} ON {self._matches}
"""

    @cached_property
    def unmarked(self) -> str:
        """keys, versions -> positions of the rows that are as they were claimed and still pending."""
        return f"""
SELECT {_HANDLED}.{_ORDINAL} - 1
  FROM {self._handled()}
  JOIN {self._table} ON {self._matches}
 WHERE (
{self.pending}
)
"""

    @cached_property
    def lockable(self) -> str:
        """keys, versions -> positions of the rows still as they were claimed and not locked by another session."""
        return f"""
SELECT {_HANDLED}.{_ORDINAL} - 1
  FROM {self._handled()}
  JOIN {self._table} ON {self._matches}
   FOR NO KEY UPDATE OF {self._alias} SKIP LOCKED
"""

    @cached_property
    def settled_elsewhere(self) -> str:
        """$1 replay, $2 job, $3 source -> (issue, does its row exist?) of issues whose rows are not to be replayed."""
        exists = f"{self._column(self.key[0])} IS NOT NULL"
        return f"""
SELECT {_ISSUE}.issue_id, {exists} AS exists
  FROM etl.row_issue AS {_ISSUE}
  LEFT JOIN {self._table} ON {self._issue_key}
 WHERE {_ISSUE}.replay_id = $1 AND {_ISSUE}.job = $2 AND {_ISSUE}.source = $3 AND {_ISSUE}.state = 'open'
   AND NOT ({exists} AND {_still_open(self._alias, self._pending_still)})
"""

    def _mark(self, assignments: str, *returning: str, within: str = "") -> str:
        pending = "" if self.replay else f"\n   AND (\n{self.pending}\n)"
        bounds = f"\n   AND {within}" if within else ""
        return f"""
UPDATE {self._table}
   SET
{assignments}
  FROM {self._handled()}
 WHERE {self._matches}{bounds}{pending}
RETURNING {", ".join(returning)}
"""

    # Pieces

    @property
    def _alias(self) -> str:
        return quote_identifier(self.table.name)

    @property
    def _table(self) -> str:
        return f"{self.table.sql} AS {self._alias}"

    @property
    def _numbered(self) -> list[tuple[int, Column]]:
        return list(enumerate(self.key, start=1))

    def _column(self, column: Column) -> str:
        return f"{self._alias}.{quote_identifier(column.name)}"

    @property
    def _sorted_by(self) -> list[str]:
        """The key by which rows are bounded and sorted: in a replay the issue's, which equals the row's."""
        if self.replay:
            return [f'{_ISSUE}."etl:key{n}"' for n, _ in self._numbered]
        return [self._column(column) for column in self.key]

    def _order(self, direction: str = "") -> str:
        return ", ".join(part + direction for part in self._sorted_by)

    @property
    def _row(self) -> str:
        return _as_row(self._sorted_by)

    @property
    def _key_json(self) -> str:
        return f"jsonb_build_array({', '.join(self._column(column) + '::text' for column in self.key)})"

    def _key_of_json(self, json: str, *, row: bool = True) -> str:
        parts = self._parts_of_json(json)
        return _as_row(parts) if row else ", ".join(parts)

    def _parts_of_json(self, json: str) -> list[str]:
        # With the column's collation, or two bounds would be compared by the database's own.
        return [
            f"({json} ->> {n - 1})::{column.type}" + (f" COLLATE {column.collation}" if column.collation else "")
            for n, column in self._numbered
        ]

    def _handled(self, *, versions: bool = True) -> str:
        """The rows in hand as a table: parameters $1.. are the key columns, then the versions."""
        names = [f'"etl:key{n}"' for n, _ in self._numbered]
        arrays = [f"${n}::text[]" for n, _ in self._numbered]
        if versions:
            names.append(_VERSION)
            arrays.append(f"${len(self.key) + 1}::text::xid[]")
        return f"unnest({', '.join(arrays)}) WITH ORDINALITY AS {_HANDLED} ({', '.join([*names, _ORDINAL])})"

    def _handled_key(self, column: Column, number: int) -> str:
        return f'{_HANDLED}."etl:key{number}"::{column.type}'

    @property
    def _matches(self) -> str:
        same_key = [f"{self._column(column)} = {self._handled_key(column, n)}" for n, column in self._numbered]
        return "\n   AND ".join([*same_key, f"{self._alias}.xmin = {_HANDLED}.{_VERSION}"])

    def _rows_in_question(self, direction: str = "") -> str:
        """What follows FROM, up to a WHERE that more conditions may follow."""
        if not self.replay:
            return f"{self._table}\n WHERE (\n{self.pending}\n)"
        names = [f'"etl:key{n}"' for n, _ in self._numbered]
        parts = ", ".join(f"{part} AS {name}" for part, name in zip(self._parts_of_json("key"), names, strict=True))
        matches = " AND ".join(
            f"{self._column(column)} = {part}" for column, part in zip(self.key, self._sorted_by, strict=True)
        )
        wanted = dict.fromkeys([*(column.name for column in self.key), *self.columns])
        columns = ", ".join(f"{self._alias}.{quote_identifier(name)}" for name in wanted)
        # The issues are sorted first and each row is looked up by its key (OFFSET 0 keeps it so). A planner that takes
        # issues which were asked back just now for one or two would rather walk the user's table in key order, and go
        # through all the issues for each of its rows.
        return f"""(
       SELECT replay_crashes, held, version, {parts} FROM etl.row_issue
        WHERE replay_id = $1::uuid AND job = $2 AND source = $3 AND state = 'open'
        ORDER BY {", ".join(name + direction for name in names)}) AS {_ISSUE}
 CROSS JOIN LATERAL (
       SELECT {self._alias}.xmin, {columns}, {self._pending_still} AS {_PENDING}
         FROM {self._table} WHERE {matches} OFFSET 0) AS {self._alias}
 WHERE {_still_open(self._alias, f"{self._alias}.{_PENDING}")}"""

    @property
    def _issue_key(self) -> str:
        return " AND ".join(
            f"{self._column(column)} = ({_ISSUE}.key ->> {n - 1})::{column.type}" for n, column in self._numbered
        )

    @property
    def _pending_still(self) -> str:
        return f"(\n{self.pending}\n) IS TRUE"

    @property
    def _regclass(self) -> str:
        return "'" + self.table.sql.replace("'", "''") + "'::regclass"

    @property
    def _size(self) -> str:
        """Bytes of a row's columns without a fixed width. Text is asked how long it is, what may be compressed how
        much it takes: neither makes the server fetch what is stored outside the row."""
        columns = [self.table.columns[name] for name in self.columns]
        sizes = [
            f"coalesce({'octet_length' if column.base in _TEXT else 'pg_column_size'}({self._column(column)}), 0)"
            for column in columns
            if column.base not in _FIXED
        ]
        return " + ".join(sizes) or "0"

    def _select(self, bounds: Sequence[str], most_bytes: int | None = None) -> str:
        keys = [f"{self._column(column)}::text" for column in self.key]
        columns = [f"{self._alias}.{quote_identifier(name)}" for name in self.columns]
        crashes = f"{_ISSUE}.replay_crashes" if self.replay else "0"
        limits = "".join(f"\n   AND {bound}" for bound in bounds)
        body = f"""  FROM {self._rows_in_question()}{limits}{"" if self.replay else self._not_held}
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
SELECT {named}, coalesce(sum({self._size}) OVER ({before}), 0) AS "etl:bytes"
{body}) AS "etl:weighed"
 WHERE "etl:bytes" < {most_bytes}
"""

    @property
    def _not_held(self) -> str:
        """Leaves out rows in quarantine that nobody has touched since, and deferred rows that are not due."""
        return f"""
   AND NOT ($1::boolean AND EXISTS (
       SELECT 1 FROM etl.row_issue AS {_ISSUE}
        WHERE {_ISSUE}.job = $2 AND {_ISSUE}.source = $3 AND {_ISSUE}.key = {self._key_json} AND {_ISSUE}.held
          AND ({_ISSUE}.state = 'open' AND {_ISSUE}.version = {self._alias}.xmin::text
               OR {_ISSUE}.state = 'deferred' AND {_ISSUE}.due_at > clock_timestamp())))"""


def row_parameters(batch: Batch, positions: Sequence[int]) -> list[Any]:
    """The rows at these positions as the statements take them: an array per key column, and their versions.

    The versions go as one text: the driver takes a microsecond for each number of an array.
    """
    if len(positions) == len(batch):
        return [*batch.keys, _array_literal(batch.versions)]
    keys = ([column[n] for n in positions] for column in batch.keys)
    return [*keys, _array_literal([batch.versions[n] for n in positions])]


def _array_literal(numbers: Sequence[int]) -> str:
    return f"{{{','.join(map(str, numbers))}}}"


def _still_open(row: str, pending: str) -> str:
    """A row left as it was may have been changed since: if it is not pending any more, somebody has handled it."""
    return f"(NOT {_ISSUE}.held OR {_ISSUE}.version = {row}.xmin::text OR {pending})"


def _as_row(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"


def assigned_columns(assignments: str) -> list[str]:
    """The columns that a SET list assigns, as the server would read their names. Pure text work on valid SQL.

    Understands quoted names, `(a, b) = (...)`, strings, dollar quotes and comments.
    """
    names: list[str] = []
    for assignment in _split_top_level(assignments, ","):
        target = _split_top_level(assignment, "=")[0].strip()
        inner = target[1:-1] if target.startswith("(") and target.endswith(")") else target
        names += [_folded(part) for part in _split_top_level(inner, ",")]
    return [name for name in names if name]


# A name in front of its subscript or field.
_NAME = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]|"")*)"|(?P<plain>[^\s.\["]*))')
# What hides commas, equals signs and parentheses: comments, strings, quoted names; and words, which may hold a dollar.
_WHOLE = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))|[eE]'(?:[^'\\]|\\.)*'?|'[^']*'?|"[^"]*"?"""
    r"""|\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)|[^\W\d][\w$]*|.""",
    re.DOTALL,
)


def split_sql(text: str) -> list[str]:
    """SQL in pieces that are one thing each: a comment, a string, a quoted name, a word, or a single character."""
    return [match[0] for match in _WHOLE.finditer(text)]


def _folded(name: str) -> str:
    match = _NAME.match(name)
    assert match is not None
    quoted, plain = match["quoted"], match["plain"]
    return quoted.replace('""', '"') if quoted is not None else plain.lower()


def _split_top_level(text: str, separator: str) -> list[str]:
    """Split SQL where a separator stands outside parentheses, quotes and comments; comments are dropped."""
    parts, depth = [""], 0
    for match in _WHOLE.finditer(text):
        piece = match[0] if match["comment"] is None else " "
        depth += (piece in "([") - (piece in ")]")
        if piece == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    return parts
