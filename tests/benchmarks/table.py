"""The one table that the benchmark prints."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks.figures import NOISY, Figure, Judged, Report, judge

HEADER = (
    "group",
    "what",
    "n",
    "median",
    "from",
    "to",
    "ratio",
    "from",
    "to",
    "to what",
    "target",
    "",
    "us/row",
    "others",
)
_LEFT = {0, 1, 9, 11}


def render(report: Report) -> str:
    """Facts, the table, and how to read it."""
    lines = [f"{name}: {value}" for name, value in report.facts.items()]
    return "\n".join([*lines, "", *_aligned([HEADER, *table(report.figures)]), "", *report.notes, *_LEGEND])


_LEGEND = (
    "ratio: to the same round's measurement of `to what`; median over the rounds, then the extremes.",
    "us/row: processor microseconds of client and server per row.",
    f"others: share of the processors used by neither, median; `n!` = n measurements with more than {NOISY:.0%} of it.",
)


def table(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """One line per figure, and one more for each further target of it."""
    lines: list[tuple[str, ...]] = []
    former = ""
    for figure, judged in zip(figures, judge(figures), strict=True):
        own = _own_cells("" if figure.group == former else figure.group, figure)
        former = figure.group
        first, *further = [_ratio_cells(each) for each in judged] or [("",) * 6]
        lines.append((*own, *first, *_machine_cells(figure)))
        lines += [("",) * 6 + cells + ("", "") for cells in further]
    return lines


def _own_cells(group: str, figure: Figure) -> tuple[str, ...]:
    values = [sample.value for sample in figure.samples]
    middle = f"{number(figure.median)} {figure.unit}"
    return (group, figure.name, str(len(values)), middle, number(min(values)), number(max(values)))


def _ratio_cells(judged: Judged) -> tuple[str, ...]:
    target = judged.target
    if target.against is None:
        return ("", "", "", "", str(target), judged.verdict)
    against = f"{target.against}, us/row" if target.on_cpu else target.against
    shown = [f"{value:.2f}" for value in (judged.median, judged.least, judged.most)]
    return (*shown, against, str(target), judged.verdict)


def _machine_cells(figure: Figure) -> tuple[str, str]:
    cpu, others = figure.middle("cpu"), figure.middle("others")
    marked = f" {figure.noisy}!" if figure.noisy else ""
    return ("" if cpu is None else f"{cpu:.1f}", "" if others is None else f"{others:.0%}{marked}")


def number(value: float) -> str:
    """Three digits or more, thousands apart."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEADER))]
    return [
        "  ".join(f"{cell:{'<' if n in _LEFT else '>'}{widths[n]}}" for n, cell in enumerate(line)).rstrip()
        for line in lines
    ]
