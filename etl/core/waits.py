"""What the database of a run waits for, in words for people. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

# Of a processor, used by this program: with less than that it is not Python that takes the time.
_BUSY = 0.5

_LOCKS = {
    "relation": "a table lock",
    "extend": "a table lock",
    "tuple": "a row lock",
    "transactionid": "a row lock",
    "virtualxid": "a lock",
    "advisory": "an advisory lock",
}


@dataclass(frozen=True, slots=True)
class SessionWait:
    """A session of the server as pg_stat_activity has it. `blocker_*`: who holds the lock it waits for."""

    pid: int
    state: str | None
    kind: str | None
    event: str | None
    blocker_pid: int | None = None
    blocker_name: str | None = None
    blocker_state: str | None = None


def describe_waits(sessions: Sequence[SessionWait], *, own: Collection[int] = (), cpu: float | None = None) -> str:
    """One clause about a run's sessions, of several about the one that waits for the worst.

    `own`  process ids of all of them.   `cpu`  processors that this program uses meanwhile (1.0: one whole).
    """
    told = [_told(each, own) for each in sessions if each.state not in (None, "idle")]
    at_work = [each for each in told if each[0]]
    if at_work:
        return max(at_work)[1]
    if cpu is not None and cpu < _BUSY:
        return "nothing to do, the job itself waits"
    return "nothing to do, Python is busy"


def _told(session: SessionWait, own: Collection[int]) -> tuple[int, str]:
    """How much it matters (0: it waits for this program), and the words."""
    kind, event = session.kind or "", session.event or ""
    if kind == "Lock":
        return 9, f"waiting for {_LOCKS.get(event, 'a lock')}{_holder(session, own)}"
    if event.startswith("WAL"):
        return 7, "writing WAL"
    if event == "SyncRep":
        return 8, "waiting for a standby to confirm"
    if kind == "Client":
        return (3, "sending rows to this program") if event == "ClientWrite" else (0, "")
    if kind == "IO":
        return 6, "reading from disk" if "Read" in event else "writing to disk"
    if kind in ("LWLock", "BufferPin", "IPC"):
        return 5, f"waiting for other sessions ({event})"
    if kind:
        return 4, f"waiting ({event})"
    return (2, "computing") if session.state == "active" else (0, "")


def _holder(session: SessionWait, own: Collection[int]) -> str:
    if session.blocker_pid is None:
        return ""
    if session.blocker_pid == 0:
        return " held by a prepared transaction"
    if session.blocker_pid in own:
        return " held by this run itself"
    name = f" (application {session.blocker_name})" if session.blocker_name else ""
    idle = ", which is idle in its transaction" if (session.blocker_state or "").startswith("idle in") else ""
    return f" held by pid {session.blocker_pid}{name}{idle}"
