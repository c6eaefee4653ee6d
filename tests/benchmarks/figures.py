"""What was measured, and what it means: samples, ratios of the same round, targets and verdicts. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

# A measurement during which others used more of the machine than this is marked.
NOISY = 0.10


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. `value` in the figure's unit; `cpu` microseconds of client and server per row; `others` the
    share of the machine that neither of them used."""

    value: float
    cpu: float | None = None
    others: float | None = None

    @property
    def is_noisy(self) -> bool:
        """Whether others were at work."""
        return self.others is not None and self.others > NOISY


@dataclass(frozen=True, slots=True)
class Target:
    """A bound: on the ratio to another figure (`against`, its name) or, without it, on the figure itself."""

    at_least: float | None = None
    at_most: float | None = None
    against: str | None = None
    on_cpu: bool = False

    def is_met_by(self, value: float) -> bool:
        """Whether the value keeps within the bounds."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """All samples of one contender in one group, a sample per round, and what is expected of them.

    `baseline`: the figure that the ratio in its line is taken to, unless a target names another.
    """

    group: str
    name: str
    unit: str
    samples: tuple[Sample, ...]
    baseline: str | None = None
    targets: tuple[Target, ...] = ()

    @property
    def median(self) -> float:
        """The middle of the values."""
        return statistics.median(sample.value for sample in self.samples)

    @property
    def noisy(self) -> int:
        """How many samples were taken while others were at work."""
        return sum(sample.is_noisy for sample in self.samples)

    def middle(self, name: str) -> float | None:
        """The median of `cpu` or `others`; None where it was not measured."""
        values = [value for sample in self.samples if (value := getattr(sample, name)) is not None]
        return statistics.median(values) if values else None


@dataclass(frozen=True, slots=True)
class Judged:
    """One target of a figure, judged: the median ratio (or value) with its extremes."""

    figure: Figure
    target: Target
    median: float
    least: float
    most: float

    @property
    def verdict(self) -> str:
        """`ok`, `MISSED`, or nothing where nothing was demanded."""
        if self.target.at_least is None and self.target.at_most is None:
            return ""
        return "ok" if self.target.is_met_by(self.median) else "MISSED"

    def __str__(self) -> str:
        """In words, for a message."""
        of = f" of {self.target.against}" if self.target.against else f" {self.figure.unit}"
        cpu = " in processor time" if self.target.on_cpu else ""
        return f"{self.figure.name} is {self.median:.2f}{of}{cpu}, {self.target} is demanded"


def ratios(figure: Figure, baseline: Figure, *, on_cpu: bool = False) -> list[float]:
    """The figure in terms of the baseline, round by round, so that a slow round is slow for both."""

    def of(sample: Sample) -> float:
        return (sample.cpu or 0.0) if on_cpu else sample.value

    pairs = zip(figure.samples, baseline.samples, strict=True)
    return [of(own) / of(other) for own, other in pairs if of(other)]


def judge(figures: Sequence[Figure]) -> list[list[Judged]]:
    """For each figure what its line and the lines below it say, one entry per target (or one without bounds)."""
    named = {(figure.group, figure.name): figure for figure in figures}
    return [_judge_one(figure, named) for figure in figures]


def _judge_one(figure: Figure, named: dict[tuple[str, str], Figure]) -> list[Judged]:
    targets = list(figure.targets)
    if figure.baseline is not None and all(target.against != figure.baseline for target in targets):
        targets.insert(0, Target(against=figure.baseline))
    judged = []
    for target in targets:
        if target.against is None:
            values = [sample.value for sample in figure.samples]
        else:
            other = named.get((figure.group, target.against))
            values = [] if other is None else ratios(figure, other, on_cpu=target.on_cpu)
        if values:
            judged.append(Judged(figure, target, statistics.median(values), min(values), max(values)))
    return judged


def missed(figures: Sequence[Figure]) -> list[Judged]:
    """The targets that were not met."""
    return [judged for line in judge(figures) for judged in line if judged.verdict == "MISSED"]


def out_of_bounds_twice(first: Sequence[Figure], second: Sequence[Figure]) -> list[Figure]:
    """The second measurement, without those targets that were only missed there: what counts is missed in both."""
    before = {(each.figure.name, each.target) for each in missed(first)}
    only_now = {(each.figure.name, each.target) for each in missed(second)} - before
    return [
        replace(figure, targets=tuple(target for target in figure.targets if (figure.name, target) not in only_now))
        for figure in second
    ]


def best_of(name: str, figures: Sequence[Figure]) -> Figure:
    """A figure made of the one with the best median, higher being better, under a name of its own."""
    return replace(max(figures, key=lambda figure: figure.median), name=name)


@dataclass(slots=True)
class Report:
    """Everything that one call of the benchmark found, for the table and for the file."""

    facts: dict[str, str]
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """All of it, every sample included."""
        judged = [
            {"group": each.figure.group, "figure": each.figure.name, "target": asdict(each.target)}
            | {"median": each.median, "least": each.least, "most": each.most, "verdict": each.verdict}
            for line in judge(self.figures)
            for each in line
        ]
        figures = [asdict(figure) for figure in self.figures]
        return {"facts": self.facts, "figures": figures, "judged": judged, "notes": self.notes}
