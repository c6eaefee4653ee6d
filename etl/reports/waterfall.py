"""What the waterfall of a run shows, and where. Pure; `lanes` draws it.

Each batch of a short run has a lane of its own; of a long one only the slowest have, beneath lanes that show them all.
The slowest, and some with trouble, are looked at closer, each on a time axis of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from etl.core.comparison import brief
from etl.core.evidence import BATCH, Happening, Traced, TracedSpan
from etl.core.report import BatchSpan
from etl.reports.lanes import Bar, Lane
from etl.reports.overview import folded_bar, folded_words, overview, span_bar
from etl.reports.span_tree import SpanTree, kind_of, name_of, span_tree
from etl.reports.words import rows

SLOWEST = 20


@dataclass(frozen=True, slots=True)
class Close:
    """How many batches are looked at closer, and how many spans and notes of each; `inner`: how many spans are drawn
    inside the bar of a batch."""

    batches: int = SLOWEST
    spans: int = 60
    notes: int = 12
    inner: int = 12


@dataclass(frozen=True, slots=True)
class Closer:
    """One batch on an axis of its own, from `start_s` on. `notes` are what happened in it, `left_out` how much more;
    `spans_left_out` have no lane."""

    title: str
    start_s: float
    seconds: float
    lanes: Sequence[Lane]
    notes: Sequence[tuple[float, str]]
    left_out: int
    spans_left_out: int


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The whole picture. `shown` of all batches have a lane of their own, `spanless` left no span."""

    seconds: float
    lanes: Sequence[Lane]
    closer: Sequence[Closer] = ()
    shown: int = 0
    spanless: int = 0


def lay_out(
    traced: Traced, recorded: Sequence[BatchSpan], seconds: float, *, total: int, close: Close | None = None
) -> Waterfall:
    """The waterfall of a run with `total` batches, of which `recorded` are known from the ledger."""
    close = close or Close()
    tree = span_tree(traced)
    own = [span for span in tree.top if span.name == BATCH and not span.folded]
    by_number = _by_number(own)
    looked_at = _looked_at(own, tree, close.batches)
    numbers = _shown(looked_at, recorded, total)
    ledger = {batch.number: batch for batch in recorded}
    listed = [_batch_lane(by_number.get(number), ledger.get(number), tree, close.inner) for number in numbers]
    listed.sort(key=lambda lane: lane.bars[0].start_s)
    ends = [span.end_s for span in (*tree.top, *([tree.root] if tree.root else []))]
    return Waterfall(
        max([seconds, 1e-6, *ends]),
        [*overview(tree, folded=len(numbers) < total), *listed],
        [_closer(span, tree, close) for span in looked_at],
        len(numbers),
        max(0, total - sum(span.folded or 1 for span in tree.top if span.name == BATCH)),
    )


