"""The table of stages: what it tells of waiting, and that it fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etl.core.stages import StageCounts, histogram
from etl.reports.stage_table import stage_table

CLAIM = StageCounts("claim", rows_out=12_400, busy_s=1.1, calls=histogram([0.05] * 13))
GEOCODE = StageCounts("geocode", 12_400, 12_310, 57, 214, 33, 118.0, histogram([0.008] * 90 + [0.041] * 10))
SINK = StageCounts("-> dst", 12_310, 12_310, busy_s=9.7, calls=histogram([0.7] * 13))
WAITED = [CLAIM, replace(GEOCODE, waited_s=45.2), replace(SINK, waited_s=0.004)]


def lines(stages: list[StageCounts], width: int) -> list[str]:
    """The lines with their bars."""
    return [text + bar for text, bar in stage_table(stages, width)]


def test_what_stages_waited_stands_before_what_they_were_busy() -> None:
    assert [
        "stage        in     out  filtered  retried  quarantined     p50 / p95  waited        busy",
        "claim         -  12,400         -        -            -    48 / 48 ms       -      1.10 s  #",
        "geocode  12,400  12,310        57      214           33   8.5 / 40 ms  45.2 s  1 min 58 s  ####################",
        "-> dst   12,310  12,310         -        -            -  647 / 647 ms       -      9.70 s  ##",
    ] == lines(WAITED, 119)


def test_on_eighty_columns_waiting_takes_the_place_of_the_bar() -> None:
    assert [
        "stage        in     out  filt.  retr.  quar.     p50 / p95  waited        busy",
        "claim         -  12,400      -      -      -    48 / 48 ms       -      1.10 s",
        "geocode  12,400  12,310     57    214     33   8.5 / 40 ms  45.2 s  1 min 58 s",
        "-> dst   12,310  12,310      -      -      -  647 / 647 ms       -      9.70 s",
    ] == lines(WAITED, 79)


def test_where_there_is_no_room_for_it_the_table_is_as_if_nothing_had_waited() -> None:
    stages = [CLAIM, replace(GEOCODE, waited_s=7205.0), SINK]

    assert lines([CLAIM, GEOCODE, SINK], 79) == lines(stages, 79)
    assert "2 h 00 min" in lines(stages, 119)[2]


@pytest.mark.parametrize(
    ("busy", "waited", "shown"), [(1, 0.09, False), (1, 0.1, True), (50, 0.4, False), (50, 0.5, True)]
)
def test_a_trifle_has_no_column(busy: float, waited: float, shown: bool) -> None:
    stages = [StageCounts("act", 1, 1, busy_s=busy, waited_s=waited)]

    assert shown is ("waited" in lines(stages, 119)[0].split())


@pytest.mark.parametrize("width", range(39, 130))
def test_no_line_is_wider_than_the_screen_whatever_waited(width: int) -> None:
    narrowest = max(map(len, lines([CLAIM, GEOCODE, SINK], 1)))

    assert max(map(len, lines(WAITED, width))) <= max(width, narrowest)
