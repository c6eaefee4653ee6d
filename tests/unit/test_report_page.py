"""The page of a run: whatever data holds it stays text, whole and small."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache
from html.parser import HTMLParser
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from etl.core.counts import Counts
from etl.core.episode import Episode
from etl.core.event import EventKind
from etl.core.evidence import BATCH, CLAIM, ROOT, ClaimPlan, Evidence, Happening, LoggedLine, Traced, TracedSpan
from etl.core.origins import Setting
from etl.core.report import BatchSpan, RunDetail, SetAside
from etl.core.run import RunState
from etl.core.stages import StageCounts
from etl.reports import svg
from etl.reports.axis import nice_step
from etl.reports.page import LIMIT, render_page
from tests.unit.test_report_screens import FORMER, GONE, KNOWN, REPORT, STARTED, a_run

ROW = SetAside("4711", "open", "geocode", "ValueError", "no good", 3, STARTED, '{"a": [1, 2]}', 13)
SPANS = [BatchSpan(n, "done", n * 10.0, n * 10 + 9.5, 1_000, 990, n % 2, n % 3, 0, False) for n in range(13)]
DETAIL = RunDetail(REPORT, SPANS, 13, 123.5, [ROW], 1, replace(REPORT, run=FORMER[0]), [("arguments", "{}")])

SECTIONS = ["flow", "stages", "timeline", "throughput", "errors", "quarantine", "logs", "comparison", "context"]
HIDDEN = "\x00\x01\x1b\x7f\x9b\u2028\u200e\u200f\u202a\u202e\u2066\u2069"


class Page(HTMLParser):
    """What a browser would make of a page: elements, attributes, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def evidence_of(text: str, *, batches: int = 13, stages: int = 2, lines: int = 5) -> Evidence:
    """Spans, lines, a claim and settings in which every piece of the user's data is this text."""
    event = Happening("etl.row.retry", 5.0, text, text, text, text)
    spans = [TracedSpan("root", None, ROOT, 0.0, 132.0), TracedSpan("claim", "root", CLAIM, 0.0, 1.0)]
    for n in range(batches):
        spans.append(TracedSpan(f"b{n}", "root", BATCH, n * 10.0, 9.5, failed=True, status=text, number=n, rows=1_000))
        spans += [
            TracedSpan(f"b{n}s{m}", f"b{n}", text, n * 10.0 + m, 0.5, label=text, events=[event] * 20, left_out=7)
            for m in range(stages)
        ]
    logged = [LoggedLine(n * 2, STARTED, n / 10, "error", text, text, text) for n in range(lines)]
    traced = Traced("root", spans, 3, logged, 10 * lines, 4)
    claim = ClaimPlan(text, [text], text, text)
    return Evidence(traced, claim, {text: Setting(text, text)}, {text: text})


def page(detail: RunDetail = DETAIL, evidence: Evidence | None = None) -> str:
    return render_page(detail, program="etl", written_at=STARTED, evidence=evidence or evidence_of("said"))


def everywhere(text: str) -> RunDetail:
    """A run in which every piece of the user's data is this text."""
    group = replace(KNOWN, stage=text, error_type=text, example=text, key=text, traceback=text)
    report = replace(
        REPORT,
        run=a_run(trigger=text, host=text, error_type=text, error=text, state=RunState.failed, arguments={"a": text}),
        stages=[StageCounts(text, 5, 5)],
        errors=[group],
        gone=[replace(GONE, stage=text, error_type=text, example=text)],
        episodes=[
            Episode(n, text, EventKind.late, text, None, STARTED, over, text) for n, over in enumerate((None, STARTED))
        ],
    )
    row = SetAside(text, "open", text, text, text, 1, STARTED, text, len(text) + 1)
    return replace(DETAIL, report=report, set_aside=[row], other=report, context=[("arguments", text)])


def test_every_section_is_there_and_the_page_asks_for_nothing_else() -> None:
    seen = Page(page())

    ids = [value for name, value in seen.attributes if name == "id" and value in SECTIONS]
    assert SECTIONS == ids
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(seen.tags)
    assert [] == [value for name, value in seen.attributes if name in ("src", "srcset", "data", "action", "xlink:href")]
    assert all((value or "").startswith("#") for name, value in seen.attributes if name == "href")
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in seen.attributes
    assert "etl replay orders-geocode --run 00000000" in seen.text


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</pre></style><b>", "{{ 7 * 7 }}{% raw %}", "&lt;b&gt;"],
    ids=["script", "attribute", "closing tags", "template", "entities"],
)  # fmt: skip
def test_markup_in_data_is_text(text: str) -> None:
    clean = Page(page(everywhere("harmless"), evidence_of("harmless")))
    seen = Page(page(everywhere(text), evidence_of(text)))

    assert clean.tags == seen.tags, "no element more or less"
    assert [name for name, _ in clean.attributes] == [name for name, _ in seen.attributes]
    assert seen.text.count(text) >= 100


def test_rows_that_a_stage_fanned_out_have_a_column_where_there_are_any() -> None:
    claim, geocode, *others = REPORT.stages
    split = replace(geocode, rows_out=geocode.rows_in - geocode.filtered - geocode.quarantined + 77)

    plain, fanned = (
        page(replace(DETAIL, report=replace(REPORT, stages=[claim, stage, *others]))) for stage in (geocode, split)
    )

    assert "fanned out" not in plain
    assert 1 == fanned.count('<th scope="col" class="n">fanned out</th>')
    assert 1 == fanned.count('<td class="n">77</td>')


