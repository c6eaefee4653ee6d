"""`max_quarantined`: when a run sets aside so much that something else than the rows must be wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass

from etl.errors import ConfigurationError

# A percentage of very few rows says nothing; until this many are claimed it is taken of this many.
SMALLEST_SAMPLE = 100


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `count` rows, or `percent` of the rows claimed so far."""

    count: int | None = None
    percent: float | None = None

    def exceeded(self, quarantined: int, claimed: int, *, at_end: bool = False) -> bool:
        """Whether `quarantined` of `claimed` rows are too many (`at_end`: judged on all rows, however few)."""
        if self.count is not None:
            return quarantined > self.count
        sample = claimed if at_end else max(claimed, SMALLEST_SAMPLE)
        return self.percent is not None and quarantined * 100 > self.percent * sample

    def __str__(self) -> str:
        return str(self.count) if self.count is not None else f"{self.percent:g}%"


def parse_quota(value: int | str | None) -> Quota:
    """Read 50 or "50" (rows) or "2%"; None sets no bound. Raises `ConfigurationError` for anything else."""
    if value is None:
        return Quota()
    text = str(value).strip()
    if not isinstance(value, bool):
        if re.fullmatch(r"\d+", text):
            return Quota(count=int(text))
        if (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text)) and float(match[1]) <= 100:
            return Quota(percent=float(match[1]))
    raise ConfigurationError(
        f"{value!r} is neither a number of rows nor a percentage", setting="max_quarantined", remedy="use 50 or '2%'"
    )
