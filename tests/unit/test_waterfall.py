"""The waterfall of a run: every span in its place, what is folded as folded, what went wrong to be seen."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl.core.evidence import BATCH, CLAIM, ROOT, Happening, Traced, TracedSpan
from etl.core.report import BatchSpan
from etl.reports.lanes import Bar, Lane, draw
from etl.reports.waterfall import SLOWEST, Close, Waterfall, lay_out

IDS = count()
RETRY = Happening("etl.row.retry", 3.2, "4711", error_type="TimeoutError", message="slow")


def span(name: str, start: float, seconds: float, parent: str | None = "root", **facts: Any) -> TracedSpan:
    return TracedSpan(f"s{next(IDS)}", parent, name, start, seconds, **facts)


def batch_of(number: int, start: float, seconds: float, *beneath: TracedSpan, **facts: Any) -> list[TracedSpan]:
    """A batch with a stage and a sink in it, and what else there is."""
    top = span(BATCH, start, seconds, number=number, rows=10, **facts)
    stage = span("etl.stage", start, seconds * 0.7, top.span_id, label="geocode")
    sink = span("etl.sink", start + seconds * 0.7, seconds * 0.2, top.span_id, label="-> orders")
    return [top, stage, sink, *(replace(each, parent_id=top.span_id) for each in beneath)]


def recorded(number: int, state: str = "done", retried: int = 0) -> BatchSpan:
    return BatchSpan(number, state, number * 1.0, number + 0.9, 10, 10, 0, retried, 0, False)


def laid_out(
    spans: list[TracedSpan], batches: list[BatchSpan], total: int | None = None, close: Close | None = None
) -> Waterfall:
    root = TracedSpan("root", None, ROOT, 0.0, 20.0)
    traced = Traced("root", [root, *spans])
    return lay_out(traced, batches, 20.0, total=len(batches) if total is None else total, close=close)


def test_each_batch_of_a_short_run_has_a_lane_with_its_stages_inside() -> None:
    spans = [span(CLAIM, 0.0, 0.1), span(CLAIM, 0.9, 0.2), *batch_of(1, 1.0, 2.0), *batch_of(2, 3.0, 1.0)]

    seen = laid_out(spans, [recorded(1), recorded(2)])

    assert ["run", "claims", "batch 1", "batch 2"] == [lane.name for lane in seen.lanes]
    assert "2, 0.30 s in all, longest 0.20 s" == seen.lanes[1].words
    whole, stage, sink = seen.lanes[2].bars
    assert (1.0, 3.0, 1) == (whole.start_s, whole.end_s, whole.batch)
    assert pytest.approx([1.0, 2.4, 2.4, 2.8]) == [stage.start_s, stage.end_s, sink.start_s, sink.end_s]
    assert "10 rows, 2.00 s" == seen.lanes[2].words


def test_retries_and_failures_are_told_by_marks_and_words() -> None:
    own = span("ask the geocoder", 3.0, 0.5, failed=True, status="ValueError: no", events=[RETRY])
    spans = batch_of(1, 3.0, 1.0, own, failed=True, status="boom")

    seen = laid_out(spans, [recorded(1, retried=1)])

    (lane,) = [lane for lane in seen.lanes if lane.name == "batch 1"]
    assert [3.2] == list(lane.bars[0].marks)
    assert "10 rows, 1.00 s, 1 retried, failed" == lane.words
    (closer,) = seen.closer
    assert "Batch 1: 10 rows, 1.00 s, 1 retry, failed" == closer.title
    assert ["row retry 4711: TimeoutError: slow", "ask the geocoder failed: ValueError: no", "batch failed: boom"] == [
        text for _, text in closer.notes
    ]
    assert ["batch", "stage geocode", "ask the geocoder", "sink orders"] == [each.name for each in closer.lanes]
    chart = draw(seen.lanes, seen.seconds, "run")
    assert 2 == chart.count('class="cross"') == chart.count('class="mark"') + 1


def test_a_batch_without_a_span_is_as_the_ledger_has_it() -> None:
    """The process that had it in hand died before the span came to its end."""
    seen = laid_out(batch_of(1, 1.0, 0.5), [recorded(1), recorded(2, "replaced")])

    lost = seen.lanes[-1]
    assert ("batch 2", "10 rows, 0.90 s, replaced") == (lost.name, lost.words)
    assert ["ledger replaced"] == [bar.kind for bar in lost.bars]


def test_of_a_long_run_the_slowest_have_lanes_and_all_others_are_folded() -> None:
    spans = [each for n in range(170) for each in batch_of(n, n / 10, 0.1 + n / 1_000)]
    folded: dict[str, Any] = {"folded": 4_000, "total_s": 300.0, "longest_s": 0.2, "failures": 3}
    boxes = [span(BATCH, 0.0, 10.0, **folded), span(BATCH, 10.0, 10.0, **folded | {"folded": 1_000})]
    stages = [span("etl.stage", 0.0, 20.0, label="geocode", **folded)]

    seen = laid_out([*spans, *boxes, *stages], [recorded(n) for n in range(20)], total=5_170)

    names = [lane.name for lane in seen.lanes]
    assert ["run", "all batches", "stage geocode"] == names[:3]
    assert {f"batch {n}" for n in range(150, 170)} == set(names[3:])
    assert SLOWEST == seen.shown == len(seen.closer)
    every = seen.lanes[1]
    assert "5,170 batches, 5,000 folded, 6 failed" == every.words
    dense, sparse = [bar for bar in every.bars if bar.kind == "folded batch"]
    assert (1.0, 0.25 + 0.75 / 4) == (dense.high, sparse.high)
    assert "4,000 folded, 5 min 00 s in all, longest 0.20 s, 3 failed" in dense.title


def test_trouble_is_looked_at_closer_even_where_it_was_fast() -> None:
    spans = [each for n in range(30) for each in batch_of(n, n / 2, 0.4)]
    spans += batch_of(30, 15.0, 0.01, failed=True, status="boom")

    seen = laid_out(spans, [recorded(n) for n in range(20)], total=5_000, close=Close(batches=4))

    assert 5 == len(seen.closer)
    assert "Batch 30: 10 rows, 10 ms, failed" == seen.closer[-1].title
    assert "batch 30" in [lane.name for lane in seen.lanes]


def test_what_has_no_room_is_counted() -> None:
    own = [span("step", 1.0 + n / 100, 0.01, events=[RETRY] * 2, left_out=1) for n in range(50)]

    (closer,) = laid_out(batch_of(1, 1.0, 1.0, *own), [recorded(1)], close=Close(spans=10, notes=3)).closer

    assert (10, 43) == (len(closer.lanes), closer.spans_left_out)
    assert (3, 2 * 50 - 3 + 50) == (len(closer.notes), closer.left_out)


@given(
    st.lists(st.tuples(st.floats(-5, 50), st.floats(0, 60), st.booleans()), max_size=8),
    st.floats(1e-6, 1e6),
    st.booleans(),
)
def test_whatever_spans_are_like_a_picture_keeps_to_its_frame(
    times: list[tuple[float, float, bool]], seconds: float, zoomable: bool
) -> None:
    bars = [Bar(start, start + long, "stage", "t", marks=[start], failed=failed) for start, long, failed in times]

    chart = draw([Lane("l", "w", bars)], seconds, "picture", zoomable=zoomable)

    numbers = [float(part.split("%")[0]) for name in (' x="', ' x1="', ' x2="') for part in chart.split(name)[1:]]
    assert all(0 <= number <= 100 for number in numbers)
    assert chart.count("<rect") == len(bars)
    assert len(chart) < 40_000
