"""A run that is going on, as lines: pure, from facts to text, right for any width."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from etl.core.counts import Counts
from etl.core.stages import StageCounts
from etl.durations import format_duration
from etl.reports import words
from etl.reports.stage_table import stage_table
from etl.reports.terminal import Line, Paint, painted, plain

NARROWEST = 20
_LONGEST_BAR = 60
_SHORTEST_BAR = 10
_FOR_STAGES = 50  # a narrower screen has no room for their table


@dataclass(frozen=True, slots=True)
class LiveFacts:
    """A run at one moment. `total`: rows there are to do, as counted before it began; None where nobody knows.

    Rates are rows a second, None before there is one; `left_s` is None where it cannot be told. `waits`: what the
    database waits for; `awaits`: what the run cannot go on without, which says why nothing else happens.
    """

    job: str
    elapsed_s: float
    counts: Counts
    total: int | None = None
    stages: Sequence[StageCounts] = field(default_factory=tuple)
    rate_now: float | None = None
    rate_mean: float | None = None
    left_s: float | None = None
    waits: str | None = None
    awaits: str | None = None
    stopping: bool = False


def render_live(facts: LiveFacts, *, width: int, paint: Paint = plain) -> list[str]:
    """The screen of a run that is going on: no line is wider than `width`."""
    width = max(NARROWEST, width)
    state = ("warn", "stopping") if facts.stopping else ("strong", "running")
    head = f" {'after' if facts.stopping else 'for'} {_elapsed(facts.elapsed_s)}"
    name = _cut(words.one_line(facts.job), max(4, width - len(head) - len(state[1]) - 3))
    lines: list[Line] = [[("strong", name), ("", "   "), state, ("", head)]]
    lines += _progress(facts, width)
    lines += _lines("", ", ".join(_pace(facts)), width)
    lines += _outcomes(facts.counts, width)
    if facts.stages and width >= _FOR_STAGES:
        lines.append([])
        lines += [[("", f" {text}"), ("bar", bar)] for text, bar in stage_table(facts.stages, width - 1)]
    if facts.awaits:
        lines += [[], *_lines("warn", f"waiting: {facts.awaits}", width)]
    elif facts.waits:
        lines += [[], *_lines("warn" if "lock" in facts.waits else "", f"database: {facts.waits}", width)]
    return painted([_fitted(line, width) for line in lines], paint)


def one_line(facts: LiveFacts) -> str:
    """The same where nothing can be redrawn."""
    parts = [_amount(facts), *_pace(facts), f"waiting: {facts.awaits}" if facts.awaits else ""]
    return f"{words.one_line(facts.job)}: {', '.join(part for part in parts if part)}"


def time_left(seconds: float) -> str:
    """As exact as an estimate can be."""
    if seconds < 10:
        return "a few seconds left"
    if seconds < 55:
        return f"about {_to(seconds, 10)} s left"
    if seconds < 10 * 60:
        return f"about {max(1, round(seconds / 60))} min left"
    if seconds < 57.5 * 60:
        return f"about {_to(seconds / 60, 5)} min left"
    if seconds < 10 * 3600:
        return f"about {_to(seconds / 3600, 0.5):g} h left"
    if seconds < 48 * 3600:
        return f"about {round(seconds / 3600)} h left"
    return f"about {round(seconds / 86400):,} days left"


def _elapsed(seconds: float) -> str:
    """Whole seconds: it is drawn again and again."""
    return f"{int(seconds)} s" if seconds < 60 else format_duration(int(seconds))


def _to(value: float, step: float) -> float:
    return round(value / step) * step


def _amount(facts: LiveFacts) -> str:
    done = facts.counts.accounted
    if facts.total is None or done > facts.total:  # more came than there were when it began
        return f"{done:,} {'row' if done == 1 else 'rows'}"
    return f"{done:,} of about {facts.total:,} {'row' if facts.total == 1 else 'rows'}"


def _progress(facts: LiveFacts, width: int) -> list[Line]:
    amount, done = _amount(facts), facts.counts.accounted
    if not facts.total or done > facts.total:
        return _lines("", amount, width)
    share = done / facts.total
    percent = f"{min(99, int(100 * share)) if done < facts.total else 100:3d} %"
    room = min(_LONGEST_BAR, width - len(amount) - len(percent) - 7)
    if room < _SHORTEST_BAR:
        return _lines("", f"{amount}, {percent.strip()}", width)
    full = int(room * share)
    bar: Line = [("", " ["), ("bar", "#" * full), ("quiet", "." * (room - full)), ("", "]")]
    return [[*bar, ("", f"  {amount}{percent.rjust(7)}")]]


def _pace(facts: LiveFacts) -> list[str]:
    parts = []
    if facts.rate_now is not None:
        parts.append(f"{_rate(facts.rate_now)} rows/s now")
    if facts.rate_mean is not None:
        parts.append(f"{_rate(facts.rate_mean)} on average")
    if facts.left_s is not None and not facts.stopping:
        parts.append(time_left(facts.left_s))
    return parts


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.1f}"


def _outcomes(counts: Counts, width: int) -> list[Line]:
    """Without colour for what is as it should be; trouble is a word and a colour."""
    parts = [("", f"{counts.written:,} written")]
    parts += [("", f"{counts.filtered:,} filtered")] if counts.filtered else []
    for name, role in (("quarantined", "bad"), ("retried", "warn"), ("deferred", "warn"), ("vanished", "")):
        if value := getattr(counts, name):
            parts.append((role, f"{value:,} {name}"))
    lines: list[Line] = [[("", " ")]]
    length = 1
    for role, text in parts:
        if length > 1 and length + len(text) + 2 > width:
            lines.append([("", " ")])
            length = 1
        if length > 1:
            lines[-1].append(("", ", "))
            length += 2
        lines[-1].append((role, text))
        length += len(text)
    return lines


def _lines(role: str, text: str, width: int) -> list[Line]:
    return [[("", " "), (role, each)] for each in textwrap.wrap(words.one_line(text), width - 1)]


def _fitted(line: Line, width: int) -> Line:
    """On the narrowest of screens something has to go."""
    fitted: Line = []
    for role, text in line:
        fitted.append((role, text[: max(0, width)]))
        width -= len(text)
    return fitted


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(0, room - 3)] + "..."
