"""Workers over one table, while whatever can be killed is killed. The dice are seeded; the timing is the machine's.

Four jobs share the table, so that their claims lie beside each other. Each call of their processor is logged to a file
outside of any transaction, which tells afterwards who had which rows in hand, and when.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Thread
from typing import Any, Self

from tests.battery import JOB_HEAD, PENDING, job_on
from tests.kit import Project

JOBS = ("one", "two", "three", "four")
WORKERS = 4

# A row takes the better part of a millisecond. `begin` without `end`: the process died, or its log did not get that far.
MODULE = (
    JOB_HEAD
    + """
def note(what, context, ids):
    line = f"{what} {time.monotonic()} {context.batch_token} {','.join(map(str, ids))}\\n"
    file = os.open(f"log-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)

@processor(batch=True)
async def work(context, rows):
    ids = [row["id"] for row in rows]
    note("begin", context, ids)
    try:
        await asyncio.sleep(0.0008 * len(rows))
        if any(row["fate"] == "kill" for row in rows):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(row["fate"] == "fail" for row in rows):
            raise ValueError("no good")
        return [None if row["fate"] == "filter" else {"id": row["id"], "token": context.batch_token} for row in rows]
    finally:
        note("end", context, ids)

"""
    + "".join(job_on(job, batch_size=250, concurrency=2) for job in JOBS)
)


@dataclass
class Hand:
    """A call of the processor: a process had these rows in hand from one moment to another."""

    pid: int
    token: str
    ids: list[int]
    begin: float
    end: float


@dataclass
class Fleet:
    """Some workers of one project, what is done to them, and what they did."""

    project: Project
    dice: random.Random
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    died: dict[int, float] = field(default_factory=dict)  # pid -> when it died
    stopped: dict[int, float] = field(default_factory=dict)  # pid -> when it was first stopped
    ended: list[int] = field(default_factory=list)  # exit codes of workers that ended otherwise than by `kill`

    def start(self) -> None:
        """Bring the number of workers up to what it should be."""
        self.ended += [code for worker in self.workers if (code := worker.poll()) is not None]
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < WORKERS:
            with (self.project.folder / "workers.log").open("ab") as log:
                worker = subprocess.Popen(
                    [sys.executable, "-m", "etl", "worker"],
                    cwd=self.project.folder,
                    env=self.project.environment,
                    stdout=log,
                    stderr=log,
                )
            self.workers.append(worker)
            Thread(target=self._watch, args=(worker,), daemon=True).start()

    def any(self) -> subprocess.Popen[bytes]:
        """One of the workers."""
        return self.dice.choice(self.workers)

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """End a worker without a word."""
        worker.kill()
        worker.wait()
        self.workers.remove(worker)

    async def terminate_one(self, db: Any) -> None:
        """End the session of any one connection of a worker."""
        await db.execute("""
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'etl' ORDER BY random() LIMIT 1""")

    async def freeze(self, worker: subprocess.Popen[bytes], seconds: float) -> None:
        """Stop a worker for a while."""
        self.stopped.setdefault(worker.pid, time.monotonic())
        worker.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        worker.send_signal(signal.SIGCONT)

    async def leave(self) -> list[int]:
        """Ask all workers to go; their exit codes."""
        for worker in self.workers:
            worker.terminate()
        return [await asyncio.to_thread(worker.wait, 60) for worker in self.workers]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave no process behind."""
        for worker in self.workers:
            worker.kill()
            worker.wait()

    def _watch(self, worker: subprocess.Popen[bytes]) -> None:
        worker.wait()
        self.died[worker.pid] = time.monotonic()

    def hands(self) -> list[Hand]:
        """What the logs tell: each call until it returned, or its process died or was stopped."""
        found: list[Hand] = []
        for log in self.project.folder.glob("log-*"):
            pid = int(log.name.removeprefix("log-"))
            begun: dict[tuple[str, str], Hand] = {}
            for line in log.read_text().splitlines():
                what, moment, token, ids = line.split(" ")
                if what == "begin":
                    end = self.died.get(pid, float("inf"))
                    hand = Hand(pid, token, [int(each) for each in ids.split(",")], float(moment), end)
                    begun[token, ids] = hand
                    found.append(hand)
                else:
                    begun[token, ids].end = float(moment)
        for hand in found:
            # A process that was stopped may have become a zombie, which finds that out only after it goes on.
            hand.end = min(hand.end, self.stopped.get(hand.pid, hand.end))
        return [hand for hand in found if hand.begin < hand.end]

    def overlaps(self) -> list[str]:
        """Rows that two live processes, or two batches of one, had in hand at the same time."""
        by_row: dict[int, list[Hand]] = defaultdict(list)
        for hand in self.hands():
            for row in hand.ids:
                by_row[row].append(hand)
        wrong: list[str] = []
        for row, hands in by_row.items():
            hands.sort(key=lambda hand: hand.begin)
            for former, latter in pairwise(hands):
                if latter.begin < former.end:
                    wrong.append(f"row {row} in two hands: {former.pid} {former.token}, {latter.pid} {latter.token}")
        return wrong


async def queue_all(db: Any) -> None:
    """Ask for a run of each job, as their triggers would."""
    await db.execute(
        """
        INSERT INTO etl.run (run_id, job, trigger, overlap_key, state)
        SELECT gen_random_uuid(), job, 'manual', job, 'queued' FROM unnest($1::text[]) AS job
            ON CONFLICT DO NOTHING""",
        list(JOBS),
    )


async def pending(db: Any) -> int:
    """Rows that wait for work and are not set aside."""
    return int(await db.fetchval(f"SELECT count(*) FROM src WHERE {PENDING}"))
