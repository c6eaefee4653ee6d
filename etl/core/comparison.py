"""Two runs of a job side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from etl.core.baseline import Measure, Usual
from etl.core.counts import Counts
from etl.core.report import ErrorGroup, RunReport, rate
from etl.core.stages import StageCounts, quantile
from etl.durations import format_duration

_NOTHING = "-"
_DIGITS = 12  # of a version of code


@dataclass(frozen=True, slots=True)
class Compared:
    """One fact of both runs as text, and how it changed (`+12 %`; empty where it did not)."""

    name: str
    this: str
    other: str
    change: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two runs. `appeared`: errors of this one only; `vanished`: of the other one only."""

    this: RunReport
    other: RunReport
    facts: Sequence[Compared]
    appeared: Sequence[ErrorGroup]
    vanished: Sequence[ErrorGroup]


def compare(this: RunReport, other: RunReport) -> Comparison:
    """Set two runs side by side: outcome, time, books, stages, errors."""
    facts = [
        Compared("state", str(this.run.state), str(other.run.state)),
        Compared("trigger", this.run.trigger, other.run.trigger),
        *_code(this.run.code_version, other.run.code_version),
        _seconds("duration", this.run.duration_s, other.run.duration_s),
        _number("rows/s", rate(this.run), rate(other.run)),
        *(
            _number(field.name, getattr(this.run.counts, field.name), getattr(other.run.counts, field.name))
            for field in fields(Counts)
            if getattr(this.run.counts, field.name) or getattr(other.run.counts, field.name)
        ),
        *_stages(this.stages, other.stages),
    ]
    here, there = ({group.reason for group in report.errors} for report in (this, other))
    return Comparison(
        this,
        other,
        facts,
        [group for group in this.errors if group.reason not in there],
        [group for group in other.errors if group.reason not in here],
    )


def usual_facts(past: Usual | None) -> dict[str, str]:
    """What is usual by the names that `compare` gives its facts, of what is judged; of rows set aside the share."""
    norms = {} if past is None else past.norms
    wordings: dict[Measure, tuple[str, Callable[[float], str]]] = {
        Measure.duration: ("duration", brief),
        Measure.rate: ("rows/s", "{:,.0f}".format),
        Measure.rows: ("claimed", "{:,.0f}".format),
        Measure.quarantined: ("quarantined", "{:.1%}".format),
    }
    return {name: say(norms[measure].middle) for measure, (name, say) in wordings.items() if measure in norms}


def _code(this: str | None, other: str | None) -> list[Compared]:
    """By what code they were, as far as that differs: the commit or package, and the module itself."""
    one, two = (
        dict(part.split(":", 1) for part in (version or "").split() if ":" in part) for version in (this, other)
    )
    return [
        Compared(f"code: {kind}", one.get(kind, _NOTHING)[:_DIGITS], two.get(kind, _NOTHING)[:_DIGITS], "another")
        for kind in dict.fromkeys([*one, *two])
        if one.get(kind) != two.get(kind)
    ]


def _stages(this: Sequence[StageCounts], other: Sequence[StageCounts]) -> list[Compared]:
    """Stages are matched by name and place among those of that name."""
    mine, theirs = _placed(this), _placed(other)
    compared = []
    for place in dict.fromkeys([*mine, *theirs]):
        one, two = mine.get(place), theirs.get(place)
        name = place[0]
        compared += [
            _number(f"{name}: out", *(_of(stage, lambda stage: stage.rows_out) for stage in (one, two))),
            _seconds(f"{name}: busy", *(_of(stage, lambda stage: stage.busy_s) for stage in (one, two))),
            _seconds(f"{name}: p95", *(_of(stage, lambda stage: quantile(stage.calls, 0.95)) for stage in (one, two))),
        ]
    return [each for each in compared if (each.this, each.other) != (_NOTHING, _NOTHING)]


def _of(stage: StageCounts | None, fact: Callable[[StageCounts], float | None]) -> float | None:
    return None if stage is None else fact(stage)


def _placed(stages: Sequence[StageCounts]) -> dict[tuple[str, int], StageCounts]:
    placed: dict[tuple[str, int], StageCounts] = {}
    for stage in stages:
        number = sum(name == stage.name for name, _ in placed)
        placed[stage.name, number] = stage
    return placed


def _number(name: str, this: float | None, other: float | None) -> Compared:
    one, two = (_NOTHING if value is None else f"{value:,.0f}" for value in (this, other))
    return Compared(name, one, two, _change(this, other))


def _seconds(name: str, this: float | None, other: float | None) -> Compared:
    one, two = (_NOTHING if value is None else brief(value) for value in (this, other))
    return Compared(name, one, two, _change(this, other))


def brief(seconds: float) -> str:
    """A duration of any size for people: `41 ms`, `2.9 us`, `1.50 s`."""
    for scale, unit in ((1e3, "ms"), (1e6, "us")):
        if seconds < 0.1 and (seconds * scale >= 1 or unit == "us"):
            return f"{seconds * scale:.{0 if seconds * scale >= 10 else 1}f} {unit}"
    return format_duration(seconds)


def _change(this: float | None, other: float | None) -> str:
    if this is None or other is None or this == other:
        return ""
    return f"{100 * (this - other) / other:+,.0f} %" if other else "from nothing"
