"""A claimed batch, and what became of its rows."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from etl.core.sanitise import ErrorText, describe_exception
from etl.core.stages import StageCounts

# Returns when a batch may be written: the one before it in its lane has been.
Turn = Callable[[], Awaitable[None]]


async def now() -> None:
    """The turn of a batch that comes after no other."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row goes to quarantine: the stage, the error, and how often the row was called there."""

    stage: str
    error: ErrorText
    attempts: int = 1

    @classmethod
    def of(cls, stage: str, error: BaseException, attempts: int = 1) -> Failure:
        """Describe an exception; never raises."""
        return cls(stage, describe_exception(error), attempts)

    @classmethod
    def refused(cls, sink: str, error: BaseException) -> Failure:
        """What the server says of a result; where in its driver that was told is nothing to anybody. Never raises."""
        return cls(sink, describe_exception(error, where=False))


@dataclass(slots=True)
class Batch:
    """Rows in the hands of one run, under one token, in key order.

    `keys` holds the key as text, one list per key column; `versions` the rows' `xmin` when they were read.
    `unreadable` holds rows (by position) that could not be given to a processor at all. The first `leading` columns of
    the key only say in which order rows come; `lane` is the name under which the range is reserved ("": the source's).
    `claim_seconds` is what the claim took, `claim_waited` how long it was waited for (see `StageCounts`). `follows`:
    when the one before it in its lane had ended, by `time.monotonic()`.
    """

    token: UUID
    number: int
    source: str
    rows: list[Any]
    keys: list[list[str]]
    versions: list[int]
    crashes: int = 0
    claim_seconds: float = 0.0
    claim_waited: float = 0.0
    follows: float = -math.inf
    unreadable: dict[int, Failure] = field(default_factory=dict)
    leading: int = 0
    lane: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, position: int) -> list[str]:
        """The key's parts of one row."""
        return [column[position] for column in self.keys]

    def row_key(self, position: int) -> list[str]:
        """What identifies one row."""
        return [column[position] for column in self.keys[self.leading :]]

    def key_json(self, position: int) -> str:
        """What identifies one row, as the framework stores it: a JSON array of texts."""
        return orjson.dumps(self.row_key(position)).decode()

    def part(self, positions: Sequence[int], token: UUID, number: int) -> Batch:
        """Some of the rows as a batch of their own."""
        return Batch(
            token,
            number,
            self.source,
            rows=[self.rows[n] for n in positions],
            keys=[[column[n] for n in positions] for column in self.keys],
            versions=[self.versions[n] for n in positions],
            crashes=self.crashes,
            leading=self.leading,
            lane=self.lane,
        )


@dataclass(slots=True)
class Processed:
    """What the processors made of a batch, by position in the batch.

    Every position is in exactly one of: `positions` (once for each of the results, which are `values`, in order),
    `filtered`, `failures`.
    """

    positions: Sequence[int] = range(0)
    values: list[Any] = field(default_factory=list)
    filtered: list[int] = field(default_factory=list)
    failures: dict[int, Failure] = field(default_factory=dict)
    retried: set[int] = field(default_factory=set)
    stages: list[StageCounts] = field(default_factory=list)

    @property
    def outputs(self) -> list[tuple[int, Any]]:
        """Each result with the position of its row. Made anew when asked for."""
        return list(zip(self.positions, self.values, strict=True))

    @outputs.setter
    def outputs(self, outputs: Sequence[tuple[int, Any]]) -> None:
        self.positions, self.values = [position for position, _ in outputs], [value for _, value in outputs]

    @property
    def with_results(self) -> list[int]:
        """The positions of the rows that something came of, each once, in order."""
        return [*self.positions] if isinstance(self.positions, range) else sorted({*self.positions})
