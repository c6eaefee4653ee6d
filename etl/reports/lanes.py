"""Lanes of bars on a time axis as inline SVG, without script.

Places along the axis are percents of the picture's width, so that it can be drawn out (`.zoomable` of the page does
that) and made narrow without distorting words; names and words of the lanes stand beside it, one line high each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from etl.core.sanitise import redact
from etl.reports.axis import moment, nice_step
from etl.reports.words import one_line

ROW, TALL, TOP = 22, 56, 20  # pixels: a lane, a tall one, the axis
_TITLE = 80  # characters
_MARKS = 20  # of one bar
_ZOOMS = (("", 6), ("at-4", 24), ("at-16", 96))  # class of finer lines, how many of them there are about


@dataclass(frozen=True, slots=True)
class Bar:
    """A piece of time, seconds. `kind` is its class; `high`: its share of the lane's height; `marks`: moments of
    retries. `span` and `batch` name what it is of."""

    start_s: float
    end_s: float
    kind: str
    title: str
    high: float = 1.0
    marks: Sequence[float] = ()
    span: str = ""
    batch: int | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Lane:
    """One line of the chart: its name on the left, words on the right; `depth` says beneath how many others it is."""

    name: str
    words: str
    bars: Sequence[Bar]
    depth: int = 0
    tall: bool = False


_SVG = Markup('<svg width="100%" height="{}" role="img" aria-label="{}" class="lanes">{}</svg>')
_BAR = Markup('<rect x="{:.3f}%" y="{:.1f}" width="{:.3f}%" height="{:.1f}" class="bar {}"{}><title>{}</title></rect>')
_KEY = Markup(' data-{}="{}"')
_LINE = Markup('<line x1="{0:.3f}%" x2="{0:.3f}%" y1="{1}" y2="{2}" class="{3}"/>')
_TICK = Markup('<text x="{:.3f}%" y="12" class="tick {}">{}</text>')
_MARK = Markup('<svg x="{:.3f}%" y="{:.1f}" class="mark"><path d="M0,-4.5 L4.5,0 L0,4.5 L-4.5,0 Z"/></svg>')
_CROSS = Markup('<svg x="{:.3f}%" y="{:.1f}" class="cross"><path d="M-4,-4 L4,4 M-4,4 L4,-4"/></svg>')


def draw(lanes: Sequence[Lane], seconds: float, label: str, *, start_s: float = 0.0, zoomable: bool = False) -> Markup:
    """The lanes between `start_s` and so many seconds later, with marks of the time on top.

    `zoomable`: with finer ones, for when the picture is drawn out.
    """
    height = TOP + sum(map(height_of, lanes)) + 4
    parts = [*_axis(seconds, height, _ZOOMS if zoomable else _ZOOMS[:1])]
    y = TOP
    for lane in lanes:
        parts += [_bar(bar, y, height_of(lane), seconds, start_s) for bar in lane.bars]
        for bar in lane.bars:
            parts += _signs(bar, y + height_of(lane) / 2, seconds, start_s)
        y += height_of(lane)
    return _SVG.format(height, _safe(label), Markup("").join(parts))


def height_of(lane: Lane) -> int:
    """Pixels."""
    return TALL if lane.tall else ROW


def _bar(bar: Bar, top: float, room: float, seconds: float, start_s: float) -> Markup:
    left, right = _percent(bar.start_s, seconds, start_s), _percent(bar.end_s, seconds, start_s)
    high = (room - 6) * bar.high
    # What is folded stands on the ground, everything else lies in the middle.
    y = top + room - 3 - high if bar.kind.startswith("folded") else top + (room - high) / 2
    keys = [("span", bar.span)] * bool(bar.span) + [("batch", bar.batch)] * (bar.batch is not None)
    kind = f"{bar.kind}{' failed' if bar.failed else ''}"
    return _BAR.format(left, y, right - left, high, kind, Markup("").join(_KEY.format(*key) for key in keys),
                      _safe(bar.title))  # fmt: skip


def _signs(bar: Bar, middle: float, seconds: float, start_s: float) -> Iterator[Markup]:
    """A diamond for each retry, a cross where something failed: shapes, not colours alone."""
    for mark in bar.marks[:_MARKS]:
        yield _MARK.format(_percent(mark, seconds, start_s), middle)
    if bar.failed:
        yield _CROSS.format(min(99.0, _percent(bar.end_s, seconds, start_s)), middle)


def _axis(seconds: float, bottom: float, levels: Sequence[tuple[str, int]]) -> Iterator[Markup]:
    """Lines at round times."""
    drawn: set[float] = set()
    for kind, number in levels:
        step = nice_step(seconds / number)
        for tick in range(int(seconds / step) + 1 if step else 0):
            place = round(100 * tick * step / seconds, 3)
            if place in drawn:
                continue
            drawn.add(place)
            yield _LINE.format(place, TOP - 4, bottom, f"grid {kind}")
            if place < 97:
                yield _TICK.format(place, f"{kind} first" if not tick else kind, moment(tick * step))


def _percent(at: float, seconds: float, start_s: float) -> float:
    return 100 * min(1.0, max(0.0, (at - start_s) / seconds))


def _safe(text: str) -> str:
    told = one_line(redact(text[: 5 * _TITLE]))  # it is redacted where it is kept, too
    return told if len(told) <= _TITLE else told[: _TITLE - 3] + "..."
