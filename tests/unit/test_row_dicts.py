"""Columns as rows: as `dict(zip(...))` makes them, for any number of columns and whatever they are called."""

from __future__ import annotations

from typing import Any

import pytest

from etl.postgres.row_dicts import row_dicts


@pytest.mark.parametrize("width", [1, 2, 3, 300])
def test_each_row_has_its_value_of_each_column_in_the_order_of_the_columns(width: int) -> None:
    names = [f"column {n}" for n in range(width)]
    columns = [tuple(f"{row}/{name}" for row in range(3)) for name in names]

    rows = row_dicts(names, columns, 3)

    expected = [dict(zip(names, record, strict=True)) for record in zip(*columns, strict=True)]
    assert expected == rows
    assert names == list(rows[0])


def test_a_column_may_have_any_name() -> None:
    names = ["k0", "v1", "columns", 'a": 1}', "{0}", "", "naïve", "lambda"]

    rows = row_dicts(names, [[n, -n] for n in range(len(names))], 2)

    assert [{name: n for n, name in enumerate(names)}, {name: -n for n, name in enumerate(names)}] == rows


def test_rows_without_columns_are_empty_and_each_its_own() -> None:
    first, second = row_dicts([], [], 2)
    first["new"] = 1

    assert ({"new": 1}, {}) == (first, second)


@pytest.mark.parametrize("columns", [[(1, 2), (1,)], [(1,), (1, 2)]])
def test_columns_of_different_length_are_refused_rather_than_cut(columns: list[tuple[Any, ...]]) -> None:
    with pytest.raises(ValueError, match="argument 2"):
        row_dicts(["a", "b"], columns, 2)
