"""Scale-out: four worker processes on one job beside one worker; how many claims one source can take; shards."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from etl.app import connection_settings
from etl.config import Settings
from etl.postgres.database import Database
from tests.benchmarks import framework
from tests.benchmarks.bench import ROWS, Bench, Contender
from tests.benchmarks.claiming import claim, claims_of, finish
from tests.benchmarks.figures import Figure, Sample, Target
from tests.benchmarks.rows import Rows
from tests.benchmarks.workers import working
from tests.kit import eventually

WORKERS, CLAIMANTS = 4, 4
# Rows moved with batches of so many.
_CEILING = {1: 2_000, 10: 20_000, 100: 100_000, 1000: 200_000}
_JOBS = """
    from etl import Pipeline, PostgresSink, PubSubTrigger
    from tests.benchmarks import framework

    moved = Pipeline(
        "moved",
        framework.source().on(PubSubTrigger("bench.scale", overlap="parallel(4)")),
        framework.by_row,
        PostgresSink("bench_sink"),
    )
"""


async def measure(bench: Bench) -> list[Figure]:
    """Processes, claims, shards."""
    return [*await _processes(bench), *await _ceiling(bench), *await _shards(bench)]


async def _processes(bench: Bench) -> list[Figure]:
    """The same rows by one worker process and by four; they are up and listen before the first row is there."""
    names = {1: "1 worker", WORKERS: f"{WORKERS} workers"}
    rows = Rows(bench.connection, bench.scaled(ROWS))
    samples: dict[int, list[Sample]] = {count: [] for count in names}
    for _ in range(bench.rounds):
        for count in bench.dice.sample([*names], len(names)):
            await rows.lay()
            async with working(bench, _JOBS, count, max_runs="1"):
                await bench.quiet()
                spent = await bench.measure(lambda count=count: _publish(bench, count))  # type: ignore[misc]
            await rows.verify()
            samples[count].append(Sample(rows.count / spent.seconds, spent.cpu / rows.count * 1e6, spent.others))
    one, many = names.values()
    target = Target(at_most=1.1, against=one, on_cpu=True)
    return [
        Figure("scale", one, "rows/s", tuple(samples[1])),
        Figure("scale", many, "rows/s", tuple(samples[WORKERS]), one, (Target(against=one), target)),
    ]


async def _publish(bench: Bench, runs: int) -> None:
    """Ask for so many runs at once, and wait until they have ended."""
    before = int(await bench.connection.fetchval("SELECT count(*) FROM etl.run WHERE job = 'moved'"))
    for number in range(runs):
        await bench.connection.execute("SELECT etl.publish('bench.scale', jsonb_build_object('lane', $1::int))", number)
    ended = "SELECT count(*) FROM etl.run WHERE job = 'moved' AND ended_at IS NOT NULL"

    async def over() -> bool:
        return int(await bench.connection.fetchval(ended)) >= before + runs

    await eventually(over, within=600.0)


async def _ceiling(bench: Bench) -> list[Figure]:
    """Claim and finish, without processors or sink, by several claimants in this process."""
    database = Database(connection_settings(Settings(), bench.dsn))
    await database.open()
    try:
        contenders = [_claimed(bench, database, size, bench.scaled(rows)) for size, rows in _CEILING.items()]
        figures = await bench.race("ceiling", contenders, most_rounds=3)
    finally:
        await database.close()
    return [each for figure, size in zip(figures, _CEILING, strict=True) for each in (figure, _as_claims(figure, size))]


def _claimed(bench: Bench, database: Database, size: int, count: int, **settings: int) -> Contender:
    rows = Rows(bench.connection, count)

    async def claimant(number: int) -> None:
        source = framework.source(batch_size=size, **settings)
        async with claims_of(database, source, f"claimant-{number}", size) as claims:
            while batch := await claim(claims, size):
                await finish(claims, batch)

    async def work() -> None:
        async with asyncio.TaskGroup() as claimants:
            for number in range(CLAIMANTS):
                claimants.create_task(claimant(number))

    async def verify() -> None:
        done = "SELECT count(*) FROM bench_source WHERE status = 'done'"
        assert count == await bench.connection.fetchval(done)

    return Contender(f"{CLAIMANTS} claimants, batches of {size}", work, rows.lay, verify, count)


def _as_claims(figure: Figure, size: int) -> Figure:
    """The same samples, counted in claims."""
    samples = tuple(replace(sample, value=sample.value / size, cpu=None) for sample in figure.samples)
    return replace(figure, name=figure.name, unit="claims/s", samples=samples)


async def _shards(bench: Bench) -> list[Figure]:
    """Small batches by several claimants, of one source with one turn and with a turn for each shard."""
    size, count = 10, bench.scaled(_CEILING[10])
    database = Database(connection_settings(Settings(), bench.dsn))
    await database.open()
    try:
        one = replace(_claimed(bench, database, size, count), name="one turn for all")
        many = replace(_claimed(bench, database, size, count, shards=WORKERS), name=f"{WORKERS} shards")
        return await bench.race("shards", [one, replace(many, baseline=one.name)], most_rounds=3)
    finally:
        await database.close()
