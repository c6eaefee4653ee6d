"""The spans of a run by what they are beneath, and what people call them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from etl.core.evidence import BATCH, CLAIM, ROOT, Happening, Traced, TracedSpan

_DEEPEST = 20
_KINDS = {CLAIM: "claim", BATCH: "batch", ROOT: "run", "etl.stage": "stage", "etl.sink": "sink", "etl.complete": "sink"}


@dataclass(slots=True)
class SpanTree:
    """`top` are the spans right beneath the run's own."""

    root: TracedSpan | None = None
    top: list[TracedSpan] = field(default_factory=list)
    beneath: dict[str, list[TracedSpan]] = field(default_factory=dict)

    def all_beneath(self, span: TracedSpan, depth: int = 1) -> Iterator[tuple[int, TracedSpan]]:
        """With their depth, each followed by what is beneath it; folded ones last."""
        for each in sorted(self.beneath.get(span.span_id, ()), key=lambda found: (found.folded > 0, found.start_s)):
            yield depth, each
            if depth < _DEEPEST:
                yield from self.all_beneath(each, depth + 1)

    def retries(self, span: TracedSpan) -> list[Happening]:
        """Of a span and of all that is beneath it."""
        return [*span.retries, *(event for _, each in self.all_beneath(span) for event in each.retries)]

    def troubled(self, span: TracedSpan) -> bool:
        """Whether it failed, or something beneath it did."""
        return span.failed or any(each.failed for _, each in self.all_beneath(span))


def span_tree(traced: Traced) -> SpanTree:
    """The spans in their places."""
    tree = SpanTree()
    for span in traced.spans:
        if span.span_id == traced.root_id or (span.name == ROOT and tree.root is None):
            tree.root = span
        elif span.parent_id == traced.root_id:
            tree.top.append(span)
        else:
            tree.beneath.setdefault(span.parent_id or "", []).append(span)
    return tree


def kind_of(span: TracedSpan) -> str:
    """One word for what it is, of a handful."""
    return _KINDS.get(span.name, "own")


def name_of(span: TracedSpan) -> str:
    """As people call it: `stage geocode`, `sink orders`."""
    plain = span.name.removeprefix("etl.")
    return f"{plain} {span.label.removeprefix('-> ')}" if span.label else plain
