"""A run on one screen of text: aligned, readable without colour.

Lines are made of pieces with a role; what a role looks like is decided last, when whatever data holds has been made
harmless, so that colour never changes what is said or where it stands.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from etl.core.comparison import Comparison
from etl.core.report import (
    ErrorGroup,
    FormerError,
    RunReport,
    Slice,
    Standing,
    beside_usual,
    fewer,
    rate,
    unusual,
    verdict,
)
from etl.core.run import RunState
from etl.core.sanitise import showable
from etl.reports import words
from etl.reports.columns import WIDTH, columns
from etl.reports.episodes import episode_text
from etl.reports.stage_table import stage_table

_GROUPS = 8
_GONE = 3
_RAMP = " .:-=+*#"
_SPARKS = 30  # characters of a sparkline
_FEW = 10  # batches that make no line yet

Piece: TypeAlias = tuple[str, str]  # role, text
Line: TypeAlias = list[Piece]
Paint: TypeAlias = Callable[[str, str], str]

_SGR = {"good": "32", "warn": "33", "bad": "31", "strong": "1", "quiet": "2", "bar": "36"}
_STANDING = {Standing.new: ("bad", " NEW  "), Standing.known: ("", " known"), None: ("", " " * 6)}
_STATE_ROLES = {RunState.succeeded: "good", RunState.partial: "warn"}


def plain(role: str, text: str) -> str:
    """No colour."""
    return text


def ansi(role: str, text: str) -> str:
    """Colour for a terminal."""
    return f"\x1b[{_SGR[role]}m{text}\x1b[0m" if role and text.strip() else text


def render_report(report: RunReport, *, width: int = WIDTH, program: str = "etl", paint: Paint = plain) -> list[str]:
    """The report as lines of at most about `width` characters; commands to type begin with `program`."""
    run = report.run
    role = _STATE_ROLES.get(run.state, "bad" if run.state.is_final else "strong")
    lines: list[Line] = [
        [("strong", run.job), ("", f"   run {run.run_id}   "), (role, str(run.state).upper())],
        *_wrapped(verdict(run), width),
        *_plain(_joined(words.when(run), width)),
    ]
    if said := beside_usual(run, report.usual):
        lines += _wrapped(said, width)
    if said := unusual(run, report.usual):
        lines += [[("warn", each)] for each in textwrap.wrap(said, width)]
    for episode in report.episodes:
        role = "" if episode.closed_at else "bad"
        lines += [[(role, each)] for each in textwrap.wrap(episode_text(episode), width)[:3]]
    if run.error and run.state is not RunState.cancelled:
        text = words.one_line(f"{run.error_type}: {run.error}")
        lines += [[("bad", each)] for each in textwrap.wrap(text, width)[:4]]
    if report.stages:
        lines += [[], *_stages(report, width)]
    lines += [[], *_books(report, width)]
    if report.errors or report.gone:
        lines += [[], *_errors(report.errors, report.gone, width)]
    facts = [*_backlog(report, width), *_outlook(report, program, width)]
    lines += [[], *facts] if facts else []
    if commands := words.follow_up(report, program):
        lines += [[], [("", " next")], *([("strong", f"   {command}")] for command in commands)]
    return painted(lines, paint)


def render_comparison(comparison: Comparison, *, width: int = WIDTH, paint: Paint = plain) -> list[str]:
    """Two runs side by side as lines."""
    this, other = comparison.this.run, comparison.other.run
    room = max(12, width - 60)
    rows = [["", f"run {str(this.run_id)[:8]}", f"run {str(other.run_id)[:8]}", "change"]]
    for fact in comparison.facts:
        name = words.one_line(fact.name)
        rows.append([name if len(name) <= room else name[: room - 3] + "...", fact.this, fact.other, fact.change])
    lines: list[Line] = [
        [("strong", this.job), ("", f"   run {this.run_id}")],
        [("", f"compared with   run {other.run_id}")],
        [],
        *_plain(f" {line}" for line in columns(rows, right=(1, 2, 3))),
    ]
    for title, groups, role in (("only here", comparison.appeared, "bad"), ("only there", comparison.vanished, "good")):
        if groups:
            lines += [[], [("", f" errors {title}")]]
            lines += [
                [(role, f" {group.rows:>9,}"), ("", _cut(f"  {words.group_text(group)}", width - 10))]
                for group in groups[:_GROUPS]
            ]
            if len(groups) > _GROUPS:
                lines.append([("", f" {'':>9}  and {len(groups) - _GROUPS} more kinds")])
    if not comparison.appeared and not comparison.vanished:
        lines += [
            [],
            [("", " errors: the same kinds in both" if comparison.this.errors else " errors: none in either")],
        ]
    return painted(lines, paint)


def painted(lines: Sequence[Line], paint: Paint) -> list[str]:
    """Lines as text, with whatever is in them made harmless first."""
    done = []
    for line in lines:
        safe = [(role, showable(text).replace("\n", " ").replace("\t", " ")) for role, text in line]
        while safe and not safe[-1][1].rstrip():
            safe.pop()
        if safe:
            safe[-1] = (safe[-1][0], safe[-1][1].rstrip())
        done.append("".join(paint(role, text) for role, text in safe))
    return done


def _plain(texts: Iterable[str]) -> list[Line]:
    return [[("", text)] for text in texts]


def _wrapped(text: str, width: int) -> list[Line]:
    """In lines, but no number without its percent sign."""
    bound = words.one_line(text).replace(" %", "\xa0%")
    return _plain(each.replace("\xa0%", " %") for each in textwrap.wrap(bound, width) or [""])


def _joined(parts: Sequence[str], width: int) -> list[str]:
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 3 > width:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] += f", {part}"
    return lines


def _stages(report: RunReport, width: int) -> list[Line]:
    lines: list[Line] = []
    for text, bar in stage_table(report.stages, width - 1):
        lines.append([("", f" {text}"), ("bar", bar)])
    return lines


def _books(report: RunReport, width: int) -> list[Line]:
    run = report.run
    off = run.state.is_final and not run.counts.balanced
    lines: list[Line] = [[("bad" if off else "", f" {each}")] for each in textwrap.wrap(words.books(run), width - 1)]
    if (pace := rate(run)) is not None:
        lines.append([("", f" {pace:,.0f} rows/s in {words.batches(run.counts.batches)}"), *_sparkline(report.slices)])
    if took := words.took(run):
        lines += _plain(textwrap.wrap(took, width, initial_indent=" ", subsequent_indent=" "))
    return lines


def _sparkline(slices: Sequence[Slice]) -> Line:
    """Rows a second over the run's time; nothing for a handful of batches."""
    number = sum(each.batches for each in slices)
    rates = [each.rate for each in fewer(slices, min(_SPARKS, number // 2))]
    if number < _FEW or not (peak := max(rates)):
        return []
    marks = "".join(_RAMP[0 if not pace else max(1, round(pace / peak * (len(_RAMP) - 1)))] for pace in rates)
    return [("", "   |"), ("bar", marks), ("", f"|   peak {peak:,.0f}")]


def _errors(groups: Sequence[ErrorGroup], gone: Sequence[FormerError], width: int) -> list[Line]:
    lines: list[Line] = [[("", " errors")]]
    marked = any(group.standing for group in groups) or bool(gone)
    for group in groups[:_GROUPS]:
        more = f" (and {group.messages - 1} like it)" if group.messages > 1 else ""
        settled = "" if group.open_rows == group.rows else f" [{group.rows - group.open_rows:,} settled since]"
        room = width - 12 - 6 * marked
        standing = _STANDING[group.standing]
        place = f"at {words.one_line(group.frame)}" if group.frame else ""
        told = _lines(words.group_text(group), more + settled, room, at_most=1 if place else 2)
        if place and len(told) == 1 and len(told[0]) + len(place) + 3 <= room:
            told = [f"{told[0]}   {place}"]
        elif place:
            told.append(_cut(place, room))
        lines.append([*([standing] if marked else []), ("", f" {group.rows:>9,}  {told[0]}")])
        lines += [[("", f" {'':>{9 + 6 * marked}}  {rest}")] for rest in told[1:]]
    if len(groups) > _GROUPS:
        lines.append([("", f" {'':>{9 + 6 * marked}}  and {len(groups) - _GROUPS} more kinds: see etl quarantine")])
    for each in gone[:_GONE]:
        text = words.one_line(f"{each.error_type} in {each.stage}: {each.example}")
        seen = f" (last seen {each.last_seen:%Y-%m-%d %H:%M %Z})"
        lines.append([("good", " gone "), ("", f" {'':>9}  {_cut(text, width - 18 - len(seen))}{seen}")])
    if len(gone) > _GONE:
        lines.append([("", f" {'':>15}  and {len(gone) - _GONE} more kinds of a run before")])
    return lines


def _backlog(report: RunReport, width: int) -> list[Line]:
    told = words.backlog_of(report.run, report.former)
    return _fact("backlog", told, width) if told else []


def _fact(name: str, text: str, width: int) -> list[Line]:
    return _plain(textwrap.wrap(text, width, initial_indent=f" {name:<8} ", subsequent_indent=" " * 10))


def _outlook(report: RunReport, program: str, width: int) -> list[Line]:
    outlook = report.outlook
    if outlook is None:
        return []
    known = report.run.backlog_before is not None
    facts = [("" if known else "backlog", words.backlog(outlook)), ("fires", words.upcoming(outlook))]
    lines: list[Line] = []
    for name, text in facts:
        if text:
            lines += _fact(name, text, width)
    if outlook.paused_at is not None:
        lines.append([("strong", f"          {program} resume {report.run.job}")])
    return lines


def _lines(text: str, after: str, room: int, *, at_most: int) -> list[str]:
    """A message and what is said after it. A server names what refused a row last: a message without a place has two
    lines, if need be."""
    if at_most == 1 or len(text) + len(after) <= room:
        return [_cut(text, room - len(after)) + after]
    first = textwrap.wrap(text, room)[0]
    return [first, *_lines(text[len(first) :].strip(), after, room, at_most=at_most - 1)]


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(0, room - 3)] + "..."
