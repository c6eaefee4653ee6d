"""What failures cost beside a run without: a tenth of the rows fails once; one in a thousand is poison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from etl import Context, Retry, processor
from etl.core.processor import Processor
from tests.benchmarks import framework
from tests.benchmarks.bench import ROWS, Bench, Contender
from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.rows import Rows, transform

NONE, TRANSIENT = "no failures", "10 % fail once"
BY_PROCESSOR, BY_NUMBER, BY_JSON = "0.1 % raise", "0.1 % refused for a number", "0.1 % refused for JSON"
# The sink's constraints are there in all of them.
_CHECKS = ("id > 0", "NOT payload ? 'poison'")


async def measure(bench: Bench) -> list[Figure]:
    """The same run with failures of each kind."""
    cases: list[tuple[str, Callable[[], Processor], int, tuple[Target, ...]]] = [
        (NONE, lambda: framework.by_row, 0, ()),
        (TRANSIENT, _failing_once, 0, (Target(at_most=1.3, against=NONE),)),
        (BY_PROCESSOR, lambda: _raising, 1000, (Target(at_most=1.1, against=NONE),)),
        (BY_NUMBER, lambda: _negative, 1000, (Target(at_most=1.1, against=NONE),)),
        (BY_JSON, lambda: _poisoned, 1000, (Target(at_most=1.1, against=NONE),)),
    ]
    return await bench.race("failures", [_contender(bench, *case) for case in cases])


def _contender(
    bench: Bench, name: str, work: Callable[[], Processor], one_in: int, targets: tuple[Target, ...]
) -> Contender:
    laid = Rows(bench.connection, bench.scaled(ROWS), checks=_CHECKS)
    poison = laid.count // one_in if one_in else 0

    async def prepare() -> None:
        await bench.connection.execute("DELETE FROM etl.row_issue")
        await laid.lay()

    async def move() -> None:
        ended = await framework.run(bench.dsn, framework.move(work()))
        assert poison == ended.counts.quarantined

    async def verify() -> None:
        await laid.verify(without=poison)

    return Contender(name, move, prepare, verify, laid.count, "s", None if name == NONE else NONE, targets)


def _failing_once() -> Processor:
    """Every tenth row fails at its first call, in each run anew."""
    failed: set[int] = set()

    @processor(inline=True, retry=Retry(attempts=3, on=ConnectionError, delay=0.001))
    def work(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if not row["id"] % 10 and row["id"] not in failed:
            failed.add(row["id"])
            raise ConnectionError("this once")
        return {"id": row["id"], "payload": transform(row["payload"])}

    return work


@processor(inline=True)
def _raising(context: Context, row: dict[str, Any]) -> dict[str, Any]:
    if not row["id"] % 1000:
        raise ValueError("poison")
    return {"id": row["id"], "payload": transform(row["payload"])}


@processor(inline=True)
def _negative(context: Context, row: dict[str, Any]) -> dict[str, Any]:
    number = row["id"]
    return {"id": number if number % 1000 else -number, "payload": transform(row["payload"])}


@processor(inline=True)
def _poisoned(context: Context, row: dict[str, Any]) -> dict[str, Any]:
    result = transform(row["payload"])
    return {"id": row["id"], "payload": result if row["id"] % 1000 else {**result, "poison": True}}
