"""Which columns a SET list assigns, read the way the server reads it."""

from __future__ import annotations

from typing import Any

import asyncpg
import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl.core.table import quote_identifier
from etl.postgres.assignments import assigned_columns


@pytest.mark.parametrize(
    ("expected", "assignments"),
    [
        (["status"], "status = 'done'"),
        (["status"], "  Status='done'  "),
        (["a", "b"], "a = 1, b = 2"),
        (["a", "b"], "a = 1,\n b = 2"),
        (["Order No"], '"Order No" = 1'),
        (['say "hi"'], '"say ""hi""" = 1'),
        (["x=y", "b"], '"x=y" = 1, b = 2'),
        (["a,b", "c"], '"a,b" = 1, c = 2'),
        (["a", "b"], "a = '1, id = 2', b = 3"),
        (["a", "b"], "a = 'it''s, id = 2', b = 3"),
        (["a", "b"], r"a = E'it\'s, id = 2', b = 3"),
        (["a", "b"], "a = $$x, id = 2$$, b = 3"),
        (["a", "b"], "a = $tag$x $$, id = 2$tag$, b = 3"),
        (["a", "b"], "a = f(1, 2), b = (SELECT max(x), y FROM t)"),
        (["a", "b"], "a = ARRAY[1, 2], b = 3"),
        (["a", "b", "c"], "(a, b) = (1, 2), c = 3"),
        (["a", "b c"], '(a, "b c") = (SELECT 1, 2)'),
        (["a", "b"], "a = ROW(1, 2), b = b = 3"),
        (["a", "b"], "a -- , id = 2\n = 1, b = 2 -- , c = 3"),
        (["a", "b"], "a /* = */ = 1, /* id = 2, */ b = 3"),
        (["a", "b"], "a = '--', b = '/*'"),
        (["tags"], "tags[1] = 'x'"),
        (["place"], "place.city = 'x'"),
        (["Place"], '"Place"."city" = \'x\''),
        (["a$b$c", "d"], "a$b$c = 1, d = 2"),
        (["done_at"], "done_at = now() AT TIME ZONE 'UTC'"),
        (["done_at"], "done_at = DEFAULT"),
        ([], ""),
        ([], " -- nothing"),
    ],
)
def test_the_assigned_columns_are_found(expected: list[str], assignments: str) -> None:
    assert expected == assigned_columns(assignments)


values = st.sampled_from(
    ["1", "'x'", "'a, b = 2'", "'it''s'", "f(1, 2)", "(SELECT a, b FROM t)", "ARRAY[1, 2]", "$$, c = 1$$", "E'\\', d = 1'",
     "now()", "x = y", "CASE WHEN a = 1 THEN 2 END", "'--'", "/* , z = 1 */ 2", "\"q,\"", "DEFAULT"]
)  # fmt: skip
names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)


@given(
    st.lists(
        st.tuples(names, values, st.sampled_from([" ", "", "\n", " -- , e = 1\n", "/* , f = 1 */"])),
        min_size=1,
        max_size=5,
    )
)
def test_any_list_of_quoted_columns_is_read_back(assignments: list[tuple[str, str, str]]) -> None:
    expected = [name for name, _, _ in assignments]

    text = ",".join(f"{space}{quote_identifier(name)}{space}={value}{space}" for name, value, space in assignments)

    assert expected == assigned_columns(text)


@given(st.text(alphabet="ab\"'$()[],=-/*\\E \n", max_size=40))
def test_text_that_is_no_sql_is_read_without_an_error(text: str) -> None:
    """What is wrong with it the server tells better."""
    assert isinstance(assigned_columns(text), list)


@pytest.mark.parametrize(
    "assignments",
    ["\"Odd, Name\" = 1, b = E'it\\'s, id = 2'", "(a, b) = (SELECT 1, 2)", "a = $x$, id = 3$x$, b = 1 -- , id = 4",
     "tags[1] = 5", "a$b = 1"],
)  # fmt: skip
async def test_the_server_reads_the_same_columns(assignments: str, db: Any) -> None:
    """Postgres refuses a column assigned twice, so assigning one again tells whether it was among them."""
    await db.execute("""CREATE TABLE t (id int, a text, b text, a$b int, tags int[], "Odd, Name" int)""")
    columns = ["id", "a", "b", "a$b", "tags", "Odd, Name"]

    found = []
    for name in columns:
        try:
            await db.prepare(f"UPDATE t SET {quote_identifier(name)} = DEFAULT, {assignments}")
        except asyncpg.SyntaxOrAccessError as refused:  # an array element cannot be assigned beside its column
            found.append(name if "multiple assignments to same column" in str(refused) else "tags")

    assert set(found) == set(assigned_columns(assignments))
