"""Writes results into a table of the user: one statement per batch, exactly typed by the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import asyncpg

from etl.core.sink import APPEND, MERGE
from etl.core.table import Column, Table
from etl.errors import ConfigurationError
from etl.postgres.database import Connection
from etl.postgres.one_statement import Insertion
from etl.postgres.statements import statement
from etl.postgres.writing import composing
from etl.postgres.writing.composing import Upsert
from etl.postgres.writing.demands import Demand, Demands
from etl.postgres.writing.rows import Group, grouped, misfit
from etl.postgres.writing.values import (
    Travel,
    ValueRefusedError,
    as_parameter,
    compares_alike,
    refuse_unfit,
    refused_argument,
    travel,
    travels_in_binary,
)

# More rows than this are several INSERTs.
AT_ONCE = 10_000
# From so many rows on COPY is faster (1.3, rows of 150 bytes in ten columns); with JSON it is not: one document per
# column beats a value per row. An upsert from a temporary table is worth its while later (1.1).
COPY_FROM = 2_500
MERGE_FROM = 10_000


@dataclass(frozen=True, slots=True)
class Manner:
    """How a table may be written. `mode`: None for what is the fastest. `copy`: by COPY at all; `merge`: through a
    temporary table at all; `update_always`: whether an update that changes nothing has an effect nevertheless; `plain`:
    neither this table nor the rows' source has anything that looks at what the same statement did elsewhere."""

    mode: str | None = None
    copy: bool = False
    merge: bool = False
    update_always: bool = True
    plain: bool = False


class Search(NamedTuple):
    """A SELECT of the places of some rows, and its parameters."""

    sql: str
    parameters: list[Any]


