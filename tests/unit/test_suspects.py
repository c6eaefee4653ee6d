"""In what pieces rows come back whose holder vanished, and when a row is held to have killed its process."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl.core.suspects import MAX_CRASHES, is_poison, must_be_alone, piece_size


@pytest.mark.parametrize(
    ("expected", "batch_size", "crashes"),
    [(1000, 1000, 0), (125, 1000, 1), (1, 1000, 2), (1, 1000, 7), (1, 7, 1), (1, 1, 1), (1, 1, 0)],
)
def test_pieces_shrink_from_n_to_an_eighth_to_one(expected: int, batch_size: int, crashes: int) -> None:
    assert expected == piece_size(batch_size, crashes)


@given(st.integers(1, 100_000), st.integers(0, 10))
def test_a_piece_is_never_empty_and_never_grows_with_the_deaths(batch_size: int, crashes: int) -> None:
    assert 1 <= piece_size(batch_size, crashes + 1) <= piece_size(batch_size, crashes) <= batch_size


@given(st.integers(1, 100_000), st.integers(0, 10))
def test_only_a_row_that_was_alone_can_become_poison(batch_size: int, crashes: int) -> None:
    """The death that makes a row poison happened to a piece of one, with nothing else in flight."""
    if is_poison(crashes):
        assert piece_size(batch_size, crashes - 1) == 1
        assert must_be_alone(crashes - 1)


def test_a_row_is_given_up_after_the_third_death() -> None:
    assert MAX_CRASHES == 3
    assert [False, False, False, True] == [is_poison(crashes) for crashes in range(4)]
    assert [False, False, True, True] == [must_be_alone(crashes) for crashes in range(4)]


@given(st.integers(1, 2000), st.data())
def test_one_killer_costs_three_deaths_and_no_neighbour(rows: int, data: st.DataObject) -> None:
    """Rows are handed out piece by piece; whoever holds the killer dies with all it holds."""
    killer = data.draw(st.integers(0, rows - 1))
    ranges = [(range(rows), 0)]
    deaths, poison, handled = 0, [], 0

    while ranges:
        held, crashes = ranges.pop(0)
        piece, rest = held[: piece_size(1000, crashes)], held[piece_size(1000, crashes) :]
        if rest:
            ranges.append((rest, min(crashes, MAX_CRASHES - 1)))
        if is_poison(crashes):
            poison += list(piece)
        elif killer in piece:
            deaths += 1
            ranges.append((piece, crashes + 1))
        else:
            handled += len(piece)

    assert [killer] == poison
    assert deaths == MAX_CRASHES
    assert handled == rows - 1
