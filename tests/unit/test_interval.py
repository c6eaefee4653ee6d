"""The interval that a `cycle` is given: from the fire time before to the one it runs for."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from etl import CronTrigger, Pipeline, PPrintSink, TriggerSource
from etl.core.run import Run, RunState
from etl.runtime.runner import _interval


class Silent(TriggerSource):
    async def cycle(self) -> None:
        """Nothing to do."""


def test_one_interval_ends_where_the_next_one_begins_while_clocks_go_back() -> None:
    hourly = CronTrigger("30 * * * *", timezone="Europe/Berlin")
    job = Pipeline("hourly", Silent().on(hourly), PPrintSink())
    fire_times = [datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for hour in range(4)]

    told = [_interval(job, Run(UUID(int=1), "hourly", "cron", RunState.running, scheduled_for=at)) for at in fire_times]

    ends = [interval and interval[1] for interval in told]
    assert ends[:-1] == [interval and interval[0] for interval in told[1:]]
    assert {UTC} == {moment.tzinfo for interval in told if interval for moment in interval}
