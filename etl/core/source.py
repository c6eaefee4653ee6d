"""Where rows come from."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Protocol, Self

from etl.core.after import AfterTrigger
from etl.core.batch import Batch, Turn, now
from etl.core.trigger import Trigger
from etl.errors import ConfigurationError


class PipelineRun(Protocol):
    """What `self.pipeline` offers inside `cycle()`: the pipeline as this one run drives it."""

    async def ready(self) -> None:
        """Return when the next rows may come; ends the cycle when the run was asked to stop or was lost."""

    async def process(self, *events: Any) -> None:
        """Send events through the processors into the sink, as one batch; return when that is recorded."""

    async def claim(self, *, in_pairs: bool = False) -> Batch | None:
        """The next batch of pending rows, or None when the sweep is over (or the run is stopping). `in_pairs`: another
        one is going to be asked for at once, so two may be claimed together."""

    async def finish(self, batch: Batch, turn: Turn = now) -> None:
        """Process a claimed batch, write its results and record what became of each row. `turn` is awaited in between:
        whoever finishes several batches at once may have them written one after the other."""

    @property
    def steady(self) -> bool:
        """Whether the next batch is going to be about as large as the one before. If not, what is claimed ahead is of
        a size that has just turned out to be wrong."""


class TriggerSource(ABC):
    """Base of sources. Subclass it and write `async def cycle(self, *args, **kwargs)`, which runs once per run:

        await self.pipeline.ready()
        await self.pipeline.process(event)

    `cycle` gets the trigger's arguments by name, and whoever asks for them also

    `trigger_name`   who asked for the run
    `scheduled_for`  the fire time, aware; None where no clock was involved
    `interval`       (fire time before, fire time) of a clock trigger, both in UTC, else None
    `messages`       list of `Message` that the run serves, oldest first, equal ones once

    `on(...)` attaches triggers; any number, in one call or several.
    """

    triggers: tuple[Trigger, ...] = ()
    pipeline: PipelineRun

    def on(self, *triggers: Trigger, after: str | None = None) -> Self:
        """Attach triggers; any of them asks for a run. `after`: the name of a job whose successes do as well.

        Raises `ConfigurationError` for anything else.
        """
        if after is not None:
            triggers = (*triggers, AfterTrigger(after))
        for trigger in triggers:
            if not isinstance(trigger, Trigger):
                raise ConfigurationError(
                    f"on({trigger!r}) is not a trigger", setting="source.on", remedy="e.g. CronTrigger('*/5 * * * *')"
                )
        self.triggers = (*self.triggers, *triggers)
        return self

    def named_triggers(self) -> dict[str, Trigger]:
        """The triggers by the name that runs record: the kind, numbered from the second of a kind on."""
        named: dict[str, Trigger] = {}
        for trigger in self.triggers:
            number = sum(other.kind == trigger.kind for other in named.values()) + 1
            named[trigger.kind if number == 1 else f"{trigger.kind}-{number}"] = trigger
        return named

    def bound(self, pipeline: PipelineRun) -> Self:
        """A copy for one run: the definition itself stays inert."""
        source = copy.copy(self)
        source.pipeline = pipeline
        return source

    @abstractmethod
    async def cycle(self, *args: Any, **kwargs: Any) -> None:
        """One run's work."""
