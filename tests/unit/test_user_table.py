"""The composed statements as text: what stands where, and what cannot break out of its place.

That Postgres understands them is for the integration tests, but for the last test here, which has it prepare them all.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import asyncpg
import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl.core.table import Column, Table, quote_identifier
from etl.postgres.cursor_table import CursorTable
from etl.postgres.ledger import LedgerTable
from etl.postgres.user_table import UserTable

names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)


def column(name: str, base: str = "int8") -> Column:
    return Column(name, f"pg_catalog.{base}", "N", "b", base, not_null=True, generated=False)


def user_table(**changes: Any) -> UserTable:
    """A source on `sales."Order Inbox"` with a composite key."""
    columns = {name: column(name) for name in ("region", "Order No", "status")}
    table = Table("sales", "Order Inbox", columns, keys=(("region", "Order No"),))
    key = (columns["region"], columns["Order No"])
    plain = UserTable(
        table, key, name="sales.Order Inbox", pending="status = 1", done="status = 2", failed="status = 3"
    )
    return replace(plain, **changes)


def ledger(**changes: Any) -> LedgerTable:
    """The same, with a ledger."""
    plain = user_table()
    return LedgerTable(plain.table, plain.key, name="it's \\ a name", pending="status = 1", **changes)


def by_cursor(**changes: Any) -> CursorTable:
    """The same, with a cursor."""
    plain = user_table()
    key = (column("txid", "xid8"), *plain.key)
    return CursorTable(plain.table, key, name="an inbox@job", pending="status = 1", **changes)


def statements(table: UserTable) -> dict[str, str]:
    """Every statement on the user's table, by its name."""
    found = {
        "sweep_end": table.sweep_end,
        "backlog": table.backlog,
        "waiting": table.waiting,
        "first_in_line": table.first_in_line,
        "claim_state": table.claim_state,
        "rows_between": table.rows_between,
        "complete": table.complete,
        "unchanged": table.unchanged(),
        "unchanged without payload": table.unchanged(payload=False),
        "settled_elsewhere": table.settled_elsewhere,
    }
    optional = {"unmarked": table.unmarked, "lockable": table.lockable}
    optional |= {"oldest": table.oldest, "oldest_at_work": table.oldest_at_work}
    optional |= {f"reach {after}": table.reach(after=after, before=True) for after in (False, True)}
    found |= {name: sql for name, sql in optional.items() if sql is not None}
    for after in (False, True):
        for before in (False, True):
            found[f"next_rows {after} {before}"] = table.next_rows(after=after, before=before)
    if isinstance(table, LedgerTable):
        found["forget_gone"] = table.forget_gone
    if isinstance(table, CursorTable) and not table.replay:
        found["outlook"] = table.outlook
        found["newest"] = table.newest
    if table.fail is not None:
        found["fail"] = table.fail
    if table.query is not None:
        found["query_rows"] = table.query_rows
    return found


VARIANTS = {
    "plain": user_table(),
    "replay": user_table(replay=True),
    "query": user_table(query='SELECT * FROM sales."Order Inbox"'),
    "single key": user_table(key=(column("region"),)),
    "without failed": user_table(failed=None),
    "ledger": ledger(),
    "ledger of versions": ledger(changed=column("status")),
    "ledger, single key": replace(ledger(), key=(column("region"),)),
    "replay of a ledger": ledger(replay=True),
    "cursor": by_cursor(),
    "replay of a cursor": by_cursor(replay=True),
    "cursor with a query": by_cursor(query='SELECT * FROM sales."Order Inbox"'),
    "since": user_table(since=column("Order At", "timestamptz")),
    "ledger since": ledger(since=column("Order At", "timestamptz")),
    "cursor since": by_cursor(since=column("Order At", "timestamptz")),
}


@given(names)
def test_a_quoted_name_reads_back_as_the_name_and_ends_where_it_ends(name: str) -> None:
    quoted = quote_identifier(name)

    assert (quoted[0], quoted[-1]) == ('"', '"')
    assert name == quoted[1:-1].replace('""', '"')
    assert '"' not in quoted[1:-1].replace('""', "")


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_of_the_user_s_table_stand_quoted_only(variant: str) -> None:
    for name, sql in statements(VARIANTS[variant]).items():
        bare = re.sub(r'"(?:[^"]|"")*"', "", sql)
        assert "Order" not in bare, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fragment_of_the_user_s_may_end_in_a_comment(variant: str) -> None:
    """What follows it stands on a line of its own."""
    commented = replace(
        VARIANTS[variant],
        pending="status = 1 -- waiting",
        done="status = 2 -- handled",
        failed="status = 3 -- set aside",
    )

    for name, sql in statements(commented).items():
        for line in sql.splitlines():
            if "--" in line:
                assert re.fullmatch(r"status = \d -- [\w ]+", line), f"{name}: {line}"


