"""Rows between two stages, column by column: there is no object for a row that just goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple


class Raised:
    """Stands in the place of a result where the call raised."""


RAISED = Raised()
# What is no value that goes on as it is; a list counts with its subclasses.
_APART = (type(None), list, Raised)


class Item(NamedTuple):
    """One row that goes on by itself."""

    ordinal: int
    path: tuple[int, ...]
    value: Any


class Followed(NamedTuple):
    """What goes on after a stage, how many calls returned nothing that would, and how many raised."""

    flow: Flow
    filtered: int
    raised: int


@dataclass(frozen=True, slots=True)
class Flow:
    """Rows in order: their positions in the batch, what each was fanned out to (a place within each list it was in),
    and the value that is the next stage's."""

    ordinals: Sequence[int]
    paths: Sequence[tuple[int, ...]]
    values: list[Any]

    @classmethod
    def of(cls, ordinals: Sequence[int], values: list[Any]) -> Flow:
        """Rows that no stage has seen."""
        return cls(ordinals, [()] * len(values), values)

    @classmethod
    def of_items(cls, items: Sequence[Item]) -> Flow:
        """Rows that were by themselves."""
        return cls([item.ordinal for item in items], [item.path for item in items], [item.value for item in items])

    def __len__(self) -> int:
        return len(self.values)

    def item(self, place: int) -> Item:
        """One of the rows."""
        return Item(self.ordinals[place], self.paths[place], self.values[place])

    def part(self, start: int, stop: int) -> Flow:
        """The rows from one place up to another."""
        return Flow(self.ordinals[start:stop], self.paths[start:stop], self.values[start:stop])

    def chosen(self, places: Sequence[int]) -> Flow:
        """The rows at these places."""
        return Flow(
            list(map(self.ordinals.__getitem__, places)),
            list(map(self.paths.__getitem__, places)),
            list(map(self.values.__getitem__, places)),
        )

    def follow(self, results: list[Any]) -> Followed:
        """What goes on after a stage returned these results, one for each row."""
        apart = {kind for kind in set(map(type, results)) if issubclass(kind, _APART)}
        if not apart:
            return Followed(Flow(self.ordinals, self.paths, results), 0, 0)
        ordinals: list[int] = []
        paths: list[tuple[int, ...]] = []
        values: list[Any] = []
        filtered = raised = 0
        for ordinal, path, result in zip(self.ordinals, self.paths, results, strict=True):
            if type(result) not in apart:
                ordinals.append(ordinal)
                paths.append(path)
                values.append(result)
            elif result is RAISED:
                raised += 1
            elif result is None:
                filtered += 1
            else:
                filtered += not result
                ordinals += [ordinal] * len(result)
                paths += [(*path, n) for n in range(len(result))]
                values += result
        return Followed(Flow(ordinals, paths, values), filtered, raised)


def joined(flows: Sequence[Flow]) -> Flow:
    """All rows in the order of the batch, whichever came first."""
    if len(flows) == 1:
        return flows[0]
    ordinals = [*chain.from_iterable(flow.ordinals for flow in flows)]
    paths = [*chain.from_iterable(flow.paths for flow in flows)]
    values = [*chain.from_iterable(flow.values for flow in flows)]
    order = sorted(range(len(values)), key=[*zip(ordinals, paths, strict=True)].__getitem__)
    return Flow(ordinals, paths, values).chosen(order)
