"""Results to a sink outside the database: before the batch is recorded, at least once, poison rows found by halving."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from etl.core.batch import Failure, Processed
from etl.core.context import BatchContext, Context
from etl.core.processor import call_in_thread, is_async
from etl.core.sink import Sink
from etl.core.stages import StageCounts, histogram
from etl.errors import ConfigurationError

# Nobody's fault: the whole batch is worth trying again.
TRANSIENT = (ConnectionError, TimeoutError)


class Delivery:
    """Writes batches to one sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._async = is_async(sink.write)

    async def deliver(self, processed: Processed, context: BatchContext) -> None:
        """Write the results; rows the sink refuses become failures in `processed`, with their results taken out.

        Raises one of `TRANSIENT` when the sink cannot be reached, and `ConfigurationError` when it cannot take any row;
        then nothing is known of the batch.
        """
        counts = StageCounts(self._sink.name, rows_in=len(processed.values))
        seconds: list[float] = []
        ordinals = list(dict.fromkeys(processed.positions))
        by_ordinal: dict[int, list[Any]] = {}
        for ordinal, value in processed.outputs:
            by_ordinal.setdefault(ordinal, []).append(value)
        refused = await self._write(ordinals, by_ordinal, context, seconds)
        processed.failures.update(refused)
        if refused:
            processed.outputs = [output for output in processed.outputs if output[0] not in refused]
        counts.rows_out = len(processed.values)
        counts.quarantined = len(refused)
        counts.busy_s = sum(seconds)
        counts.calls = histogram(seconds)
        processed.stages = [*processed.stages, counts]

    async def _write(
        self, ordinals: Sequence[int], results: dict[int, list[Any]], context: BatchContext, seconds: list[float]
    ) -> dict[int, Failure]:
        """Write these rows' results; position -> failure of those that are refused."""
        if not ordinals:
            return {}
        per_result = [ordinal for ordinal in ordinals for _ in results[ordinal]]
        values = [value for ordinal in ordinals for value in results[ordinal]]
        started = time.perf_counter()
        try:
            await self._call(Context(context, per_result), values)
            return {}
        except (*TRANSIENT, ConfigurationError):
            raise
        except Exception as error:
            if len(ordinals) == 1:
                return {ordinals[0]: Failure.of(self._sink.name, error)}
        finally:
            seconds.append(time.perf_counter() - started)
        middle = len(ordinals) // 2
        refused = await self._write(ordinals[:middle], results, context, seconds)
        return {**refused, **await self._write(ordinals[middle:], results, context, seconds)}

    async def _call(self, context: Context, values: list[Any]) -> None:
        if self._async:
            await self._sink.write(context, values)
        else:
            await asyncio.to_thread(call_in_thread, self._sink.write, context, values)
