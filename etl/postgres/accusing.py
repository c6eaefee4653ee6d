"""Which rows an error seems to speak of, by what the server says in its detail.

A guess that saves most of the halving where the server is as good as naming the row. Nothing rests on it: the rows it
names are tried by themselves, the others together, and whoever is refused is found by halving as ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_ROW = re.compile(r"^Failing row contains \((.*)\)\.$", re.DOTALL)
_KEY = re.compile(r"^Key \((.*?)\)=\((.*?)\) ", re.DOTALL)
_SHOWN = 64  # the server shows so many bytes of a value
# More than that is no help.
MOST = 8


def accused(detail: str | None, outputs: Sequence[tuple[int, Any]]) -> list[int]:
    """Positions whose results may be those that the detail of an error shows, at most a handful."""
    found: list[int] = []
    if detail and (match := _ROW.match(detail)):
        shown = frozenset(match[1].split(", "))
        found = [position for position, row in outputs if _is_shown(row, shown)]
    elif detail and (match := _KEY.match(detail)):
        columns, values = match[1].split(", "), match[2].split(", ")
        if len(columns) == len(values):
            pairs = [(column.strip('"'), value) for column, value in zip(columns, values, strict=True)]
            found = [position for position, row in outputs if _has(row, pairs)]
    found = [*dict.fromkeys(found)]
    return found if len(found) <= MOST else []


def set_apart(positions: Sequence[int], suspects: Sequence[int]) -> list[Sequence[int]]:
    """Positions, in order, cut so that each suspect stands alone: of equal keys in a sink the last one must win."""
    pieces: list[Sequence[int]] = []
    start = 0
    for index, position in enumerate(positions):
        if position in suspects:
            pieces += [positions[start:index], [position]]
            start = index + 1
    return [piece for piece in (*pieces, positions[start:]) if piece]


def _is_shown(row: Any, shown: frozenset[str]) -> bool:
    """Whether the row has something to be known by, and all of that is shown."""
    if not isinstance(row, dict):
        return False
    marks = [str(value) for value in row.values() if type(value) in (int, str) and len(str(value)) < _SHOWN]
    return bool(marks) and shown.issuperset(mark for mark in marks if ", " not in mark)


def _has(row: Any, pairs: Sequence[tuple[str, str]]) -> bool:
    return isinstance(row, Mapping) and all(str(row.get(column)) == value for column, value in pairs)
