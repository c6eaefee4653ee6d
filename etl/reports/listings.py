"""Lists of runs, jobs, rows set aside, ticks and fire times as lines that fit the screen.

What does not fit is given up in steps: shorter words, texts cut, then whole columns. Without a width, as in a pipe,
nothing is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from etl.reports.columns import columns
from etl.reports.words import one_line

_CUT = "..."
_YEAR = re.compile(r"\b\d{4}-(?=\d\d-)")


@dataclass(frozen=True, slots=True)
class Listing:
    """How a list is set. Columns are named by their header.

    `short`    shorter headers.
    `cut`      least widths of texts that may be cut, the first to be cut first.
    `spare`    columns that may go, the first to go first.
    `moments`  times that may lose their year.
    `tails`    texts whose end says more than their beginning.
    """

    header: tuple[str, ...]
    right: frozenset[str] = frozenset()
    short: Mapping[str, str] = field(default_factory=dict)
    cut: Mapping[str, int] = field(default_factory=dict)
    spare: tuple[str, ...] = ()
    moments: frozenset[str] = frozenset()
    tails: frozenset[str] = frozenset()

    def lines(self, rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
        """The header and the rows."""
        told = [[one_line(cell) for cell in row] for row in rows]
        kept = list(self.header)
        if width is None or _width([kept, *told]) <= width:
            return self._set([kept, *told], kept)
        told = [
            [_YEAR.sub("", cell) if name in self.moments else cell for name, cell in zip(kept, row, strict=True)]
            for row in told
        ]
        for spared in (None, *self.spare):
            if spared is not None:
                kept.remove(spared)
            places = [self.header.index(name) for name in kept]
            table = [[self.short.get(name, name) for name in kept], *([row[n] for n in places] for row in told)]
            fitted = self._cut_to(table, kept, width)
            if _width(fitted) <= width:
                break
        return [line[:width] for line in self._set(fitted, kept)]

    def _cut_to(self, table: list[list[str]], kept: Sequence[str], width: int) -> list[list[str]]:
        for name, least in self.cut.items():
            if name in kept and (excess := _width(table) - width) > 0:
                place = kept.index(name)
                room = max(least, max(len(row[place]) for row in table) - excess)
                tail = name in self.tails
                told = [table[0][place], *(_shortened(row[place], room, tail=tail) for row in table[1:])]
                table = [[*row[:place], cell, *row[place + 1 :]] for row, cell in zip(table, told, strict=True)]
        return table

    def _set(self, table: Sequence[Sequence[str]], kept: Sequence[str]) -> list[str]:
        return columns(table, right=[n for n, name in enumerate(kept) if name in self.right])


RUNS = Listing(
    ("run", "job", "status", "trigger", "started (UTC)", "took", "claimed", "written", "quarantined", "recent"),
    right=frozenset({"took", "claimed", "written", "quarantined"}),
    short={"quarantined": "quar."},
    cut={"recent": 8, "trigger": 8, "job": 12},
    spare=("recent", "trigger", "claimed", "took"),
    moments=frozenset({"started (UTC)"}),
    tails=frozenset({"recent"}),
)
JOBS = Listing(
    ("job", "source", "sink", "triggers", "next (UTC)"),
    cut={"triggers": 18, "source": 14, "sink": 10, "job": 12},
    spare=("sink", "source"),
    moments=frozenset({"next (UTC)"}),
)
QUARANTINE = Listing(
    ("key", "job", "error", "stage", "attempts", "since (UTC)", "run", "message"),
    right=frozenset({"attempts"}),
    short={"attempts": "tries"},
    cut={"message": 20, "stage": 8, "error": 12, "key": 10, "job": 8},
    spare=("since (UTC)", "attempts", "stage"),
    moments=frozenset({"since (UTC)"}),
)
TICKS = Listing(
    ("fire time (UTC)", "job", "trigger", "decision", "run", "reason"),
    cut={"reason": 16, "trigger": 8, "job": 12},
    spare=("trigger", "reason"),
    moments=frozenset({"fire time (UTC)"}),
)
FIRE_TIMES = Listing(
    ("local time", "UTC", "job", "trigger", ""),
    cut={"": 17, "trigger": 8, "job": 12},
    spare=("UTC", ""),
    moments=frozenset({"local time", "UTC"}),
)


def _width(table: Sequence[Sequence[str]]) -> int:
    return sum(max(len(row[n]) for row in table) for n in range(len(table[0]))) + 2 * (len(table[0]) - 1)


def _shortened(text: str, room: int, *, tail: bool) -> str:
    if tail:
        return text[-room:]
    return text if len(text) <= room else text[: max(0, room - len(_CUT))] + _CUT
