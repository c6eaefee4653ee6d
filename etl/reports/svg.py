"""Charts of a run as inline SVG: each a pure function from values to markup, without script and without colours of its
own (classes take them from the page, so that they follow light, dark and print).

Every value passes through `Markup.format`, which escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from etl.core.baseline import Measure, Norm
from etl.core.counts import Counts
from etl.core.report import BatchSpan, Slice, Usual, fewer, rate
from etl.core.run import Run
from etl.durations import format_duration
from etl.reports.axis import moment, nice_step
from etl.reports.words import OUTCOMES, batches, one_line

WIDTH = 960
_LEFT, _RIGHT = 110, 330  # the waterfall's margins: names, words
_ROW = 18

_FRAME = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" class="chart {}">{}</svg>')
_TEXT = Markup('<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>')
_RECT = Markup('<rect x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" class="{}"{}>{}</rect>')
_LINE = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>')
_PATH = Markup('<path d="{}" class="{}">{}</path>')
_TITLE = Markup("<title>{}</title>")


def _svg(height: float, label: str, kind: str, parts: Iterable[Markup]) -> Markup:
    return _FRAME.format(WIDTH, math.ceil(height), label, kind, Markup("").join(parts))


def row_flow(counts: Counts) -> Markup:
    """Claimed rows as a band from the left that loses its side exits on the way to what was written."""
    total = max(counts.claimed, counts.accounted, 1)
    tall, top, floor = 110.0, 14.0, 226.0
    exits = [(name, value) for name in OUTCOMES[1:] if (value := getattr(counts, name))]
    # The band starts behind its label and ends before that of what is left.
    start, end = 130.0, WIDTH - 150.0
    step = (end - start) / (len(exits) + 1)
    parts = [_TEXT.format(0, top + 16, "big", f"{counts.claimed:,}"), _TEXT.format(0, top + 34, "quiet", "claimed")]
    left, x = counts.claimed, start
    for name, value in exits:
        above, below = top + tall * (left - value) / total, top + tall * left / total
        parts.append(_RECT.format(x, top, step, max(tall * left / total, 1), "flow", "", ""))
        x += step
        left -= value
        parts.append(_PATH.format(_exit(x, above, max(below, above + 2), floor - 26), f"exit {name}",
                                  _TITLE.format(f"{value:,} {name}")))  # fmt: skip
        parts.append(_TEXT.format(x + 2, floor - 8, "big", f"{value:,}"))
        parts.append(_TEXT.format(x + 2, floor + 10, "quiet", f"{name} ({_share(value, counts.claimed)})"))
    parts.append(_RECT.format(x, top, end - x, max(tall * left / total, 1), "flow", "", ""))
    parts.append(_TEXT.format(end + 12, top + 16, "big", f"{counts.written:,}"))
    parts.append(_TEXT.format(end + 12, top + 34, "quiet", f"written ({_share(counts.written, counts.claimed)})"))
    said = ", ".join([f"{counts.claimed:,} rows claimed", *(f"{getattr(counts, n):,} {n}" for n in OUTCOMES)])
    return _svg(floor + 18 if exits else top + tall + 10, said, "row-flow", parts)


def _exit(x: float, above: float, below: float, floor: float) -> str:
    """A band that leaves the flow at `x` between two heights and bends down to the floor."""
    bend = 26.0
    near, far = x + bend, x + bend + below - above
    outer, inner = above + far - x, below + bend
    return (
        f"M{x:.1f},{above:.1f} C{far:.1f},{above:.1f} {far:.1f},{above:.1f} {far:.1f},{outer:.1f}"
        f" L{far:.1f},{floor:.1f} L{near:.1f},{floor:.1f} L{near:.1f},{inner:.1f}"
        f" C{near:.1f},{below:.1f} {near:.1f},{below:.1f} {x:.1f},{below:.1f} Z"
    )


def _share(part: int, whole: int) -> str:
    if not whole:
        return "-"
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 10 or not share else f"{share:.2g} %"


def waterfall(spans: Sequence[BatchSpan], seconds: float, slices: Sequence[Slice], total: int) -> Markup:
    """Batches on the run's time axis. Where only the slowest of `total` are given the others are a strip of density."""
    folded = len(spans) < total
    axis = _LEFT, WIDTH - _RIGHT
    top = 24.0
    height = top + _ROW * len(spans) + (3 * _ROW if folded else 0) + 6
    parts = [*_axis(seconds, axis, top, height)]
    y = top
    if folded:
        parts += _density(slices, seconds, axis, y, total)
        y += 3 * _ROW
    for span in spans:
        x, wide = _across(span.start_s, seconds, axis), _wide(span, seconds, axis)
        words = f"{span.claimed:,} rows, {format_duration(max(0.0, span.end_s - span.start_s))}{_notes(span)}"
        kind = "troubled" if span.quarantined or span.state not in ("done", "open") else "fine"
        extra = Markup(' data-batch="{}"').format(span.number)
        title = _TITLE.format(f"batch {span.number}, {span.state}: {words}")
        parts.append(_TEXT.format(0, y + 13, "name", f"batch {span.number:,}"))
        parts.append(_RECT.format(x, y + 3, wide, _ROW - 6, f"bar {kind} {span.state}", extra, title))
        if span.retried:
            parts.append(_RECT.format(x, y + _ROW - 5, wide, 2, "notch", "", ""))
        parts.append(_TEXT.format(WIDTH - _RIGHT + 10, y + 13, "quiet", words))
        y += _ROW
    said = f"{batches(total)} in {format_duration(seconds)}" + (f", the {len(spans)} slowest shown" if folded else "")
    return _svg(height, said, "waterfall", parts)


