"""The lanes on top of a waterfall: the run, its claims, and of what is folded how dense it is. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from etl.core.comparison import brief
from etl.core.evidence import CLAIM, TracedSpan
from etl.reports.lanes import Bar, Lane
from etl.reports.span_tree import SpanTree, kind_of, name_of
from etl.reports.words import batches

_OTHERS = 8  # lanes for spans that are neither claims nor batches


def overview(tree: SpanTree, *, folded: bool) -> list[Lane]:
    """`folded`: not every batch has a lane of its own, so one shows them all."""
    named: dict[str, list[TracedSpan]] = {}
    for span in tree.top:
        named.setdefault("claims" if span.name == CLAIM else name_of(span), []).append(span)
    claims, own = named.pop("claims", []), named.pop("batch", [])
    others = sorted(named.items(), key=lambda found: -sum(map(_time, found[1])))[:_OTHERS]
    return [
        *([_run(tree.root)] if tree.root is not None else []),
        *([_of_kind("claims", claims)] if claims else []),
        *([_density(own)] if folded and own else []),
        *(_of_kind(name, spans) for name, spans in others),
    ]


def span_bar(span: TracedSpan) -> Bar:
    """A span that stands for itself."""
    title = f"{name_of(span)}: {brief(span.duration_s)}"
    title += f", failed: {span.status or 'no reason given'}" if span.failed else ""
    marks = [event.at_s for event in span.retries]
    return Bar(span.start_s, span.end_s, kind_of(span), title, marks=marks, span=span.span_id, failed=span.failed)


def folded_words(span: TracedSpan) -> str:
    """How many spans it stands for, and how long they took."""
    told = f"{span.folded:,} folded, {brief(span.total_s)} in all, longest {brief(span.longest_s)}"
    return told + (f", {span.failures:,} failed" if span.failures else "")


def folded_bar(span: TracedSpan, high: float = 1.0) -> Bar:
    """A box for spans that are folded, `high` of its lane."""
    title, kind = f"{name_of(span)}: {folded_words(span)}", f"folded {kind_of(span)}"
    return Bar(span.start_s, span.end_s, kind, title, high, span=span.span_id, failed=span.failures > 0)


def _run(root: TracedSpan) -> Lane:
    words = brief(root.duration_s) + (", failed" if root.failed else "")
    bar = Bar(root.start_s, root.end_s, "run", f"run: {words}", span=root.span_id, failed=root.failed)
    return Lane("run", words, [bar])


def _of_kind(name: str, spans: Sequence[TracedSpan]) -> Lane:
    """All spans of a name in one lane."""
    longest = max(span.longest_s if span.folded else span.duration_s for span in spans)
    words = f"{_number(spans):,}, {brief(sum(map(_time, spans)))} in all, longest {brief(longest)}{_failures(spans)}"
    return Lane(name, words, _bars(spans))


def _density(spans: Sequence[TracedSpan]) -> Lane:
    """Batches of a long run: how many at what time, and those that are kept on top of that."""
    folded = sum(span.folded for span in spans)
    words = f"{batches(_number(spans))}, {folded:,} folded{_failures(spans)}"
    return Lane("all batches", words, _bars(spans), tall=True)


def _number(spans: Sequence[TracedSpan]) -> int:
    return sum(span.folded or 1 for span in spans)


def _time(span: TracedSpan) -> float:
    return span.total_s if span.folded else span.duration_s


def _failures(spans: Sequence[TracedSpan]) -> str:
    failed = sum(span.failures if span.folded else span.failed for span in spans)
    return f", {failed:,} failed" if failed else ""


def _bars(spans: Sequence[TracedSpan]) -> list[Bar]:
    """Folded spans first: each box is as high as its spans are dense, beside the densest."""
    dense = {span.span_id: span.folded / max(span.duration_s, 1e-6) for span in spans if span.folded}
    most = max(dense.values(), default=1.0)
    boxes = [folded_bar(span, 0.25 + 0.75 * dense[span.span_id] / most) for span in spans if span.folded]
    return [*boxes, *(span_bar(span) for span in spans if not span.folded)]