def _looked_at(own: Sequence[TracedSpan], tree: SpanTree, most: int) -> list[TracedSpan]:
    """The slowest batches, and half as many others with trouble."""
    slowest = sorted(own, key=lambda span: -span.duration_s)
    troubled = [span for span in slowest[most:] if tree.troubled(span) or tree.retries(span)]
    return slowest[:most] + troubled[: most // 2]


def _by_number(spans: Sequence[TracedSpan]) -> dict[int, TracedSpan]:
    found: dict[int, TracedSpan] = {}
    for span in spans:
        if span.number is not None and (span.number not in found or found[span.number].duration_s < span.duration_s):
            found[span.number] = span
    return found


def _shown(looked_at: Sequence[TracedSpan], recorded: Sequence[BatchSpan], total: int) -> list[int]:
    """The batches that get a lane: all, or those that are looked at closer and those that did not end well."""
    if len(recorded) >= total:
        return sorted({batch.number for batch in recorded})
    closer = [span.number for span in looked_at if span.number is not None]
    return sorted({*closer, *(batch.number for batch in recorded if batch.state != "done")})


def _batch_lane(span: TracedSpan | None, batch: BatchSpan | None, tree: SpanTree, inner: int) -> Lane:
    """A batch as its span tells it, with its stages inside; without a span as the ledger has it."""
    number = span.number if span is not None else batch.number if batch is not None else 0
    name = f"batch {number:,}"
    if span is None:
        assert batch is not None
        words = batch_words(batch)
        title = f"{name}, {batch.state}: {words}"
        return Lane(name, words, [Bar(batch.start_s, batch.end_s, f"ledger {batch.state}", title, batch=number)])
    marks = [event.at_s for event in tree.retries(span)]
    words = _span_words(span, batch, len(marks))
    beneath = [each for each in tree.beneath.get(span.span_id, ()) if not each.folded]
    longest = sorted(beneath, key=lambda each: -each.duration_s)[:inner]
    bar = Bar(span.start_s, span.end_s, "batch", f"{name}: {words}", marks=marks, span=span.span_id, batch=number,
              failed=span.failed)  # fmt: skip
    return Lane(name, words, [bar, *(_inner_bar(each) for each in longest)])


def _inner_bar(span: TracedSpan) -> Bar:
    title = f"{name_of(span)[:30]}: {brief(span.duration_s)}"
    return Bar(span.start_s, span.end_s, f"inner {kind_of(span)}", title, 0.6, failed=span.failed)


def batch_words(batch: BatchSpan) -> str:
    """Rows, time, and what was out of the ordinary."""
    return ", ".join([rows(batch.claimed), brief(max(0.0, batch.end_s - batch.start_s)), *_oddities(batch)])


def _oddities(batch: BatchSpan) -> list[str]:
    odd = [
        f"{batch.retried:,} retried" if batch.retried else "",
        f"{batch.quarantined:,} quarantined" if batch.quarantined else "",
        "replay" if batch.replay else "",
        batch.state if batch.state != "done" else "",
        f"{batch.crashes} crash{'es' * (batch.crashes > 1)}" if batch.crashes else "",
    ]
    return [each for each in odd if each]


def _span_words(span: TracedSpan, batch: BatchSpan | None, retries: int) -> str:
    parts = [] if span.rows is None else [rows(span.rows)]
    parts.append(brief(span.duration_s))
    parts += _oddities(batch) if batch is not None else _retried(retries)
    if span.failed:
        parts.append("failed")
    return ", ".join(parts)


def _retried(number: int) -> list[str]:
    return [f"{number} {'retry' if number == 1 else 'retries'}"] if number else []


def _closer(span: TracedSpan, tree: SpanTree, close: Close) -> Closer:
    listed = [(0, span), *tree.all_beneath(span)]
    happened = sorted((found for _, each in listed for found in _happened(each)), key=lambda found: found[0])
    end = max(each.end_s for _, each in listed)
    number = "" if span.number is None else f" {span.number:,}"
    return Closer(
        f"Batch{number}: {_span_words(span, None, len(tree.retries(span)))}",
        span.start_s,
        max(end - span.start_s, 1e-6),
        [_close_lane(depth, each) for depth, each in listed[: close.spans]],
        [(at_s - span.start_s, _words_of(each, event)) for at_s, each, event in happened[: close.notes]],
        max(0, len(happened) - close.notes) + sum(each.left_out for _, each in listed),
        max(0, len(listed) - close.spans),
    )


def _happened(span: TracedSpan) -> Iterator[tuple[float, TracedSpan, Happening | None]]:
    """What is to be told of a span, and when: its events, and (None) that it failed."""
    yield from ((event.at_s, span, event) for event in span.events if event.name != "exception")
    if span.failed:
        yield span.end_s, span, None


def _close_lane(depth: int, span: TracedSpan) -> Lane:
    if span.folded:
        return Lane(name_of(span), folded_words(span), [folded_bar(span)], depth)
    words = [brief(span.duration_s), *_retried(len(span.retries)), *(["failed"] if span.failed else [])]
    return Lane(name_of(span), ", ".join(words), [span_bar(span)], depth)


def _words_of(span: TracedSpan, event: Happening | None) -> str:
    if event is None:
        return f"{name_of(span)} failed" + (f": {span.status}" if span.status else "")
    named = event.name.removeprefix("etl.").replace(".", " ")
    about = f" {event.key}" if event.key else ""
    where = f" in {event.stage}" if event.stage else ""
    why = f": {event.error_type}: {event.message}" if event.error_type else ""
    return f"{named}{about}{where}{why}"
