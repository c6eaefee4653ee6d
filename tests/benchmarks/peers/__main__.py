"""One peer in a process of its own: says `ready` with its jobs enqueued, begins at a line of input, says `done`."""

from __future__ import annotations

import asyncio
import logging
import sys
from importlib import import_module

from tests.benchmarks.peers.sink import Sink


async def main(name: str, dsn: str) -> None:
    """Enqueue, wait, work."""
    logging.disable(logging.WARNING)
    peer = import_module(f"tests.benchmarks.peers.{name}")
    async with Sink.opened(dsn) as sink:
        work = await peer.prepare(dsn, sink)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await work()
        print("done", flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # whoever measures reads our account first


if __name__ == "__main__":
    if sys.argv[1] == "pgqueuer_peer":  # as its documentation recommends
        import uvloop  # type: ignore[import-not-found]

        uvloop.run(main(*sys.argv[1:]))
    else:
        asyncio.run(main(*sys.argv[1:]))
