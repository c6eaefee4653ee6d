"""The books of a run: where each claimed source row went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Source rows by outcome. `retried` (rows called more than once) and `batches` are not part of the balance."""

    claimed: int = 0
    written: int = 0
    filtered: int = 0
    quarantined: int = 0
    deferred: int = 0
    released: int = 0
    vanished: int = 0
    retried: int = 0
    batches: int = 0

    @property
    def accounted(self) -> int:
        """Rows whose fate is known."""
        return self.written + self.filtered + self.quarantined + self.deferred + self.released + self.vanished

    @property
    def balanced(self) -> bool:
        """claimed = written + filtered + quarantined + deferred + released + vanished."""
        return self.claimed == self.accounted

    def add(self, other: Counts) -> None:
        """Add another batch's or run's counts to these."""
        for name in self.__slots__:  # `fields()` costs a tuple each time that Python keeps for later, up to thousands
            setattr(self, name, getattr(self, name) + getattr(other, name))


# Told what a batch comes to before that is recorded; raises to keep it from being.
Judge = Callable[[Counts], None]
