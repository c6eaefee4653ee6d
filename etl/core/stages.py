"""What each stage of a pipeline did to a batch: counts, busy and waited time, and how long one call took.

Durations are kept as a histogram whose buckets are a fourth of an octave wide (a quantile is right within 10 %),
so that batches, runs and days can be added up and nothing grows with the number of rows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_FIRST_EDGE = 1e-7  # seconds
_EDGES = [_FIRST_EDGE * 2 ** (i / 4) for i in range(160)]  # up to about a day
_NO_WAIT = 1e-3  # seconds: a batch's row has no word of a stage that waited less


def histogram(seconds: list[float]) -> dict[int, int]:
    """Bucket number -> how many of the durations (seconds) fall into it. Sorts the list in place."""
    seconds.sort()
    buckets: dict[int, int] = {}
    start = 0
    while start < len(seconds):
        bucket = bisect_left(_EDGES, seconds[start])
        edge = _EDGES[bucket] if bucket < len(_EDGES) else float("inf")
        end = bisect_left(seconds, edge, lo=start)
        end = max(end, start + 1)
        buckets[bucket] = buckets.get(bucket, 0) + end - start
        start = end
    return buckets


def quantile(buckets: Mapping[int, int], share: float) -> float | None:
    """The duration (seconds) that `share` of the calls did not exceed; None without calls."""
    total = sum(buckets.values())
    rank = share * total
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= rank:
            return _EDGES[min(bucket, len(_EDGES) - 1)] / 2 ** (1 / 8)  # the middle of the bucket
    return None


@dataclass(slots=True)
class StageCounts:
    """One stage's part in a batch or run. Counts are rows as that stage saw them (after earlier fan-outs).

    `busy_s` is the time inside the stage's calls, `waited_s` that for which calls stood still before they could be
    made. Both are seconds, added up over calls that go on side by side (so either may exceed what the run took), and
    no time of a call is in both:

    * claim: a lane, while another one of the run claimed; while all rows left were in the hands of other runs, or of
      dead ones that could not be ended yet; and with a batch in hand, while rows that are suspected of killing the
      process kept it waiting (`runtime.gate`). A wait that no batch comes after is not recorded.
    * processor: a row (or the list, where it takes one) between its attempts; and the rows of a batch together, once,
      until a thread was free for them. Waiting for a thread otherwise, for a list or a further attempt, is busy time.
    * sink outside the database: a batch, from the first attempt to reach it to the beginning of the one that did.
    * sink inside: never. A lock of another session is busy time where it holds up the writing; a wait for a connection,
      for rows to be marked done, or for the database to come back is in neither.

    Events that a source brings itself have no claim; what suspects make them wait is not recorded.
    """

    name: str
    rows_in: int = 0
    rows_out: int = 0
    filtered: int = 0
    retried: int = 0
    quarantined: int = 0
    busy_s: float = 0.0
    calls: dict[int, int] = field(default_factory=dict)
    waited_s: float = 0.0

    @property
    def fanned_out(self) -> int:
        """Rows that came out beyond one for each that was not filtered or quarantined: calls that returned several."""
        return max(0, self.rows_out - (self.rows_in - self.filtered - self.quarantined)) if self.rows_in else 0

    def add(self, other: StageCounts) -> None:
        """Add the same stage's part in another batch."""
        self.rows_in += other.rows_in
        self.rows_out += other.rows_out
        self.filtered += other.filtered
        self.retried += other.retried
        self.quarantined += other.quarantined
        self.busy_s += other.busy_s
        self.waited_s += other.waited_s
        for bucket, count in other.calls.items():
            self.calls[bucket] = self.calls.get(bucket, 0) + count

    def as_json(self) -> dict[str, Any]:
        """The form kept in `etl.batch.stages`; as most batches wait for nothing, they say nothing of it."""
        waited = {"waited_s": round(self.waited_s, 6)} if self.waited_s >= _NO_WAIT else {}
        return {
            "name": self.name,
            "in": self.rows_in,
            "out": self.rows_out,
            "filtered": self.filtered,
            "retried": self.retried,
            "quarantined": self.quarantined,
            "busy_s": round(self.busy_s, 6),
            "calls": {str(bucket): count for bucket, count in self.calls.items()},
            **waited,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StageCounts:
        """Read the form `as_json` writes."""
        return cls(
            name=data["name"],
            rows_in=data["in"],
            rows_out=data["out"],
            filtered=data["filtered"],
            retried=data["retried"],
            quarantined=data["quarantined"],
            busy_s=data["busy_s"],
            calls={int(bucket): count for bucket, count in data["calls"].items()},
            waited_s=data.get("waited_s", 0.0),
        )


def fold_stages(batches: Iterable[Iterable[StageCounts]]) -> list[StageCounts]:
    """Add up the stages of many batches, in pipeline order (the order of the longest list)."""
    folded: list[StageCounts] = []
    for stages in batches:
        for position, stage in enumerate(stages):
            if position == len(folded):
                folded.append(StageCounts(stage.name))
            folded[position].add(stage)
    return folded
