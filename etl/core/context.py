"""What a processor or sink is told about the row or batch in its hands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import quote
from uuid import UUID

from etl.core.batch import Batch


def idempotency_key(source: str, key: Sequence[str]) -> str:
    """The stable name of a source row: `source:key`, safe as an HTTP header."""
    return f"{_quoted_source(source)}:{','.join(map(_quoted, key))}"


@cache
def _quoted_source(source: str) -> str:
    return quote(source, safe=".")


def _quoted(part: str) -> str:
    return part if part.isascii() and part.isalnum() else quote(part, safe="")


@dataclass(slots=True)
class BatchContext:
    """The facts all rows of a batch share."""

    run_id: UUID
    job: str
    trigger: str
    scheduled_for: datetime | None
    batch: Batch
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger]
    resources: Mapping[str, Any]
    trusted_seconds: Callable[[], float]
    is_stopping: Callable[[], bool]


class Context:
    """Given to each call of a processor or sink.

    `run_id`, `job`, `trigger`, `scheduled_for` and `batch_token` say where the row is; `attempt` counts the calls for
    it at this stage (from 1). `resources` are what the pipeline's `resources=` opened once for this worker.
    """

    __slots__ = ("_batch", "_ordinals", "attempt")

    def __init__(self, batch: BatchContext, ordinals: Sequence[int], attempt: int = 1) -> None:
        self._batch = batch
        self._ordinals = ordinals
        self.attempt = attempt

    @property
    def run_id(self) -> UUID:
        return self._batch.run_id

    @property
    def job(self) -> str:
        return self._batch.job

    @property
    def trigger(self) -> str:
        return self._batch.trigger

    @property
    def scheduled_for(self) -> datetime | None:
        return self._batch.scheduled_for

    @property
    def batch_token(self) -> UUID:
        return self._batch.batch.token

    @property
    def logger(self) -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
        return self._batch.logger

    @property
    def resources(self) -> Mapping[str, Any]:
        return self._batch.resources

    @property
    def stopping(self) -> bool:
        """Whether the run was asked to stop; long work should come to an end."""
        return self._batch.is_stopping()

    def remaining(self) -> float:
        """Seconds this process may still count on: until the run's timeout, or until its lease would run out if no
        heartbeat came through any more. Work that cannot finish within them may be void."""
        return self._batch.trusted_seconds()

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt, run and replay of this source row: give it to systems that drop duplicates.

        With several rows in hand (batch processors, sinks) ask for `idempotency_keys`.
        """
        if len(self._ordinals) != 1:
            raise AttributeError("there are several rows here: use context.idempotency_keys")
        return self._key(self._ordinals[0])

    @property
    def idempotency_keys(self) -> list[str]:
        """One key for each row in hand, in order; several results of one source row are told apart by `#2`, `#3`."""
        keys: list[str] = []
        seen: dict[int, int] = {}
        for ordinal in self._ordinals:
            seen[ordinal] = seen.get(ordinal, 0) + 1
            key = self._key(ordinal)
            keys.append(key if seen[ordinal] == 1 else f"{key}#{seen[ordinal]}")
        return keys

    @property
    def versions(self) -> list[int]:
        """One number for each row in hand, in order: another one whenever the source row was updated (its `xmin`); 0
        for events. Together with its idempotency key it names what was read."""
        versions = self._batch.batch.versions
        return [versions[ordinal] for ordinal in self._ordinals]

    def _key(self, ordinal: int) -> str:
        batch = self._batch.batch
        return idempotency_key(batch.source, batch.row_key(ordinal))


def each_context(batch: BatchContext, ordinals: Iterable[int]) -> Iterator[Context]:
    """A context for the first call with each of these rows. As `Context(batch, (ordinal,))` in half the time: calling
    `__init__` costs more than what it does."""
    new = object.__new__
    for ordinal in ordinals:
        context = new(Context)
        context._batch = batch  # noqa: SLF001
        context._ordinals = (ordinal,)  # noqa: SLF001
        context.attempt = 1
        yield context
