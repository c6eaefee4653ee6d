"""A job that runs after another."""

from __future__ import annotations

from etl.core.message import success_topic
from etl.core.overlap import Overlap
from etl.core.trigger import Trigger
from etl.durations import Duration
from etl.errors import ConfigurationError


class AfterTrigger(Trigger):
    """Fires when a run of another job succeeded; its run has the time that run was scheduled for.

    A run that set rows aside is `partial`, not a success. `source.on(after="load")` means the same.
    """

    kind = "after"

    def __init__(
        self, job: str, *, overlap: str | Overlap | None = None, start_deadline: Duration | None = None
    ) -> None:
        super().__init__(overlap=overlap, start_deadline=start_deadline)
        if not isinstance(job, str) or not job:
            raise ConfigurationError(f"{job!r} is not the name of a job", setting="AfterTrigger", remedy="name the job")
        self.job = job
        self.topics = (success_topic(job),)

    @property
    def spec(self) -> str:
        return f"after {self.job}"