class TableWriter:
    """Inserts rows (dicts by column name) into `table`, or upserts them by `key`. Knows nothing of batches."""

    def __init__(self, table: Table, key: tuple[str, ...] | None, manner: Manner | None = None) -> None:
        self.demands = Demands()
        self._table = table
        self._manner = manner or Manner()
        self._upsert = None if key is None else Upsert(_as_indexed(table, key), self._manner.update_always)
        self._fits = False  # whether any row so far had only columns that the table takes
        self._statements: dict[Any, str] = {}
        self._types: dict[tuple[str, ...], list[int]] = {}  # of columns that were filled by COPY

    @property
    def table(self) -> Table:
        """Where rows go."""
        return self._table

    async def write(self, connection: Connection, rows: Sequence[Any]) -> None:
        """Write rows inside the caller's transaction.

        Raises `ValueRefusedError` or the server's error when a row does not fit, `ConfigurationError` when every row
        so far names a column that the table does not take.
        """
        if not rows:
            return
        groups = grouped(self._table, rows)
        self._require_fitting(groups, len(rows))
        if self._upsert is not None:
            self._require_key(groups, self._upsert.key)
        arranged = len(groups) > 1 or not self._in_one_go(groups[0])
        if arranged:
            groups = await self._arranged(connection, groups)
        for group in groups:
            await self._write_group(connection, group, arranged=arranged)
        if self._table.deferred_constraints:
            await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")  # or COMMIT would refuse, blaming nobody

    def insertion(self, rows: Sequence[Any], first: int, condition: str) -> Insertion | None:
        """The INSERT that `write` would send for these rows, if it would be one that may be a part of another
        statement. Raises as `write`."""
        group = self._together(rows)
        if group is None:
            return None
        described = self._described(group)
        ways = (*map(travel, described, group.cells),)
        sql = self._insert_sql(group, described, ways, arranged=False, first=first, condition=condition)
        return Insertion(f"{sql} RETURNING 1", list(map(as_parameter, described, ways, group.cells)))

    def search(self, rows: Sequence[Any], demands: Sequence[Demand], most: int) -> Search | None:
        """What finds the places (from 0; the first `most`) of rows that do not meet a demand, where `insertion` writes
        them and none takes the place of another. Raises as `write`."""
        group = self._together(rows)
        if group is None or (self._upsert is not None and not self._distinct(group, self._upsert.key)):
            return None
        types: dict[str, str | None] = {}
        for demand in demands:  # not each of several that look at the same column says what type it has
            types |= {name: kind or types.get(name) for name, kind in demand.columns.items()}
        described = [self._table.columns[name] for name in types]
        cells = group.chosen([*types])
        ways = (*map(travel, described, cells),)
        conditions = tuple(demand.sql for demand in demands)
        asked = (ways, (*types.items(),), conditions, most)
        sql = self._statements.get(asked)
        if sql is None:
            columns = [*zip(described, ways, types.values(), strict=True)]
            sql = self._statements[asked] = composing.find_unfit(columns, conditions, most)
        return Search(sql, list(map(as_parameter, described, ways, cells)))

    def _together(self, rows: Sequence[Any]) -> Group | None:
        """The rows, if one INSERT that may be a part of another statement writes them."""
        if not self._manner.plain or self._table.deferred_constraints:
            return None
        groups = grouped(self._table, rows)
        self._require_fitting(groups, len(rows))
        if len(groups) > 1 or not groups[0].columns or not self._in_one_go(groups[0]):
            return None
        group = groups[0]
        if self._upsert is not None:
            self._require_key(groups, self._upsert.key)
        described = self._described(group)
        self._refuse_unfit(group, described)
        return None if self._by_copy(group, described) or self._by_merge(group, described) else group

    def _described(self, group: Group) -> list[Column]:
        return [self._table.columns[name] for name in group.columns]

    def _require_fitting(self, groups: Sequence[Group], rows: int) -> None:
        faults = [misfit(self._table, group.columns) for group in groups]
        self._fits = self._fits or None in faults
        fault = next((fault for fault in faults if fault is not None), None)
        if fault is None:
            return
        problem, remedy = fault
        if not self._fits and rows > 1:
            raise ConfigurationError(problem, setting="sink", remedy=remedy)
        raise ValueRefusedError(problem)

    def _require_key(self, groups: Sequence[Group], key: tuple[str, ...]) -> None:
        missing = next((name for group in groups for name in key if name not in group.columns), None)
        if missing is not None:
            raise ValueRefusedError(f"the row has no {missing!r}, by which it is upserted")

    def _in_one_go(self, group: Group) -> bool:
        """Whether the statement that writes the rows puts them in order by itself."""
        described = self._described(group)
        if self._by_copy(group, described) or self._by_merge(group, described):
            return True
        return len(group) <= AT_ONCE and all(column.is_scalar for column in described)

    def _order(self, group: Group) -> tuple[str, ...]:
        """The columns to sort by: one order for all writers of a table, or they wait for each other in a circle."""
        if self._upsert is not None:
            return self._upsert.key
        return next((key for key in self._table.keys if set(key) <= set(group.columns)), ())

    async def _arranged(self, connection: Connection, groups: Sequence[Group]) -> list[Group]:
        """The same groups in the order of the key, only the last one of each, as the server has it."""
        order = self._order(groups[0])
        key = [self._table.columns[name] for name in order]
        if len(groups) == 1 and order and self._sortable(groups[0], order):
            return [self._sorted(groups[0], order)]
        shared = all(set(order) <= set(group.columns) for group in groups)
        if not (order and shared and all(column.is_scalar for column in key)):
            return list(groups)
        places = [(group, place) for group in groups for place in range(len(group))]
        places.sort(key=lambda each: each[0].numbers[each[1]])
        keys = {id(group): group.part(order) for group in groups}
        cells = list(map(list, zip(*(keys[id(group)][place] for group, place in places), strict=True)))
        last_of_each = self._upsert is not None
        sql = composing.arrange(key, last_of_each=last_of_each)
        found = await self._execute(connection.fetch, sql, cells, order)
        kept: dict[int, list[int]] = {id(group): [] for group in groups}
        for (number,) in found:
            group, place = places[number]
            kept[id(group)].append(place)
        return [group.taken(kept[id(group)]) for group in groups if kept[id(group)]]

    def _sorted(self, group: Group, order: tuple[str, ...]) -> Group:
        """The same as `_arranged` without asking the server, where Python compares as it does."""
        keys = group.part(order)
        last = {key: place for place, key in enumerate(keys)}.values() if self._upsert is not None else range(len(keys))
        return group.taken(sorted(last, key=keys.__getitem__))

    async def _write_group(self, connection: Connection, group: Group, *, arranged: bool) -> None:
        described = self._described(group)
        self._refuse_unfit(group, described)
        if self._by_copy(group, described):
            await self._copy(connection, group)
        elif self._by_merge(group, described):
            await self._merge(connection, group, described)
        elif described and all(column.is_scalar for column in described):
            await self._insert(connection, group, described, arranged=arranged)
        else:
            await self._insert_each(connection, group, described)

    def _refuse_unfit(self, group: Group, described: list[Column]) -> None:
        for column, values in zip(described, group.cells, strict=True):
            refuse_unfit(column, values)

    async def _insert(self, connection: Connection, group: Group, described: list[Column], *, arranged: bool) -> None:
        ways = (*map(travel, described, group.cells),)
        sql = self._insert_sql(group, described, ways, arranged=arranged)
        for start in range(0, len(group), AT_ONCE):
            part = [column[start : start + AT_ONCE] for column in group.cells]
            await self._execute(connection.execute, sql, list(map(as_parameter, described, ways, part)), group.columns)

    def _insert_sql(
        self,
        group: Group,
        described: list[Column],
        travels: tuple[Travel, ...],
        *,
        arranged: bool,
        first: int = 1,
        condition: str = "",
    ) -> str:
        order = self._order(group)
        last_of_each = self._upsert is not None and not arranged and not self._distinct(group, order)
        asked = (travels, group.columns, last_of_each, first, condition)
        sql = self._statements.get(asked)
        if sql is None:
            sql = self._statements[asked] = composing.insert_rows(
                self._table,
                described,
                travels,
                order,
                self._upsert,
                last_of_each=last_of_each,
                first=first,
                condition=condition,
            )
        return sql

    def _distinct(self, group: Group, order: tuple[str, ...]) -> bool:
        """Whether no two rows can have an equal key, as the server has it."""
        return self._sortable(group, order) and group.distinct(order)

    async def _insert_each(self, connection: Connection, group: Group, described: list[Column]) -> None:
        sql = composing.insert_one(self._table, described, list(map(travel, described, group.cells)), self._upsert)
        if not described:
            for _ in range(len(group)):
                await connection.execute(sql)
            return
        await self._execute(connection.executemany, sql, [group.records()], group.columns)

    async def _execute(self, send: Any, sql: str, parameters: Sequence[Any], columns: Sequence[str]) -> Any:
        """Send a statement; what the driver refuses of its parameters is told by column."""
        try:
            return await send(sql, *parameters)
        except (asyncpg.DataError, asyncpg.InterfaceError) as error:
            refused = refused_argument(error, columns)
            if refused is None:
                raise
            raise refused from error

    def _by_copy(self, group: Group, described: Sequence[Column]) -> bool:
        """Whether COPY takes these rows. A single row goes by INSERT, which tells what is wrong with it by column."""
        size, manner = len(group), self._manner
        if self._upsert is not None or not manner.copy or size < 2 or not all(map(travels_in_binary, described)):
            return False
        if manner.mode is not None or size <= COPY_FROM or any(column.is_json for column in described):
            return manner.mode == APPEND
        order = self._order(group)
        return not order or self._sortable(group, order)

    def _sortable(self, group: Group, order: tuple[str, ...]) -> bool:
        return compares_alike([self._table.columns[name] for name in order], group.chosen(order))

    async def _copy(self, connection: Connection, group: Group) -> None:
        order = self._order(group)
        if order and self._sortable(group, order):
            group = self._sorted(group, order)
        types = self._types.pop(group.columns, None)
        if types is None:
            await connection.reload_schema_state()
        await connection.copy_records_to_table(
            self._table.name, schema_name=self._table.schema, columns=group.columns, records=group.records()
        )
        # The driver remembers the types of a table's columns, and COPY sends bytes: those of an integer would make some
        # number or other in a column that has become a float. Now the table is locked and its types stay.
        found = await connection.fetchval(statement("column_types"), self._table.sql, list(group.columns))
        if types is not None and types != found:
            raise ConnectionError(f"the columns of {self._table.identity} have changed their types")
        self._types[group.columns] = found

    def _by_merge(self, group: Group, described: Sequence[Column]) -> bool:
        """Whether the rows go through a temporary table."""
        size, manner = len(group), self._manner
        if self._upsert is None or not manner.merge or size < 2 or not all(map(travels_in_binary, described)):
            return False
        if manner.mode is not None or size < MERGE_FROM or any(column.is_json for column in described):
            return manner.mode == MERGE
        return True

    async def _merge(self, connection: Connection, group: Group, described: Sequence[Column]) -> None:
        assert self._upsert is not None
        # The driver remembers the types of a table's columns by its name, so that says what they are.
        shape = repr([(column.name, column.type) for column in described])
        name = f"etl:{sha256(f'{self._table.identity} {shape}'.encode()).hexdigest()[:24]}"
        await connection.execute(composing.make_temporary(described, name))
        records = [(*record, number) for number, record in enumerate(group.records())]
        await connection.copy_records_to_table(
            name, schema_name="pg_temp", columns=[*group.columns, "etl:number"], records=records
        )
        await connection.execute(composing.merge_temporary(self._table, described, name, self._upsert))
        await connection.execute(composing.drop_temporary(name))


def _as_indexed(table: Table, key: tuple[str, ...]) -> tuple[str, ...]:
    """The key's columns in the order of the index, whatever the order in which somebody named them."""
    return next((unique for unique in table.keys if set(unique) == set(key)), key)
