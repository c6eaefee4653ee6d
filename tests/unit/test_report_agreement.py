"""Screen, page and JSON judge a run alike, and say the same of what is wrong with its job."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from etl.core.backlog import Backlog
from etl.core.baseline import Measure, Norm, baseline, usual
from etl.core.comparison import usual_facts
from etl.core.counts import Counts
from etl.core.episode import Episode
from etl.core.event import EventKind
from etl.core.report import RunDetail, RunReport, Slice
from etl.core.run import REPLAY, RunState
from etl.reports import svg
from etl.reports.context import run_context
from etl.reports.facts import report_facts
from etl.reports.page import render_page
from etl.reports.terminal import render_report
from tests.unit.test_baseline import MONDAY, a_run, weeks

FORMER = weeks(5)
SLOW = a_run(seconds=600.0)
EPISODES = [
    Episode(1, "job", EventKind.late, "1", UUID(int=1), MONDAY, MONDAY + timedelta(minutes=7), "run 1 is still going"),
    Episode(2, "job", EventKind.quiet, "", None, MONDAY + timedelta(hours=1), None, "job has written no row"),
]
REPORT = RunReport(SLOW, [], [], FORMER, baseline=baseline(SLOW, FORMER), episodes=EPISODES)


def test_json_has_what_a_run_is_compared_with_what_is_unusual_and_what_is_wrong() -> None:
    facts = report_facts(REPORT)

    assert {
        "runs": 5, "duration_s": 60.0, "longest_s": 60.0, "rows_per_s": 100.0,
        "hour": {"weekday": 0, "hour": 3, "zone": "UTC"}, "ended": 5, "failed": 0,
    } == facts["usual"]  # fmt: skip
    assert [
        "slower than usual (10 rows/s; usually 66 to 151)",
        "longer than usual (usually 39.7 s to 1 min 31 s)",
    ] == facts["unusual"]
    late, quiet = facts["episodes"]
    assert {
        "kind": "late", "opened_at": "2024-03-04T03:05:00+00:00", "closed_at": "2024-03-04T03:12:00+00:00",
        "text": "run 1 is still going", "run_id": str(UUID(int=1)),
    } == late  # fmt: skip
    assert ("quiet", None, None) == (quiet["kind"], quiet["closed_at"], quiet["run_id"])


def test_without_a_past_json_has_nothing_usual_and_so_nothing_unusual() -> None:
    facts = report_facts(replace(REPORT, former=[], baseline=None))

    assert (None, []) == (facts["usual"], facts["unusual"])


def page(report: RunReport) -> str:
    text = render_page(RunDetail(report, [], 0, 0.0, [], 0), program="etl", written_at=MONDAY)
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", text, flags=re.DOTALL)).split())


def test_page_screen_and_json_take_a_run_for_unusual_by_the_same_bounds() -> None:
    slices = [Slice(0.0, 600.0, 6_000, 0, 1)]

    screen = "\n".join(render_report(replace(REPORT, slices=slices), width=300))
    told = page(replace(REPORT, slices=slices))

    sentence = f"Unusual: {'; '.join(report_facts(REPORT)['unusual'])}."
    assert sentence in screen
    assert sentence in told
    assert "Dashed: the usual rate, 100 rows/s. Band: 66 to 151, beyond which" in told
    norm = usual(FORMER).norms[Measure.duration]  # type: ignore[union-attr]
    assert "median 1 min 00 s, usually 39.7 s to 1 min 31 s" in (svg.bullet(600.0, norm) or "")


def test_the_page_says_what_is_wrong_with_the_job_as_the_screen_does() -> None:
    screen = "\n".join(render_report(REPORT, width=300))
    told = page(REPORT)

    for sentence in (
        'was late from 2024-03-04 03:05:00 to 03:12:00 UTC: "run 1 is still going"',
        "QUIET since 2024-03-04 04:05 UTC: job has written no row",
    ):
        assert sentence in screen
        assert sentence in told


def test_of_many_episodes_the_page_counts_those_it_leaves_out() -> None:
    assert "and 8 more." in page(replace(REPORT, episodes=EPISODES * 10))


def test_an_endlessly_wide_band_leaves_the_run_to_be_seen() -> None:
    drawn = str(svg.bullet(60.0, Norm(5, 60.0, 0.0, 1e9)))

    widths = [float(value) for value in re.findall(r' width="([0-9.]+)"', drawn)]
    track, band, bar = widths
    assert band <= track
    assert bar > track / 5


def test_the_usual_beside_two_runs_is_what_runs_are_judged_by() -> None:
    counts = Counts(claimed=6_000, written=5_970, quarantined=30)
    former = [*(replace(each, counts=counts) for each in FORMER), a_run(trigger=REPLAY), a_run(state=RunState.failed)]

    assert {"claimed": "6,000", "rows/s": "100", "duration": "1 min 00 s", "quarantined": "0.5%"} == usual_facts(
        usual(former)
    )
    assert {} == usual_facts(usual(FORMER[:2]))


def test_the_context_of_a_run_has_what_it_found_took_and_left() -> None:
    run = a_run(
        ended_at=MONDAY + timedelta(seconds=61), database_s=23.4, peak_memory_bytes=84_000_000,
        code_version="git:3f9c", backlog_before=Backlog(1_200, oldest_at=MONDAY - timedelta(seconds=89)),
        backlog_after=Backlog(2, oldest_at=MONDAY + timedelta(seconds=1)),
    )  # fmt: skip

    facts = dict(run_context(run, None, FORMER))

    assert {
        "late by": "1.00 s",
        "in transactions": "23.4 s",
        "peak memory": "84 MB",
        "backlog": "1,200 before, 2 after; the oldest had waited 1 min 30 s",
        "oldest row left": "2024-03-04 03:05:01.000+00:00 (had waited 1 min 00 s)",
        "code": "git:3f9c",
    } == {
        name: facts[name]
        for name in ("late by", "in transactions", "peak memory", "backlog", "oldest row left", "code")
    }


def test_what_nobody_measured_is_no_fact_of_the_context() -> None:
    assert not {"late by", "in transactions", "peak memory", "backlog", "oldest row left", "code"} & set(
        dict(run_context(a_run(scheduled_for=None), None))
    )
