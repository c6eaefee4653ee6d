"""The jobs that a process serves, by trigger: what to ask for when one fires. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from etl.core.blocker import Pool
from etl.core.overlap import Overlap
from etl.core.pipeline import Pipeline
from etl.core.ports import RunRequest
from etl.core.run import MANUAL
from etl.core.trigger import ClockTrigger, OpportunisticTrigger, Trigger
from etl.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Served:
    """A trigger of a job that is served."""

    pipeline: Pipeline
    trigger_name: str
    trigger: Trigger
    pool: Pool | None

    @property
    def job(self) -> str:
        """The job's name."""
        return self.pipeline.name

    def first_fire_time(self, now: datetime) -> datetime | None:
        """When it fires first if it is stored at `now`; None without a clock. Raises `ConfigurationError`."""
        if not isinstance(self.trigger, ClockTrigger):
            return None
        try:
            return self.trigger.first_fire_time(now, job=self.job)
        except ConfigurationError as error:
            raise ConfigurationError(error.problem, job=self.job, setting=error.setting, remedy=error.remedy) from None

    def request(
        self,
        *,
        scheduled_for: datetime | None = None,
        made_up: int = 0,
        serves_messages: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> RunRequest:
        """A run by this trigger. `made_up`: so many other fire times are made up for, and each has a run of its own."""
        overlap = self.trigger.overlap
        if overlap.waiting < made_up:
            overlap = Overlap.queue(made_up)
        return RunRequest(
            run_id=uuid4(),
            job=self.job,
            trigger=self.trigger_name,
            overlap_key=self.pipeline.overlap_key,
            scheduled_for=scheduled_for,
            arguments=arguments or {},
            overlap=overlap,
            places=self.trigger.overlap.places,
            pool=self.pool,
            start_within=self.trigger.start_deadline,
            serves_messages=serves_messages,
        )


class Definitions(NamedTuple):
    """Triggers as parallel lists, for SQL."""

    jobs: list[str]
    triggers: list[str]
    specs: list[str]


class Subscriptions(NamedTuple):
    """Topics that triggers want, as parallel lists."""

    jobs: list[str]
    triggers: list[str]
    topics: list[str]


class Opportunities(NamedTuple):
    """Triggers that fire when there is nothing else to do, as parallel lists; pauses in seconds."""

    jobs: list[str]
    triggers: list[str]
    specs: list[str]
    overlap_keys: list[str]
    pauses: list[float]


class Changed(NamedTuple):
    """Triggers whose definition is new, with their first fire times."""

    jobs: list[str]
    triggers: list[str]
    specs: list[str]
    first: list[datetime | None]
    refused: list[ConfigurationError]


class Service:
    """The jobs of one process. `pools` are the sizes that settings give to pools.

    Its own `pools` are those that jobs count against, by job.
    """

    def __init__(self, pipelines: Mapping[str, Pipeline], pools: Mapping[str, int]) -> None:
        self.jobs = dict(pipelines)
        self._sizes = dict(pools)
        found = {name: pool_of(pipeline, pools) for name, pipeline in pipelines.items()}
        self.pools = {name: pool for name, pool in found.items() if pool is not None}
        self._served = {
            (pipeline.name, name): Served(pipeline, name, trigger, self.pools.get(pipeline.name))
            for pipeline in pipelines.values()
            for name, trigger in pipeline.source.named_triggers().items()
        }

    def __getitem__(self, place: tuple[str, str]) -> Served:
        return self._served[place]

    def all(self) -> Collection[Served]:
        """Every trigger."""
        return self._served.values()

    def definitions(self) -> Definitions:
        """Every trigger with its definition."""
        listed = [(each.job, each.trigger_name, each.trigger.spec) for each in self._served.values()]
        return Definitions(
            [job for job, _, _ in listed], [name for _, name, _ in listed], [spec for *_, spec in listed]
        )

    def subscriptions(self) -> Subscriptions:
        """Every topic that a trigger wants."""
        listed = [(each, topic) for each in self._served.values() for topic in each.trigger.topics]
        return Subscriptions(
            [each.job for each, _ in listed], [each.trigger_name for each, _ in listed], [topic for _, topic in listed]
        )

    def opportunistic(self) -> Opportunities:
        """The triggers that fire when there is nothing else to do."""
        found = Opportunities([], [], [], [], [])
        for each in self._served.values():
            if isinstance(each.trigger, OpportunisticTrigger):
                found.jobs.append(each.job)
                found.triggers.append(each.trigger_name)
                found.specs.append(each.trigger.spec)
                found.overlap_keys.append(each.pipeline.overlap_key)
                found.pauses.append(each.trigger.pause.total_seconds())
        return found

    def changed(self, stored: Mapping[tuple[str, str], str], now: datetime) -> Changed:
        """The triggers that are not stored as they are defined, and when they fire first.

        `refused` has those that cannot be: one whose only fire time has passed fires never.
        """
        found = Changed([], [], [], [], [])
        for place, each in sorted(self._served.items()):
            if stored.get(place) == each.trigger.spec:
                continue
            try:
                first = each.first_fire_time(now)
            except ConfigurationError as error:
                found.refused.append(error)
                continue
            found.jobs.append(each.job)
            found.triggers.append(each.trigger_name)
            found.specs.append(each.trigger.spec)
            found.first.append(first)
        return found

    def on_start(self, jobs: Collection[str]) -> list[Served]:
        """The triggers of these jobs that fire when their job begins to be served."""
        return [
            each
            for each in self._served.values()
            if each.job in jobs and isinstance(each.trigger, ClockTrigger) and each.trigger.fires_on_start
        ]

    def request(self, job: str, trigger: str) -> RunRequest:
        """A run that no trigger of the job asks for."""
        return requested(self.jobs[job], trigger, self._sizes)


def requested(
    pipeline: Pipeline,
    trigger: str = MANUAL,
    pools: Mapping[str, int] | None = None,
    *,
    run_id: UUID | None = None,
    arguments: Mapping[str, Any] | None = None,
    row_limit: int | None = None,
) -> RunRequest:
    """A run that no trigger asks for; it may run beside others where one of the job's triggers allows that."""
    return RunRequest(
        run_id=run_id or uuid4(),
        job=pipeline.name,
        trigger=trigger,
        overlap_key=pipeline.overlap_key,
        arguments=arguments or {},
        row_limit=row_limit,
        places=max((each.overlap.places for each in pipeline.source.triggers), default=1),
        pool=pool_of(pipeline, pools or {}),
    )


def pool_of(pipeline: Pipeline, pools: Mapping[str, int]) -> Pool | None:
    """The pool a job counts against. Raises `ConfigurationError` for one that settings do not know."""
    if pipeline.pool is None:
        return None
    if pipeline.pool not in pools:
        known = ", ".join(pools) or "none"
        raise ConfigurationError(
            f"there is no pool {pipeline.pool!r}",
            job=pipeline.name,
            setting="pool",
            remedy=f"give its size in etl.toml: [pools] {pipeline.pool} = 4 (there are: {known})",
        )
    return Pool(pipeline.pool, pools[pipeline.pool])