def test_a_condition_with_or_is_held_together() -> None:
    table = user_table(pending="status = 1 OR status = 9")

    for name, sql in statements(table).items():
        if "OR status" in sql:
            assert "(\nstatus = 1 OR status = 9\n)" in sql, name


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "since" not in name])
def test_where_no_column_says_since_when_rows_wait_nothing_asks_for_it(variant: str) -> None:
    table = VARIANTS[variant]

    assert (None, None, False) == (table.oldest, table.oldest_at_work, table.tells_time)


def test_a_column_that_says_since_when_rows_wait_goes_before_a_time_that_orders_them() -> None:
    ordered = user_table(key=(column("at", "timestamptz"), column("region")))
    both = replace(ordered, since=column("Order At", "timestamptz"))

    assert (True, True) == (ordered.tells_time, both.tells_time)
    assert '"Order Inbox"."at"' in ordered.first_in_line
    assert '"Order Inbox"."at"' not in both.first_in_line
    assert 'min("Order Inbox"."Order At")' in (both.oldest or "")


def test_a_claim_reads_rows_without_locking_them() -> None:
    table = user_table()

    for sql in (table.next_rows(after=True, before=True), table.rows_between, table.sweep_end):
        assert "FOR " not in sql


def test_bounds_are_parameters_counted_in_the_order_asked_for() -> None:
    table = user_table(key=(column("region"),))
    bound = '"Order Inbox"."region" {} (${}::jsonb ->> 0)::pg_catalog.int8'

    between = table.next_rows(after=True, before=True)
    only_before = table.next_rows(after=False, before=True)

    assert bound.format("<=", 5) in between
    assert bound.format(">", 6) in between
    assert bound.format("<", 7) in between
    assert bound.format("<", 6) in only_before
    assert "$7" not in only_before


def test_a_composite_key_is_compared_as_a_row() -> None:
    sql = user_table().rows_between

    assert '("Order Inbox"."region", "Order Inbox"."Order No") <= (($5::jsonb ->> 0)::' in sql
    assert 'ORDER BY "Order Inbox"."region", "Order Inbox"."Order No"' in sql


def test_rows_are_marked_only_as_they_were_claimed() -> None:
    for sql in (user_table().complete, user_table().fail or ""):
        assert '"Order Inbox".xmin = "etl:handled"."etl:version"' in sql
        assert "AND (\nstatus = 1\n)" in sql


def test_a_replay_marks_rows_whatever_their_mark_says() -> None:
    """Rows in quarantine are not pending where `failed` marks them; their version still has to be the claimed one."""
    sql = user_table(replay=True).complete

    assert "AND (\nstatus = 1\n)" not in sql
    assert '"Order Inbox".xmin = "etl:handled"."etl:version"' in sql


def test_results_are_matched_to_rows_by_ordinal() -> None:
    table = user_table()

    for sql in (table.complete, table.unchanged(), table.unmarked or "", table.lockable or ""):
        assert "WITH ORDINALITY" in sql
        assert '"etl:handled"."etl:ordinal" - 1' in sql


def test_with_a_query_the_claim_reads_keys_and_the_query_the_rest() -> None:
    table = user_table(query='SELECT region, "Order No" FROM x')

    assert table.columns == ()
    assert '\nSELECT region, "Order No" FROM x\n)' in table.query_rows
    assert '"status"' not in table.rows_between


def test_the_signature_of_a_key_tells_columns_and_types() -> None:
    assert user_table().key_signature == "region int8, Order No int8"


async def test_postgres_understands_every_statement(db: Any) -> None:
    await db.execute("""
        CREATE SCHEMA sales;
        CREATE TABLE sales."Order Inbox" (
            region bigint, "Order No" bigint, status bigint, txid xid8, "Order At" timestamptz,
            PRIMARY KEY (region, "Order No")
        )""")

    every = {f"{name} of {variant}": sql for variant in VARIANTS for name, sql in statements(VARIANTS[variant]).items()}

    refused = {}
    for name, sql in every.items():
        try:
            await db.prepare(sql)
        except asyncpg.PostgresError as error:
            refused[name] = str(error)

    assert {} == refused
    assert len(every) > 12 * len(VARIANTS)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "ledger" in name or "cursor" in name])
def test_a_table_that_is_only_read_is_neither_written_nor_locked(variant: str) -> None:
    for name, sql in statements(VARIANTS[variant]).items():
        assert not re.search(r"\bFOR (NO KEY )?(UPDATE|SHARE|KEY SHARE)\b", sql), name
        assert not re.search(r'(UPDATE|INSERT INTO|DELETE FROM) "sales"', sql), name
