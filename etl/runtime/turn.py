"""The turn of a batch to be written, as the run sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Self

from etl.core.batch import Turn


class TimedTurn:
    """A turn, and the seconds for which it was waited for."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.seconds = 0.0

    async def __call__(self) -> None:
        began = time.monotonic()
        await self._turn()
        self.seconds += time.monotonic() - began


class SpanFromTurn:
    """A turn from which on there is a span, until the end of the `with`: waiting for it is no part of that."""

    def __init__(self, turn: Turn, span: Callable[[], AbstractContextManager[Any]]) -> None:
        self._turn = turn
        self._span: Callable[[], AbstractContextManager[Any]] | None = span
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    async def __call__(self) -> None:
        await self._turn()
        if self._span is not None:
            self._stack.enter_context(self._span())
            self._span = None
