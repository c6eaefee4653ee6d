"""Worker-wide resources of pipelines: opened at the job's first run, closed with the worker."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from etl.core.pipeline import Pipeline

# They are held while they are entered: to open one would be to take it.
_LOCKS = (
    asyncio.Lock,
    asyncio.Condition,
    asyncio.Semaphore,
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Semaphore,
)


class Resources:
    """Opens what pipelines declare with `resources=`, once each, and closes it in reverse order."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._opened: dict[str, dict[str, Any]] = {}
        self._lock = asyncio.Lock()

    async def of(self, pipeline: Pipeline) -> Mapping[str, Any]:
        """The pipeline's resources by name. What an opener raises comes out; the others stay open for the next run."""
        async with self._lock:
            opened = self._opened.setdefault(pipeline.name, {})
            for name, opener in pipeline.resources.items():
                if name not in opened:
                    opened[name] = await self._open(opener)
            return opened

    async def close(self) -> None:
        """Close everything."""
        await self._stack.aclose()
        self._opened.clear()

    async def _open(self, opener: Callable[[], Any]) -> Any:
        made = opener()
        if inspect.isawaitable(made):
            made = await made
        if isinstance(made, _LOCKS):
            return made
        if hasattr(made, "__aenter__") and hasattr(made, "__aexit__"):
            return await self._stack.enter_async_context(made)
        if hasattr(made, "__enter__") and hasattr(made, "__exit__"):
            return self._stack.enter_context(made)
        return made
