"""`./dev bench`: the framework beside what people use instead, in one run, as ratios with spread.

    ./dev bench                    everything; over half an hour
    ./dev bench core memory        some of the groups
    ./dev bench peers              beside pgqueuer, chancy, procrastinate and dbos
    ./dev bench quick              under a minute: fails where a ratio has fallen far
    ./dev bench flame FILE.svg     where the time of a run goes

Every round does the same work with each contender once, in random order; a ratio is to the same round's measurement.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from tests.benchmarks import flame
from tests.benchmarks.bench import ROWS, Bench, tell
from tests.benchmarks.figures import Figure, Report, missed
from tests.benchmarks.groups import (
    auto,
    claims,
    core,
    failures,
    memory,
    peers,
    quick,
    recording,
    scale,
    small,
    snapshot,
)
from tests.benchmarks.machine import Machine
from tests.benchmarks.server import Served, serving
from tests.benchmarks.table import render

GROUPS: dict[str, Callable[[Bench], Awaitable[list[Figure]]]] = {
    "core": core.measure,
    "snapshot": snapshot.measure,
    "claims": claims.measure,
    "memory": memory.measure,
    "small": small.measure,
    "failures": failures.measure,
    "scale": scale.measure,
    "auto": auto.measure,
    "peers": peers.measure,
    "recording": recording.measure,
}
QUICK, FLAME = "quick", "flame"


def main() -> int:
    """Parse, measure on a server of its own, print; 1 if `quick` found a ratio out of its bounds twice."""
    arguments = _parsed()
    if arguments.names[:1] == [FLAME]:
        with serving() as served:
            return flame.record(served, arguments.rows, Path(arguments.names[1]))
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    with serving() as served:
        report = asyncio.run(_measured(served, arguments, seed))
    print(render(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    return _verdict(report) if arguments.names == [QUICK] else 0


def _verdict(report: Report) -> int:
    """The exit code of `quick`, with the reason on standard error."""
    low = missed(report.figures)
    for each in low:
        tell(f"bench quick: out of bounds twice in a row: {each}")
    return 1 if low else 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(GROUPS)}; all of them without")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the core group; the others scale with it")
    parser.add_argument("--rounds", type=int, default=5, help="some groups take three at most")
    parser.add_argument("--seed", type=int, help="of the order within the rounds; default: a new one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    arguments = parser.parse_args()
    alone = arguments.names[:1]
    if (alone == [FLAME] and len(arguments.names) != 2) or (alone == [QUICK] and len(arguments.names) != 1):
        parser.error("it is `quick` alone, or `flame FILE`")
    if alone not in ([FLAME], [QUICK]) and (unknown := set(arguments.names) - set(GROUPS)):
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    if arguments.rows < 1 or arguments.rounds < 1:
        parser.error("--rows and --rounds are 1 or more")
    return arguments


async def _measured(served: Served, arguments: argparse.Namespace, seed: int) -> Report:
    facts = {
        "started": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, seed {seed}, {arguments.rounds} rounds",
        "rows": f"{arguments.rows:,} (the full amount is {ROWS:,})",
        "machine": f"{os.cpu_count()} processors, {platform.platform(terse=True)}, Python {platform.python_version()}",
        "server": ", ".join(f"{name} {value}" for name, value in served.settings.items()),
    }
    report = Report(facts)
    connection = await asyncpg.connect(served.dsn)
    try:
        bench = Bench(
            dsn=served.dsn,
            connection=connection,
            machine=Machine(served.process),
            log=served.log,
            dice=random.Random(seed),
            rounds=arguments.rounds,
            scale=arguments.rows / ROWS,
            notes=report.notes,
        )
        groups = {QUICK: quick.measure} if arguments.names == [QUICK] else GROUPS
        for name in arguments.names or groups:
            tell(f"{name} ...")
            report.figures += await groups[name](bench)
    finally:
        await connection.close()
    return report


if __name__ == "__main__":
    sys.exit(main())
