"""How far a cursor has come: stretches of keys that are done with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from etl.postgres.database import Connection
from etl.postgres.statements import statement

Key = list[str]
# After this key (None: from the beginning), up to and including that one.
Stretch = tuple[Key | None, Key]


async def cover(connection: Connection, source: str, after: Key | None, upto: Key) -> None:
    """Note that a stretch is done with. Once only: whoever calls this holds the stretch, by its batch or its turn."""
    if await connection.fetchval(statement("lock_cursor"), source) is None:
        await connection.execute(statement("register_cursor"), source)
        await connection.fetchval(statement("lock_cursor"), source)
    await connection.execute(statement("cover"), source, after, upto)


def free_stretches(
    after: Key | None, last: Key, taken: Sequence[tuple[Key | None, Key, bool]]
) -> Iterator[tuple[Key | None, Key]]:
    """What is left of the keys after `after` up to `last`.

    `taken` are disjoint stretches in key order that end after `after` and begin at it or later; the third entry says
    whether one reaches `last`. Keys are only compared for equality: their order is the server's business.
    """
    for begin, end, reaches_last in taken:
        if begin is not None and begin != after:
            yield after, begin
        after = end
        if reaches_last:
            return
    if after != last:
        yield after, last
