"""Rows between two stages: what goes on after a stage, and in which order it ends."""

from __future__ import annotations

from collections import UserList
from typing import Any

import pytest

from etl.processors.flow import RAISED, Flow, Item, joined

ROWS = Flow.of(range(4), ["a", "b", "c", "d"])


def rows(flow: Flow) -> list[tuple[int, tuple[int, ...], Any]]:
    return list(zip(flow.ordinals, flow.paths, flow.values, strict=True))


class Several(list[Any]):
    """A list of the user's own kind."""


@pytest.mark.parametrize("result", [0, "", (), {}, False, (1, 2), UserList([1])], ids=repr)
def test_where_each_row_has_one_result_rows_stay_what_they_are(result: Any) -> None:
    following, filtered, raised = ROWS.follow([result, 1, {}, "x"])

    assert [(0, (), result), (1, (), 1), (2, (), {}), (3, (), "x")] == rows(following)
    assert (0, 0) == (filtered, raised)


@pytest.mark.parametrize("kind", [list, Several])
def test_a_row_is_filtered_fanned_out_or_missing_beside_others_that_go_on(kind: type[list[Any]]) -> None:
    first = ROWS.follow([None, kind([1, 2]), RAISED, "d"])
    second = first.flow.follow([[10, 11], kind(), ["D"]])

    assert [(1, (0,), 1), (1, (1,), 2), (3, (), "d")] == rows(first.flow)
    assert (1, 1) == (first.filtered, first.raised)
    assert [(1, (0, 0), 10), (1, (0, 1), 11), (3, (0,), "D")] == rows(second.flow)
    assert (1, 0) == (second.filtered, second.raised)


def test_a_result_that_cannot_be_compared_goes_on_beside_those_that_do_not() -> None:
    class Touchy:
        def __eq__(self, other: object) -> bool:
            raise ValueError("compared")

        __hash__ = None  # type: ignore[assignment]

    touchy = Touchy()
    following, filtered, raised = ROWS.follow([touchy, None, RAISED, touchy])

    assert [0, 3] == following.ordinals
    assert all(value is touchy for value in following.values)
    assert (1, 1) == (filtered, raised)


def test_a_stage_that_does_not_answer_for_each_row_is_a_bug_and_told() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ROWS.follow([None, 1])


def test_rows_that_went_alone_are_put_back_where_they_belong_without_comparing_their_values() -> None:
    late = Flow([1, 1], [(0, 0), (0, 1)], [{}, {}])
    others = Flow([0, 1, 2], [(), (1,), ()], [{}, {}, {}])

    together = joined([others, Flow.of_items([Item(3, (), {})]), late])

    assert [(0, ()), (1, (0, 0)), (1, (0, 1)), (1, (1,)), (2, ()), (3, ())] == [each[:2] for each in rows(together)]
    assert all(together.values[n] is value for n, value in [(1, late.values[0]), (3, others.values[1])])
    assert 0 == len(joined([]))
