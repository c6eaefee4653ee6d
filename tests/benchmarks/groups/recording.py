"""What recording costs: a run as it is beside one without spans. Stages are counted in both; that cannot be left out."""

from __future__ import annotations

from tests.benchmarks import framework
from tests.benchmarks.bench import ROWS, Bench, Contender
from tests.benchmarks.figures import Figure
from tests.benchmarks.rows import Rows
from tests.kit import NoTracing

LEAST, AS_IS = "least recording", "as it is"


async def measure(bench: Bench) -> list[Figure]:
    """With spans through the SDK, without an exporter, and with none."""
    rows = Rows(bench.connection, bench.scaled(ROWS))

    async def least() -> None:
        await framework.run(bench.dsn, framework.move(), tracing=NoTracing())

    async def as_is() -> None:
        await framework.run(bench.dsn, framework.move())

    return await bench.race(
        "recording",
        [
            Contender(LEAST, least, rows.lay, rows.verify, rows.count),
            Contender(AS_IS, as_is, rows.lay, rows.verify, rows.count, baseline=LEAST),
        ],
    )
