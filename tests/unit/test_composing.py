"""What is said to the server where the tests' own has not got it: collations that take different texts for equal."""

from __future__ import annotations

from dataclasses import replace

from etl.core.table import Column, Table
from etl.postgres.writing.composing import Upsert, arrange, find_unfit, insert_rows
from etl.postgres.writing.rows import Group
from etl.postgres.writing.values import compares_alike, travel

PLAIN = Column(
    "k", "pg_catalog.text", "S", "b", "text", not_null=True, generated=False, collation='pg_catalog."default"'
)
WITHOUT_CASE = replace(PLAIN, collation='public."no case"')


def test_keys_go_by_their_bytes_unless_a_collation_of_their_own_says_otherwise() -> None:
    written = {}
    for name, column in (("plain", PLAIN), ("own", WITHOUT_CASE)):
        table = Table("public", "t", {"k": column}, (("k",),))
        written[name] = insert_rows(
            table, [column], [travel(column, ["a"])], ["k"], Upsert(("k",), always=True), last_of_each=True
        )

    assert 'DISTINCT ON ("etl:1" COLLATE pg_catalog."C")' in written["plain"]
    assert 'DISTINCT ON ("etl:1" COLLATE public."no case")' in written["own"]
    assert 'ORDER BY "etl:1" COLLATE public."no case", "etl:number" DESC' in written["own"]
    assert 'DISTINCT ON ("etl:1" COLLATE public."no case")' in arrange([WITHOUT_CASE], last_of_each=True)


def test_python_does_not_judge_keys_that_another_collation_compares() -> None:
    assert compares_alike([PLAIN], [["A", "a"]])
    assert not compares_alike([WITHOUT_CASE], [["A", "a"]])
    assert not compares_alike([PLAIN], [["A", None]])


def test_rows_are_distinct_by_all_columns_of_the_key_together() -> None:
    rows = Group(("b", "a", "c"), [[1, 2, 1], [1, 1, 2], [1, 1, 1]], range(3))

    assert [False, False, True, False] == [rows.distinct(key) for key in [("a",), ("b",), ("a", "b"), ("c", "a")]]


def test_a_condition_sees_its_columns_with_their_names_lengths_and_collations() -> None:
    column = replace(WITHOUT_CASE, name='a "b"')
    way = travel(column, ["x"])

    sql = find_unfit([(column, way, "character(3)")], ["NOT a", "b OR c"], 5)

    assert """("etl:1")::character(3) COLLATE public."no case" AS "a ""b""\"""" in sql
    assert " WHERE (NOT a) IS FALSE OR (b OR c) IS FALSE ORDER BY " in sql
    assert sql.endswith("LIMIT 5")