def test_the_table_of_stages_tells_what_each_of_them_waited() -> None:
    claim, geocode, *others = REPORT.stages
    stages = [claim, replace(geocode, waited_s=45.2), *others]

    html = page(replace(DETAIL, report=replace(REPORT, stages=stages)))

    assert 1 == html.count('<th scope="col" class="n">waited</th>')
    assert 1 == html.count('<td class="n">45.2 s</td>')


def test_control_and_bidirectional_characters_are_written_out() -> None:
    html = page(everywhere(f"a{HIDDEN}b"), evidence_of(f"a{HIDDEN}b"))

    assert not set(HIDDEN) & set(html)
    assert r"\x202e" in html
    assert r"\x1b" in html


@cache
def clean_tags() -> list[str]:
    return Page(page(everywhere("x"), evidence_of("x", batches=1, lines=2))).tags


@settings(max_examples=40)
@given(st.text(st.characters() | st.sampled_from("<>&\"'`{}%\x1b\u202e\ud800"), min_size=1, max_size=40))
def test_no_text_changes_the_structure_of_a_page(text: str) -> None:
    html = page(everywhere(text), evidence_of(text, batches=1, lines=2))

    assert clean_tags() == Page(html).tags
    assert not set(HIDDEN) & set(html)


def test_secrets_in_payloads_and_messages_are_blanked_also_at_the_cut() -> None:
    payload = '{"pad": "' + "x" * 1_960 + '", "password": "correct horse battery staple"}'
    detail = replace(everywhere("token=hunter2"), set_aside=[replace(ROW, payload=payload, payload_size=len(payload))])

    html = page(detail, evidence_of("token=hunter2, Authorization: Bearer correcthorsebattery"))

    assert "[redacted]" in html
    for secret in ("hunter2", "correct", "horse", "battery"):
        assert secret not in html


@pytest.mark.parametrize("filler", ["x", "\u202e", '"', "<", "\U0001f600"], ids=["x", "bidi", "quote", "less", "emoji"])
def test_a_page_of_endless_data_stays_under_a_megabyte_and_says_what_it_left_out(filler: str) -> None:
    long = filler * 70_000
    groups = [replace(KNOWN, error_type=f"E{n}", example=long[:2_000], traceback=long[:8_000]) for n in range(500)]
    rows = [replace(ROW, key=str(n), message=long[:2_000], payload=long, payload_size=10_000_000) for n in range(50)]
    report = replace(REPORT, errors=groups, run=a_run(arguments={"a": long}))

    detail = replace(DETAIL, report=report, set_aside=rows, set_aside_total=90_000, context=[("arguments", long)])
    html = page(detail)

    assert len(html.encode()) < LIMIT
    assert "(10,000,000 characters in all)" in html
    assert "of 90,000." in html
    assert "more kinds." in html


def test_endless_evidence_stays_under_a_megabyte_and_says_what_it_left_out() -> None:
    html = page(evidence=evidence_of("\u202e" * 2_000, batches=24, stages=10, lines=150))

    assert len(html.encode()) < LIMIT
    assert "more of these." in html
    assert "more spans." in html
    assert "60 of 1,500 lines; 1,440 are left out" in html


# Charts


@pytest.mark.parametrize(
    "counts",
    [Counts(), Counts(claimed=5, written=5), Counts(claimed=9, written=1, filtered=2, quarantined=1, deferred=2,
                                                    released=1, vanished=2), Counts(claimed=3, written=9)],
    ids=["nothing", "all written", "every exit", "unbalanced"],
)  # fmt: skip
def test_a_flow_shows_every_exit_that_rows_took_and_no_other(counts: Counts) -> None:
    seen = Page(svg.row_flow(counts))

    exits = [value.split()[1] for name, value in seen.attributes if name == "class" and value and value[:5] == "exit "]
    taken = [n for n in ("filtered", "quarantined", "deferred", "released", "vanished") if getattr(counts, n)]
    assert taken == exits


def test_bars_lie_where_their_batches_were() -> None:
    seen = Page(svg.waterfall(SPANS, 132.0, REPORT.slices, 13))

    values: dict[str, list[float]] = {"x": [], "width": []}
    attributes = seen.attributes
    for place, (name, _) in enumerate(attributes):
        if name == "data-batch":
            for other, value in attributes[place - 5 : place]:
                if other in values:
                    values[other].append(float(value or 0))
    scale = (svg.WIDTH - 330 - 110) / 132.0
    assert pytest.approx([110 + scale * span.start_s for span in SPANS], abs=0.02) == values["x"]
    assert pytest.approx([scale * 9.5] * 13, abs=0.02) == values["width"]


@pytest.mark.parametrize(("rough", "step"), [(0.0, 0.0), (0.03, 0.05), (0.2, 0.2), (3.1, 5), (31, 60), (10**9, 86400)])
def test_an_axis_is_marked_at_round_times(rough: float, step: float) -> None:
    assert pytest.approx(step) == nice_step(rough)


@pytest.mark.parametrize("state", RunState)
def test_a_run_in_any_state_has_a_page(state: RunState) -> None:
    bare = replace(REPORT, run=replace(a_run(), state=state, started_at=None, duration_s=None, counts=Counts()),
                   stages=[], errors=[], former=[], gone=[], slices=[], outlook=None)  # fmt: skip
    detail = RunDetail(bare, [], 0, 0.0, [], 0)

    seen: Any = Page(page(detail, Evidence()))

    assert state.replace("_", " ") in seen.text
    assert "This is the job's first run." in seen.text


def test_a_long_run_is_folded() -> None:
    slices = [replace(each, batches=200) for each in REPORT.slices]

    seen = Page(svg.waterfall(SPANS, 132.0 + timedelta(hours=1).total_seconds(), slices, 12_000))

    assert "12,000 batches" in seen.text
    assert 13 == sum(name == "data-batch" for name, _ in seen.attributes)
