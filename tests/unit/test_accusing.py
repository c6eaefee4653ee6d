"""Whom an error seems to speak of: the server's own words, and who is found by them."""

from __future__ import annotations

import pytest

from etl.postgres.accusing import accused, set_apart

ROWS = [(n, {"id": 100 + n, "name": f"row {n}", "data": {"n": n}, "share": n / 2}) for n in range(20)]


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        ('Failing row contains (107, row 7, {"n": 7}, 3.5).', [7]),
        ("Failing row contains (107, row 7, null, null, 2026-01-01).", [7]),
        ("Failing row contains (999, row 7, null).", []),
        ("Key (id)=(103) already exists.", [3]),
        ('Key ("id", name)=(103, row 3) is not present in table "parent".', [3]),
        ("Key (lower(name))=(row 3) already exists.", []),
        ("Key (id)=(103, 4) conflicts with existing key.", []),
        ("Something else.", []),
        ("", []),
        (None, []),
    ],
)
def test_rows_are_found_by_what_the_server_shows(detail: str | None, expected: list[int]) -> None:
    assert accused(detail, ROWS) == expected


def test_a_row_with_several_results_is_named_once() -> None:
    assert accused("Key (id)=(1) already exists.", [(4, {"id": 1}), (4, {"id": 1}), (5, {"id": 2})]) == [4]


def test_a_guess_that_fits_many_rows_is_none() -> None:
    assert accused("Key (kind)=(a) already exists.", [(n, {"kind": "a"}) for n in range(50)]) == []


def test_rows_with_nothing_to_be_known_by_are_not_accused() -> None:
    assert accused("Failing row contains (null).", [(0, {"x": None}), (1, "text"), (2, {"f": 1.5})]) == []


def test_suspects_stand_alone_and_the_order_stays() -> None:
    assert set_apart([1, 2, 5, 6, 9], [2, 6]) == [[1], [2], [5], [6], [9]]
    assert set_apart([1, 2, 5], [1]) == [[1], [2, 5]]
    assert set_apart([1, 2, 5], []) == [[1, 2, 5]]
    assert set_apart([], [3]) == []