def _notes(span: BatchSpan) -> str:
    notes = [
        f"{span.quarantined:,} quarantined" if span.quarantined else "",
        f"{span.retried:,} retried" if span.retried else "",
        "replay" if span.replay else "",
        span.state if span.state != "done" else "",
        f"{span.crashes} crash{'es' * (span.crashes > 1)}" if span.crashes else "",
    ]
    return "".join(f", {note}" for note in notes if note)


def _density(
    slices: Sequence[Slice], seconds: float, axis: tuple[float, float], y: float, total: int
) -> Iterable[Markup]:
    most = max((each.batches for each in slices), default=0) or 1
    tall = 2.5 * _ROW - 6
    yield _TEXT.format(0, y + 16, "name", batches(total))
    yield _TEXT.format(WIDTH - _RIGHT + 10, y + 16, "quiet", "over time; below: the slowest")
    for each in slices:
        x, end = _across(each.start_s, seconds, axis), _across(each.end_s, seconds, axis)
        high = tall * each.batches / most
        yield _RECT.format(x, y + tall - high, max(0.5, end - x - 1), high, "bar fine", "",
                           _TITLE.format(batches(each.batches)))  # fmt: skip


def _across(moment: float, seconds: float, axis: tuple[float, float]) -> float:
    left, right = axis
    return left + (right - left) * min(1.0, max(0.0, moment / seconds if seconds else 0.0))


def _wide(span: BatchSpan, seconds: float, axis: tuple[float, float]) -> float:
    return max(1.5, _across(span.end_s, seconds, axis) - _across(span.start_s, seconds, axis))


def _axis(seconds: float, axis: tuple[float, float], top: float, bottom: float) -> Iterable[Markup]:
    step = nice_step(seconds / 5)
    for tick in range(int(seconds / step) + 1 if step else 0):
        x = _across(tick * step, seconds, axis)
        yield _LINE.format(x, top - 4, x, bottom, "grid")
        if x < WIDTH - 20:
            yield _TEXT.format(x, top - 9, "tick", moment(tick * step))


