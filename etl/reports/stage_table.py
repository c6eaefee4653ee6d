"""The stages of a run as a table of text that fits the screen: on a narrow one with shorter words and fewer columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etl.core.stages import StageCounts
from etl.durations import format_duration
from etl.reports.columns import columns
from etl.reports.words import count, latency, one_line

_LONGEST_BAR = 20
_SHORTEST_BAR = 4


@dataclass(frozen=True, slots=True)
class _Form:
    """One way to set the table; each gives up something that the one before had."""

    name: int  # the longest name of a stage, characters
    header: tuple[str, ...] = ("in", "out", "filtered", "retried", "quarantined", "p50 / p95", "busy")
    latency: bool = True
    exact: bool = True


_SHORT = ("in", "out", "filt.", "retr.", "quar.", "p50 / p95", "busy")
_FORMS = (
    _Form(28),
    _Form(16),
    _Form(16, _SHORT),
    _Form(16, _SHORT, latency=False),
    _Form(12, _SHORT, latency=False, exact=False),
)


def stage_table(stages: Sequence[StageCounts], width: int) -> list[tuple[str, str]]:
    """Lines of the table, each with its bar: the stage's share of the busiest one's time."""
    tables = [columns([_header(form), *(_row(stage, form) for stage in stages)], right=range(1, 8)) for form in _FORMS]
    # With a bar if that costs no more than short words; else the first that fits, else the narrowest.
    lines = next(
        (table for room, some in ((_SHORTEST_BAR + 2, tables[:3]), (0, tables)) for table in some
         if max(map(len, table)) + room <= width),
        tables[-1],
    )  # fmt: skip
    room = min(_LONGEST_BAR, width - max(map(len, lines)) - 2)
    busiest = max((stage.busy_s for stage in stages), default=0.0)
    if room < _SHORTEST_BAR or not busiest:
        return [(line, "") for line in lines]
    bars = ["", *("  " + "#" * max(1, round(room * stage.busy_s / busiest)) for stage in stages)]
    return list(zip(lines, bars, strict=True))


def _header(form: _Form) -> list[str]:
    return ["stage", *(each for each in form.header if form.latency or each != "p50 / p95")]


def _row(stage: StageCounts, form: _Form) -> list[str]:
    counts = (stage.rows_in, stage.rows_out, stage.filtered, stage.retried, stage.quarantined)
    name = one_line(stage.name)
    return [
        name if len(name) <= form.name else name[: form.name - 1] + "~",
        *(count(each) if form.exact else _rounded(each) for each in counts),
        *([latency(stage)] if form.latency else []),
        format_duration(stage.busy_s),
    ]


def _rounded(value: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= 10 * size:
            return f"{value / size:.1f}{unit}"
    return count(value)
