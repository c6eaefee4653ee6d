"""What a backfill says at its end."""

from __future__ import annotations

import pytest

from etl.core.backfill import Only, made_up_for


@pytest.mark.parametrize(
    ("runs", "only", "early", "said"),
    [
        (4, None, False, "4 of 4 fire times made up for"),
        (4, None, True, "4 of 4 fire times made up for"),
        (1, None, False, "1 of 4 fire times made up for; the others had their run"),
        (1, Only.missing, False, "1 of 4 fire times made up for; the others had their run"),
        (1, Only.failed, False, "1 of 4 fire times made up for; the others did not fail"),
        (1, None, True, "1 of 4 fire times made up for; it ended early"),
    ],
)
def test_a_backfill_says_no_more_of_the_others_than_it_knows(
    runs: int, only: Only | None, early: bool, said: str
) -> None:
    assert said == made_up_for(runs, 4, only, ended_early=early)