def throughput(slices: Sequence[Slice], past: Usual | None) -> Markup:
    """Rows a second in each part of the run, rows set aside as ticks below, the usual rate as a line in its band."""
    usually = past.norms.get(Measure.rate) if past else None
    seconds = slices[-1].end_s
    slices = fewer(slices, sum(each.batches for each in slices) // 2)
    top, bottom = 24.0, 170.0
    axis = 70.0, float(WIDTH)
    peak = max(1e-9, _reach(usually) if usually else 0.0, *(each.rate for each in slices))
    parts = [*_axis(seconds, axis, top, bottom)]
    for share in (0.5, 1.0):
        y = bottom - (bottom - top - 10) * share
        parts += [
            _LINE.format(axis[0], y, axis[1], y, "grid"),
            _TEXT.format(0, y + 4, "quiet", f"{peak * share:,.0f}/s"),
        ]
    for each in slices:
        x, end = _across(each.start_s, seconds, axis), _across(each.end_s, seconds, axis)
        high = (bottom - top - 10) * each.rate / peak
        parts.append(_RECT.format(x, bottom - high, max(0.5, end - x - 1), high, "bar fine", "",
                                  _TITLE.format(f"{each.rate:,.0f} rows/s, {batches(each.batches)}")))  # fmt: skip
        if each.quarantined:
            parts.append(_RECT.format(x, bottom + 4, max(2.0, end - x - 1), 8, "aside", "",
                                      _TITLE.format(f"{each.quarantined:,} quarantined")))  # fmt: skip
    if usually:
        high, low = ((bottom - top - 10) * min(value, peak) / peak for value in (usually.high, usually.low))
        title = f"usually {usually.low:,.0f} to {usually.high:,.0f} rows/s"
        parts.append(_RECT.format(axis[0], bottom - high, axis[1] - axis[0], max(1.0, high - low), "band", "",
                                  _TITLE.format(title)))  # fmt: skip
    parts.append(_LINE.format(axis[0], bottom, axis[1], bottom, "ground"))
    if usually:
        y = bottom - (bottom - top - 10) * usually.middle / peak
        parts.append(_LINE.format(axis[0], y, axis[1], y, "usual"))
    if any(each.quarantined for each in slices):
        parts.append(_TEXT.format(0, bottom + 12, "quiet", "set aside"))
    return _svg(bottom + 18, f"rows a second over {format_duration(seconds)}, at most {peak:,.0f}", "throughput", parts)


def _reach(usually: Norm) -> float:
    """How far an axis goes for what is usual: a band can be so wide that nothing else would be seen."""
    return min(usually.high, 4 * usually.middle)


def bullet(seconds: float, usually: Norm | None) -> Markup | None:
    """How long a run took beside what is usual: a bar, the band outside which it is unusual, a line at the median."""
    if usually is None:
        return None
    longest, wide = 1.05 * max(seconds, _reach(usually), 1e-9), WIDTH / 3
    low, middle, high, own = (
        wide * min(1.0, each / longest) for each in (usually.low, usually.middle, usually.high, seconds)
    )
    said = (
        f"{format_duration(seconds)}; median {format_duration(usually.middle)},"
        f" usually {format_duration(usually.low)} to {format_duration(usually.high)}"
    )
    parts = [
        _RECT.format(0, 2, wide, 14, "track", "", ""),
        _RECT.format(low, 2, max(2.0, high - low), 14, "band", "", ""),
        _RECT.format(0, 6, own, 6, "bar fine", "", ""),
        _LINE.format(middle, 0, middle, 18, "usual"),
    ]
    return _FRAME.format(math.ceil(wide), 18, said, "bullet", Markup("").join(parts))


def history(runs: Sequence[Run], past: Usual | None) -> Markup:
    """How long runs took, oldest first, the last one being the report's own: a bar each, with its outcome's class."""
    longest = max((run.duration_s or 0.0 for run in runs), default=0.0) or 1.0
    top, bottom, left = 10.0, 110.0, 70.0
    step = min(40.0, (WIDTH - left) / max(1, len(runs)))
    parts = [_TEXT.format(0, top + 8, "quiet", format_duration(longest))]
    for place, run in enumerate(runs):
        high = max(2.0, (bottom - top) * (run.duration_s or 0.0) / longest)
        pace = rate(run)
        title = f"{str(run.run_id)[:8]} {run.state}, {format_duration(run.duration_s or 0.0)}"
        title += f", {pace:,.0f} rows/s" if pace else ""
        own = " own" if place == len(runs) - 1 else ""
        parts.append(_RECT.format(left + place * step, bottom - high, step - 3, high, f"bar state-{run.state}{own}", "",
                                  _TITLE.format(one_line(title))))  # fmt: skip
    if past:
        y = bottom - (bottom - top) * past.duration_s / longest
        parts.append(_LINE.format(left, y, left + len(runs) * step, y, "usual"))
    last = left + (len(runs) - 1) * step
    parts.append(_TEXT.format(last, bottom + 16, "tick", "this run"))
    return _svg(bottom + 22, f"durations of {len(runs)} runs", "history", parts)
