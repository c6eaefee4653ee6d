"""What a sink's table demands of its rows, as far as rows were refused for it lately. A hint: nothing rests on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

# To look through a batch costs about a fourth of what it costs to write one in vain. After so many in which nothing was
# found, looking has cost as much as the refusal that began it: where it is no use, it costs no more than they do.
ENOUGH = 4


@dataclass(frozen=True, slots=True)
class Demand:
    """A condition on a row: SQL over its columns, by their names; what is not false is fine. `columns`: those that it
    looks at, each with its type where that has a length or a precision."""

    sql: str
    columns: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Place:
    """Which constraint, or which column that must not be null, refused a row, and of which table. To all parts of a
    partitioned table it is the same one, whichever of them refused."""

    schema: str = field(compare=False)
    table: str = field(compare=False)
    constraint: str | None = None
    column: str | None = None


class Demands:
    """Those of one table. A place is known once it has been noted and somebody has found out what is demanded there; it
    is forgotten when nothing was refused there for a while, or at any doubt, until a row is refused there again."""

    def __init__(self) -> None:
        self._noted: dict[Place, None] = {}
        self._known: dict[Place, Demand] = {}
        self._idle: dict[Place, int] = {}

    def note(self, place: Place) -> None:
        """A row was refused there."""
        if place in self._known:
            self._idle[place] = 0
        else:
            self._noted[place] = None

    def take_noted(self) -> list[Place]:
        """Places of which nobody knows yet what is demanded there; the caller is to find out."""
        noted, self._noted = [*self._noted], {}
        return noted

    def learn(self, place: Place, demand: Demand) -> None:
        """This is what is demanded there."""
        self._known[place] = demand
        self._idle[place] = 0

    def among(self, columns: Collection[str]) -> dict[Place, Demand]:
        """What is known of rows that have these columns and no others."""
        return {place: demand for place, demand in self._known.items() if demand.columns.keys() <= {*columns}}

    def looked(self, places: Collection[Place], found: Sequence[Place]) -> None:
        """A batch was looked through for what these places demand, and there was something for some of them."""
        for place in places:
            if place in self._known:
                self._idle[place] = 0 if place in found else self._idle[place] + 1
                if self._idle[place] >= ENOUGH:
                    self.forget([place])

    def forget(self, places: Collection[Place]) -> None:
        """Look for nothing there."""
        for place in places:
            self._known.pop(place, None)
            self._idle.pop(place, None)
