"""The long version: `./dev chaos [--seconds N] [--seed N]`. Exit code 1 if any promise was broken.

On a server of its own: workers are killed, frozen and told to go, connections ended, the server crashed or closed to
everybody, rows inserted, changed and deleted by their owner while they are claimed, rows fail or kill their process.
The seed decides what is done to whom; when things happen is up to the machine, so a seed makes a failure likely to
come again, not certain. What a worker does after it was first frozen is not looked at for overlaps, only for its effects.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg

from etl.postgres.embedded import EmbeddedServer
from etl.postgres.embedded.home import Home
from tests.battery import PENDING, lay_out, violations
from tests.chaos import MODULE, Fleet, pending, queue_all
from tests.kit import Project

LEASE = 2.0
ROWS = 20_000  # at the start, and added whenever few are left
FEW = 5_000
REST = 180.0  # seconds in which everything has to come to rest when the faults are over
SHOWN = 20
# How a worker may end that was not killed: told to go; by a row that kills; or, started while the server was away, with
# the exit code for a server that cannot be reached.
EXPECTED = (0, -signal.SIGTERM, -signal.SIGKILL, 2)
AWAY = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError,
        asyncpg.ObjectNotInPrerequisiteStateError)  # fmt: skip


class Owner:
    """The owner of the table: somebody with a connection that has to be made again now and then."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Any = None

    async def fetchval(self, sql: str, *parameters: Any) -> Any:
        """One value, as soon as the server can be had."""
        return await self.patiently(lambda db: db.fetchval(sql, *parameters))

    async def fetch(self, sql: str, *parameters: Any) -> Any:
        """Rows, as soon as the server can be had."""
        return await self.patiently(lambda db: db.fetch(sql, *parameters))

    async def execute(self, sql: str, *parameters: Any) -> Any:
        """Do something; twice, if the first time was cut off."""
        return await self.patiently(lambda db: db.execute(sql, *parameters))

    async def patiently(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Work on the connection, on a new one after a fault."""
        while True:
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncpg.connect(self._dsn, timeout=5)
                return await work(self._connection)
            except AWAY:
                await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            await self._connection.close()


class Chaos:
    """One fight, from the first fault to the last."""

    def __init__(self, fleet: Fleet, owner: Owner, server: EmbeddedServer, dice: random.Random) -> None:
        self.fleet, self.owner, self.server, self.dice = fleet, owner, server, dice
        self.odd = iter(dice.sample(range(ROWS), ROWS))
        self.done = Counter[str]()
        self._frozen: set[asyncio.Task[None]] = set()
        self.faults: dict[Callable[[], Awaitable[None]], int] = {  # with how likely they are
            self.kill: 30,
            self.terminate: 20,
            self.freeze: 12,
            self.drain: 8,
            self.insert: 20,
            self.change: 20,
            self.delete: 10,
            self.poison: 4,
            self.crash_server: 2,
            self.close_server: 2,
        }

    async def fight(self, seconds: float) -> None:
        """Faults at random."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.fleet.start()
            await self.owner.patiently(queue_all)
            if await self.owner.patiently(pending) < FEW:
                await self.owner.execute(
                    "INSERT INTO src (id) SELECT 2 * (g + (SELECT max(id) FROM src)) FROM generate_series(1, $1) g",
                    ROWS,
                )
            fault = self.dice.choices(list(self.faults), list(self.faults.values()))[0]
            await fault()
            self.done[fault.__name__] += 1
            await asyncio.sleep(self.dice.uniform(0.05, 0.6))

    async def peace(self) -> bool:
        """No faults any more; whether everything comes to rest. What was set aside is put right, and so comes back."""
        await asyncio.gather(*self._frozen)
        end = time.monotonic() + REST
        while time.monotonic() < end:
            self.fleet.start()
            await self.owner.execute(
                f"UPDATE src SET fate = 'write' WHERE status = 'pending' AND (fate <> 'write' OR NOT ({PENDING}))"
            )
            if await self.owner.patiently(pending):
                await self.owner.patiently(queue_all)
            elif not await self.owner.fetchval("SELECT count(*) FROM etl.run WHERE ended_at IS NULL"):
                return True
            await asyncio.sleep(0.2)
        return False

    async def kill(self) -> None:
        self.fleet.kill(self.fleet.any())

    async def terminate(self) -> None:
        await self.owner.patiently(self.fleet.terminate_one)

    async def freeze(self) -> None:
        """For less than a lease, or for more."""
        self._frozen.add(asyncio.create_task(self.fleet.freeze(self.fleet.any(), self.dice.uniform(0.1, 2.5) * LEASE)))

    async def drain(self) -> None:
        """Once or twice."""
        worker = self.fleet.any()
        worker.terminate()
        if self.dice.random() < 0.5:
            await asyncio.sleep(0.1)
            worker.terminate()

    async def insert(self) -> None:
        """Rows between others, in ranges that are held, free or done."""
        await self.owner.execute(
            "INSERT INTO src (id) SELECT unnest($1::bigint[]) ON CONFLICT DO NOTHING",
            [2 * next(self.odd, 0) + 1 for _ in range(20)],
        )

    async def change(self) -> None:
        """Rows that somebody may have in hand: some are now to be filtered out, some fail."""
        fate = self.dice.choice(["write", "write", "filter", "fail"])
        await self.owner.execute(
            "UPDATE src SET fate = $1 WHERE status = 'pending' AND fate <> 'kill' AND id % 997 = $2",
            fate,
            self._residue(),
        )

    async def delete(self) -> None:
        """Rows that somebody may have in hand; some come back."""
        residue = self._residue()
        await self.owner.execute("DELETE FROM src WHERE status = 'pending' AND id % 1997 = $1", residue)
        if self.dice.random() < 0.5:
            await self.owner.execute("INSERT INTO src (id) VALUES ($1) ON CONFLICT DO NOTHING", residue)

    async def poison(self) -> None:
        """A row that kills."""
        await self.owner.execute(
            "UPDATE src SET fate = 'kill' WHERE id = (SELECT min(id) FROM src WHERE status = 'pending' AND id % 1009 = $1)",
            self._residue(),
        )

    async def crash_server(self) -> None:
        """Without warning; it is back after a while."""
        await asyncio.to_thread(Home.find(self.server.root).server.stop, signal.SIGQUIT)
        await asyncio.sleep(self.dice.uniform(0, 1.2) * LEASE)
        await asyncio.to_thread(self.server.start)

    async def close_server(self) -> None:
        """Nobody gets in for a while, and who is in gets out."""
        elsewhere = await asyncpg.connect(self.server.dsn())
        await elsewhere.execute("ALTER DATABASE chaos ALLOW_CONNECTIONS false")
        await elsewhere.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'chaos'")
        await asyncio.sleep(self.dice.uniform(0, 1.5) * LEASE)
        await elsewhere.execute("ALTER DATABASE chaos ALLOW_CONNECTIONS true")
        await elsewhere.close()

    def _residue(self) -> int:
        return self.dice.randrange(997)


async def chaos(folder: Path, server: EmbeddedServer, seconds: float, seed: int) -> list[str]:
    """One fight and what came of it; broken promises, a line each."""
    dice = random.Random(seed)
    elsewhere = await asyncpg.connect(server.dsn())
    await elsewhere.execute("CREATE DATABASE chaos")
    await elsewhere.close()
    project = Project(folder, server.dsn("chaos"), {"lease": f"{LEASE:g}s", "max_runs": "2", "grace": "5s"})
    project.write_job(MODULE)
    assert project.etl("migrate").code == 0
    owner = Owner(project.dsn)
    await owner.patiently(lambda db: lay_out(db, 0))
    await owner.execute("INSERT INTO src (id) SELECT 2 * g FROM generate_series(1, $1) g", ROWS)
    with Fleet(project, dice) as fleet:
        fight = Chaos(fleet, owner, server, dice)
        await fight.fight(seconds)
        rested = await fight.peace()
        codes = await fleet.leave()
    wrong = [] if rested else [f"not at rest {REST:.0f} s after the last fault"]
    wrong += [f"a worker told to go ended with {code}" for code in codes if code not in (0, -signal.SIGTERM)]
    wrong += [f"a worker that nobody had killed ended with {code}" for code in fleet.ended if code not in EXPECTED]
    if not await owner.fetchval("SELECT count(*) FROM dst"):
        wrong.append("nothing was written, so nothing was tested")
    wrong += [*fleet.overlaps(), *await owner.patiently(violations)]
    await summarise(fight, owner)
    await owner.close()
    return wrong


async def summarise(fight: Chaos, owner: Owner) -> None:
    """What was done, what it came to, and how much of it was looked at."""
    hands = fight.fleet.hands()
    print("faults:  " + ", ".join(f"{count} {name}" for name, count in fight.done.most_common()))
    print("workers: " + ", ".join(f"{count} ended with {code}" for code, count in Counter(fight.fleet.ended).items()))
    print(f"calls:   {len(hands):,} with {sum(len(hand.ids) for hand in hands):,} rows in hand, looked at for overlaps")
    for what, sql in {
        "rows": "SELECT status, count(*) FROM src GROUP BY 1",
        "effects": "SELECT 'written', count(*) FROM dst",
        "runs": "SELECT state, count(*) FROM etl.run GROUP BY 1",
        "batches": "SELECT state, count(*) FROM etl.batch GROUP BY 1",
        "issues": "SELECT error_type || ' ' || state, count(*) FROM etl.row_issue GROUP BY 1",
    }.items():
        rows = await owner.fetch(f"{sql} ORDER BY 2 DESC")
        print(f"{what + ':':9}" + ", ".join(f"{count:,} {name}" for name, count in rows))


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev chaos", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (120)")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of the dice (random)"
    )
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.seconds:g} s", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    folder.chmod(0o711)
    server = EmbeddedServer(folder / "pg", durable=False)
    try:
        server.start()
        wrong = asyncio.run(chaos(folder, server, arguments.seconds, arguments.seed))
    finally:
        server.stop()
    for line in wrong[:SHOWN]:
        print(f"BROKEN: {line}")
    if wrong:
        print(f"{len(wrong):,} promises broken with seed {arguments.seed}; logs in {folder}")
        return 1
    shutil.rmtree(folder)
    print("all promises kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
