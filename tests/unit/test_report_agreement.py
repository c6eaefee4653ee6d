"""Screen, page and JSON judge a run alike, and say the same of what is wrong with its job."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from etl.core.baseline import baseline
from etl.core.episode import Episode
from etl.core.event import EventKind
from etl.core.report import RunReport
from etl.reports.facts import report_facts
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
