"""The stages of a run as a table of text that fits the screen: on a narrow one with shorter words and fewer columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from etl.core.stages import StageCounts
from etl.durations import format_duration
from etl.reports.columns import columns
from etl.reports.words import count, latency, one_line, waiting

_LONGEST_BAR = 20
_SHORTEST_BAR = 4
# A run that waited less has no column for it: seconds, and the share of what its stages were busy for.
_TRIFLE = 0.1
_TRIFLING_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class _Form:
    """One way to set the table; each gives up something that the one before had."""

    name: int  # the longest name of a stage, characters
    counts: tuple[str, ...] = ("in", "out", "filtered", "retried", "quarantined")
    latency: bool = True
    exact: bool = True
    waited: bool = False


_SHORT = ("in", "out", "filt.", "retr.", "quar.")
_FORMS = (
    _Form(28),
    _Form(16),
    _Form(16, _SHORT),
    _Form(16, _SHORT, latency=False),
    _Form(12, _SHORT, latency=False, exact=False),
)
_WAITED = [replace(form, waited=True) for form in _FORMS[:3]]


def stage_table(stages: Sequence[StageCounts], width: int) -> list[tuple[str, str]]:
    """Lines of the table, each with its bar: the stage's share of the busiest one's time.

    What stages waited is a column where that is more than a trifle and costs no more than short words and the bar.
    """
    busy = sum(stage.busy_s for stage in stages)
    noteworthy = max((stage.waited_s for stage in stages), default=0.0) >= max(_TRIFLE, _TRIFLING_SHARE * busy)
    lines = _fitting(stages, _WAITED, width) if noteworthy else None
    lines = lines or _fitting(stages, _FORMS, width) or _table(stages, _FORMS[-1])
    room = min(_LONGEST_BAR, width - max(map(len, lines)) - 2)
    busiest = max((stage.busy_s for stage in stages), default=0.0)
    if room < _SHORTEST_BAR or not busiest:
        return [(line, "") for line in lines]
    bars = ["", *("  " + "#" * max(1, round(room * stage.busy_s / busiest)) for stage in stages)]
    return list(zip(lines, bars, strict=True))


def _fitting(stages: Sequence[StageCounts], forms: Sequence[_Form], width: int) -> list[str] | None:
    """The first form that fits, with a bar if that costs no more than short words; None if there is none."""
    tables = [_table(stages, form) for form in forms]
    return next(
        (table for room, some in ((_SHORTEST_BAR + 2, tables[:3]), (0, tables)) for table in some
         if max(map(len, table)) + room <= width),
        None,
    )  # fmt: skip


def _table(stages: Sequence[StageCounts], form: _Form) -> list[str]:
    return columns([_header(form), *(_row(stage, form) for stage in stages)], right=range(1, 9))


def _header(form: _Form) -> list[str]:
    latency, waited = ["p50 / p95"] if form.latency else [], ["waited"] if form.waited else []
    return ["stage", *form.counts, *latency, *waited, "busy"]


def _row(stage: StageCounts, form: _Form) -> list[str]:
    counts = (stage.rows_in, stage.rows_out, stage.filtered, stage.retried, stage.quarantined)
    name = one_line(stage.name)
    return [
        name if len(name) <= form.name else name[: form.name - 1] + "~",
        *(count(each) if form.exact else _rounded(each) for each in counts),
        *([latency(stage)] if form.latency else []),
        *([waiting(stage)] if form.waited else []),
        format_duration(stage.busy_s),
    ]


def _rounded(value: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= 10 * size:
            return f"{value / size:.1f}{unit}"
    return count(value)
