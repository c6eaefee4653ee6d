"""A proxy in front of Postgres that breaks the conversation at a chosen statement.

It reads enough of the wire protocol to know a client's *steps*: what the client sends and then waits for, that is
each simple query, each extended batch ended by Sync or Flush, and the end of a COPY. A fault is aimed at one step:

    async with FaultProxy(host, port) as proxy:
        plan = proxy.cut(Cut.AFTER, at=r"^COMMIT")
        ...                                     # the scenario, connected to proxy.dsn(user, database)
        await plan.settled.wait()               # the server has answered and dropped the connection
        assert plan.reply == "COMMIT"           # what the client never heard

To break a scenario everywhere, run it once unharmed, take `len(proxy.steps)`, then run it once for each number and
each `Cut`.

Nothing here sleeps: a test waits on `plan.fired`, `plan.settled` or `hold.reached()`, all of which raise TimeoutError
with what they waited for. TLS is refused, so that the statements can be read. A client that the proxy cannot connect
to the server is hung up on.
"""

import asyncio
import re
import shutil
import socket
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from typing import Literal, NamedTuple, Self, TypedDict, Unpack
from urllib.parse import quote

TLS_REQUESTS = (80877103, 80877104)  # SSLRequest, GSSENCRequest
LOOPBACK = "127.0.0.1"
PATIENCE = 30.0  # seconds until a wait is a failure of the test
ENDS_OF_REPLY = b"12Tn3CsI"  # the last message of the answer to Parse, Bind, Describe, Close and Execute

Kind = Literal["query", "execute", "copy", "prepare", "close", "sync"]


class Cut(Enum):
    """What happens to the connection at the chosen step."""

    BEFORE = "the server never sees the step; both sides are closed"
    DURING = "the step is sent on and the client cut at once; the server finishes the step, then loses the client"
    AFTER = "the server carries the step out; its reply is thrown away and both sides are closed"
    LATE = "the client is cut at once; the step reaches the server only after `let_late_through()`"
    STALL = "this connection goes silent, both ways and without an end, until `plan.release()`"
    PARTITION = "as STALL, but for every connection, old and new, cancel requests included"


class Step(NamedTuple):
    """One thing a client sent and waited for. `sql` is empty where no statement is visible."""

    connection: int
    sql: str
    kind: Kind


class Aim(TypedDict, total=False):
    """Narrows down which step is meant."""

    nth: int  # of the steps that match a pattern; 1 by default
    every: bool  # that one and each one after it
    kind: Kind
    connection: int  # its number in `proxy.steps`, from 1


class Signal:
    """Counts how often something happened. It may be set and awaited in different threads and event loops."""

    def __init__(self, what: str) -> None:
        self.count = 0
        self._what = what
        self._lock = threading.Lock()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    def __bool__(self) -> bool:
        return self.count > 0

    def set(self) -> None:
        with self._lock:
            self.count += 1
            due = [future for times, future in self._waiters if times == self.count]
        for future in due:
            with suppress(RuntimeError):  # the waiter's loop is closed
                future.get_loop().call_soon_threadsafe(_wake, future)

    async def wait(self, times: int = 1, *, patience: float | None = PATIENCE) -> None:
        """Return once it has happened `times` times; TimeoutError after `patience` seconds."""
        with self._lock:
            if self.count >= times:
                return
            waiter = (times, asyncio.get_running_loop().create_future())
            self._waiters.append(waiter)
        try:
            async with asyncio.timeout(patience):
                await waiter[1]
        except TimeoutError:
            raise TimeoutError(f"{self._what}: {self.count} of {times} within {patience} s") from None
        finally:
            with self._lock:
                self._waiters.remove(waiter)


class _Target:
    """Which steps are meant: the n-th that fits, or from the n-th on each; counted from when it was armed."""

    def __init__(self, at: int | str | re.Pattern[str], aim: Aim) -> None:
        self._pattern = re.compile(at, re.IGNORECASE) if isinstance(at, str) else at
        self._aim = aim
        self._left = aim.get("nth", 1)
        if isinstance(self._pattern, int):
            if "nth" in aim:
                raise ValueError(f"at={at} is a number already; nth={aim['nth']} goes with a pattern")
            self._left = self._pattern
        if self._left < 1:
            raise ValueError(f"steps are counted from 1, not from {self._left}")
        self.armed = True

    def hits(self, step: Step) -> bool:
        if not self.armed or not self._fits(step):
            return False
        self._left -= 1
        if self._left > 0:
            return False
        self.armed = self._aim.get("every", False)
        return True

    def _fits(self, step: Step) -> bool:
        kind = self._aim.get("kind")
        if step.connection != self._aim.get("connection", step.connection) or step.kind != (kind or step.kind):
            return False
        if isinstance(self._pattern, int):
            return True
        return (kind is not None or step.kind in ("query", "execute")) and bool(self._pattern.search(step.sql))


class Plan:
    """An armed fault: whether it fired, at which step, and what the server made of that step.

    `fired` is set just before the client notices, `settled` when the server has dropped the connection as well
    (for STALL and PARTITION: when the step has been sent on), so that its transaction is over and its locks are gone.
    `reply` is then the command tag, or "SQLSTATE message", that the client never heard; None if there was none.
    """

    def __init__(self, cut: Cut, target: _Target, name: str) -> None:
        self.cut = cut
        self.fired = Signal(f"{name} fired")
        self.settled = Signal(f"{name} settled")
        self.released = Signal(f"{name} released")
        self.step: Step | None = None
        self.reply: str | None = None
        self._target = target

    def hits(self, step: Step) -> bool:
        return self._target.hits(step)

    def disarm(self) -> None:
        self._target.armed = False

    def release(self) -> None:
        """Let a stalled, late or partitioned step go on; the fault does not fire again."""
        self.disarm()
        self.released.set()


class Hold:
    """A barrier: the client stands still at the step, or with `after` at the server's answer to it."""

    def __init__(self, target: _Target, name: str, *, after: bool) -> None:
        self.after = after
        self._target = target
        self._reached = Signal(f"{name} reached")
        self._released = Signal(f"{name} released")

    def hits(self, step: Step) -> bool:
        return self._target.hits(step)

    async def reached(self, clients: int = 1, *, patience: float = PATIENCE) -> None:
        """Return once so many clients have come to stand here."""
        await self._reached.wait(clients, patience=patience)

    def release(self) -> None:
        """Let go whoever stands here; nobody is held any more."""
        self._target.armed = False
        self._released.set()

    async def pause(self) -> None:
        self._reached.set()
        await self._released.wait(patience=None)


class FaultProxy:
    """Listens on a Unix socket in a directory of its own, or with `tcp` on a free loopback port as well.

    `threaded` gives it a thread and an event loop of its own, for tests that block theirs; all methods are the same.
    Both sockets have the same port number. The server sees connections from this process and its account (peer).
    """

    def __init__(self, upstream_host: str, upstream_port: int, *, tcp: bool = False, threaded: bool = False) -> None:
        self._upstream = (upstream_host, upstream_port)
        self._tcp, self._threaded = tcp, threaded
        self._faults = _Faults()
        self._stop = Signal("stop")
        self.host, self.port = "", upstream_port

    async def __aenter__(self) -> Self:
        self.host = tempfile.mkdtemp(prefix="faults-", dir="/tmp")  # short: a socket's path has 107 bytes at most
        sockets = [socket.create_server((LOOPBACK, 0))] if self._tcp else []
        if sockets:
            self.port = sockets[0].getsockname()[1]
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].bind(f"{self.host}/.s.PGSQL.{self.port}")
        sockets[-1].listen(128)

        serving = _serve(sockets, self._upstream, self._faults, self._stop)
        if self._threaded:
            thread = ThreadPoolExecutor(1, "faults")
            self._serving: asyncio.Future[None] = asyncio.wrap_future(thread.submit(asyncio.run, serving))
            thread.shutdown(wait=False)
        else:
            self._serving = asyncio.create_task(serving)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Drop all connections; raises what went wrong inside the proxy itself."""
        self._stop.set()
        try:
            await self._serving
        finally:
            shutil.rmtree(self.host, ignore_errors=True)

    def dsn(self, user: str, database: str, *, tcp: bool = False) -> str:
        if tcp:
            return f"postgresql://{quote(user)}@{LOOPBACK}:{self.port}/{quote(database)}"
        return f"postgresql://{quote(user)}@/{quote(database)}?host={quote(self.host)}&port={self.port}"

    @property
    def steps(self) -> list[Step]:
        """All steps so far, in the order in which they arrived."""
        return list(self._faults.steps)

    def cut(self, cut: Cut, *, at: int | str | re.Pattern[str], **aim: Unpack[Aim]) -> Plan:
        """Arm a fault at the `at`-th step from now, or at the `nth` step from now whose SQL matches `at`.

        A number counts steps of all kinds. A pattern is searched in steps that run something, case ignored: simple
        queries and executions, not preparing or closing the same statement, unless `kind` asks for that.
        (`COPY ... FROM STDIN` runs at its end: kind="copy".)
        """
        plan = Plan(cut, _Target(at, aim), f"{cut.name} at {at!r}")
        self._faults.plans.append(plan)
        return plan

    def hold(self, at: int | str | re.Pattern[str], *, after: bool = False, **aim: Unpack[Aim]) -> Hold:
        """Stop the client at a step, aimed as for `cut`: before the server sees it, or `after` it is carried out.

        A step released after its client has gone still reaches the server, as bytes under way do.
        """
        hold = Hold(_Target(at, aim), f"hold at {at!r}", after=after)
        self._faults.holds.append(hold)
        return hold

    async def let_late_through(self) -> list[str | None]:
        """Send on the steps held back by LATE and return the server's answers to them (see `Plan.reply`)."""
        late = [plan for plan in self._faults.plans if plan.cut is Cut.LATE and plan.fired and not plan.settled]
        for plan in late:
            plan.release()
        for plan in late:
            await plan.settled.wait(plan.fired.count)
        return [plan.reply for plan in late]


class _Faults:
    """What is armed and what was seen; shared by the connections of one proxy."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.plans: list[Plan] = []
        self.holds: list[Hold] = []
        self.partition: Signal | None = None

    def meet(self, step: Step) -> tuple[list[Hold], Plan | None]:
        """Record a step and say what awaits it; of several faults aimed at it, the one armed first."""
        self.steps.append(step)
        holds = [hold for hold in self.holds if hold.hits(step)]
        plans = [plan for plan in self.plans if plan.hits(step)]
        return holds, plans[0] if plans else None


class _Unit:
    """A step with its bytes, and how far the server has got with the answer."""

    def __init__(self, step: Step, data: bytes, answers: int | None) -> None:
        self.step, self.data = step, data
        self.answers = answers  # replies that end a flushed batch; None: ReadyForQuery or CopyInResponse ends it
        self.muted = False
        self.holds: list[Hold] = []
        self.reply: str | None = None
        self.answered = asyncio.Event()

    def hear(self, frame: bytes) -> bool:
        """Note one message of the reply; true if it is the last one."""
        code = frame[:1]
        if code == b"C":
            self.reply = _text(frame[5:-1])
        elif code == b"E":
            self.reply = _error(frame)
        if self.answers is None:
            return code in (b"Z", b"G", b"W")
        self.answers -= code in ENDS_OF_REPLY
        return code == b"E" or self.answers <= 0


class _Batch:
    """Gathers a client's messages into units and remembers which SQL its statements and portals stand for."""

    def __init__(self, connection: int) -> None:
        self._connection = connection
        self._statements: dict[str, str] = {}
        self._portals: dict[str, str] = {}
        self._last = ""
        self._clear()

    def _clear(self) -> None:
        self._frames: list[bytes] = []
        self._codes = ""
        self._mentioned: dict[str, None] = {}

    def add(self, frame: bytes, *, querying: bool) -> _Unit | None:
        """Take one message; returns the unit that it completes."""
        code = chr(frame[0])
        self._frames.append(frame)
        self._codes += code
        sql = self._sql(code, frame[5:])
        if sql:
            self._mentioned[sql.strip()] = None
        return self._unit() if code in "QFSH" or (code in "cf" and querying) else None

    def _sql(self, code: str, body: bytes) -> str:
        """The statement a message is about, as far as it is visible."""
        words = [_text(word) for word in body.split(b"\0", 2)[:2]]
        match code:
            case "Q":
                return words[0]
            case "P":
                self._statements[words[0]] = words[1]
                return words[1]
            case "B":
                self._portals[words[0]] = self._statements.get(words[1], "")
                return self._portals[words[0]]
            case "D" | "C":
                known = self._statements if words[0][0] == "S" else self._portals
                return known.get(words[0][1:], "")
            case "E":
                return self._portals.get(words[0], "")
        return ""

    def _unit(self) -> _Unit:
        kind = _kind(self._codes)
        self._last = self._last if kind == "copy" else "; ".join(self._mentioned)
        step = Step(self._connection, self._last, kind)
        answers = sum(code in "PBDEC" for code in self._codes) if self._codes.endswith("H") else None
        unit = _Unit(step, b"".join(self._frames), answers)
        self._clear()
        return unit


class _Peer:
    """One side of a link; a connection that breaks reads as ended and swallows what is sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, host: str, port: int) -> Self | None:
        with suppress(OSError):
            if host.startswith("/"):
                return cls(*await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}"))
            return cls(*await asyncio.open_connection(host, port))
        return None

    async def read(self) -> bytes:
        try:
            return await self._reader.read(1 << 16)
        except ConnectionError:
            return b""

    async def opening(self) -> bytes:
        """The StartupMessage or CancelRequest, after refusing encryption; empty if the client went away."""
        try:
            while True:
                head = await self._reader.readexactly(8)
                length, code = struct.unpack("!ii", head)
                if code not in TLS_REQUESTS:
                    return head + await self._reader.readexactly(length - 8)
                await self.send(b"N")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""

    async def send(self, data: bytes | bytearray) -> None:
        with suppress(ConnectionError):
            if not self._writer.is_closing():
                self._writer.write(data)
                await self._writer.drain()

    def end(self) -> None:
        """Say that no more will come; what was sent still arrives."""
        with suppress(OSError):
            if not self._writer.is_closing():
                self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    async def abort(self) -> None:
        self._writer.transport.abort()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


class _Link:
    """One client connection and its server connection."""

    _server: _Peer

    def __init__(self, number: int, client: _Peer, faults: _Faults) -> None:
        self._client, self._faults = client, faults
        self._batch = _Batch(number)
        self._waiting: deque[_Unit] = deque()  # units sent on whose answers are not complete
        self._querying = False  # a simple query is under way; if it is a COPY, CopyDone ends it
        self._stalled: Signal | None = None
        self._over = asyncio.Event()  # the server has closed its side

    async def run(self, host: str, port: int) -> None:
        try:
            await self._passage()
            opening = await self._client.opening()
            await self._passage()
            if opening and (server := await _Peer.connect(host, port)):
                self._server = server
                await self._converse(opening)
        finally:
            await self._client.abort()

    async def _converse(self, opening: bytes) -> None:
        try:
            await self._server.send(opening)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump_replies())
                await self._pump_steps()
                self._server.end()
        finally:
            await self._server.abort()

    async def _passage(self) -> None:
        """Wait until neither this link is stalled nor all of them are cut off."""
        while shut := [gate for gate in (self._stalled, self._faults.partition) if gate is not None and not gate]:
            await shut[0].wait(patience=None)

    async def _pump_steps(self) -> None:
        frames = _Frames()
        while data := await self._client.read():
            await self._passage()
            for frame in frames.feed(data):
                if frame[:1] in (b"d", b"p", b"X"):
                    await self._server.send(frame)
                elif (unit := self._batch.add(frame, querying=self._querying)) and not await self._deliver(unit):
                    return

    async def _deliver(self, unit: _Unit) -> bool:
        """Take a step past the holds and faults that await it; false if the connection ends with it."""
        holds, plan = self._faults.meet(unit.step)
        unit.holds = [hold for hold in holds if hold.after]
        for hold in holds:
            if not hold.after:
                await hold.pause()
        await self._passage()
        if plan is None:
            await self._forward(unit)
            return True
        plan.step = unit.step
        if plan.cut in (Cut.STALL, Cut.PARTITION):
            await self._stall(plan, unit)
            return True
        await self._break(plan, unit)
        return False

    async def _forward(self, unit: _Unit) -> None:
        if self._over.is_set():
            unit.answered.set()
            return
        self._waiting.append(unit)
        self._querying = self._querying or unit.step.kind == "query"
        await self._server.send(unit.data)

    async def _stall(self, plan: Plan, unit: _Unit) -> None:
        if plan.cut is Cut.STALL:
            self._stalled = plan.released
        else:
            self._faults.partition = plan.released
        plan.fired.set()
        await self._passage()
        await self._forward(unit)
        plan.settled.set()

    async def _break(self, plan: Plan, unit: _Unit) -> None:
        unit.muted = True
        if plan.cut in (Cut.DURING, Cut.AFTER):
            await self._forward(unit)
        if plan.cut is Cut.AFTER:
            await unit.answered.wait()
        plan.fired.set()
        await self._client.abort()
        if plan.cut is Cut.LATE:
            await plan.released.wait(patience=None)
            await self._forward(unit)
        if plan.cut is not Cut.BEFORE:
            await unit.answered.wait()
        self._server.end()
        await self._over.wait()
        plan.reply = unit.reply
        plan.settled.set()

    async def _pump_replies(self) -> None:
        frames = _Frames()
        while data := await self._server.read():
            await self._passage()
            passing = bytearray()
            for frame in frames.feed(data):
                await self._answer(frame, passing)
            await self._client.send(passing)
        self._over.set()
        for unit in self._waiting:
            unit.answered.set()
        self._client.close()

    async def _answer(self, frame: bytes, passing: bytearray) -> None:
        """Take one message of the server, and add it to what the client may hear."""
        unit = self._waiting[0] if self._waiting else None
        if frame[:1] == b"Z":
            self._querying = False
        if unit and unit.hear(frame):
            await self._complete(unit, frame)
        if not (unit and unit.muted):
            passing += frame

    async def _complete(self, unit: _Unit, last: bytes) -> None:
        for hold in unit.holds:
            await hold.pause()
        self._waiting.popleft().answered.set()
        if last[:1] == b"Z" and unit.step.kind == "query" and self._waiting and self._waiting[0].step.kind == "copy":
            self._waiting.popleft().answered.set()  # the COPY was refused, so its end gets no answer


class _Frames:
    """Cuts a stream into messages: one byte of type, four of length, the rest."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        start, frames = 0, []
        while len(self._buffer) - start >= 5:
            end = start + 1 + int.from_bytes(self._buffer[start + 1 : start + 5])
            if end > len(self._buffer):
                break
            frames.append(bytes(self._buffer[start:end]))
            start = end
        del self._buffer[:start]
        return frames


async def _serve(sockets: list[socket.socket], upstream: tuple[str, int], faults: _Faults, stop: Signal) -> None:
    """Accept connections until told to stop, then drop them all."""
    links: list[asyncio.Task[None]] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(len(links) + 1, _Peer(reader, writer), faults)
        links.append(asyncio.create_task(link.run(*upstream)))

    listeners = [await _listen(accept, each) for each in sockets]
    await stop.wait(patience=None)
    for listener in listeners:
        listener.close()
    for link in links:
        link.cancel()
    ends = await asyncio.gather(*links, return_exceptions=True)
    for listener in listeners:
        await listener.wait_closed()
    if broken := [end for end in ends if isinstance(end, Exception)]:
        raise ExceptionGroup("the proxy itself failed", broken)


async def _listen(
    accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None], listening: socket.socket
) -> asyncio.Server:
    start = asyncio.start_unix_server if listening.family == socket.AF_UNIX else asyncio.start_server
    return await start(accept, sock=listening)


def _kind(codes: str) -> Kind:
    """What a step does, by the types of its messages."""
    if codes[-1] in "QF":
        return "query"
    marks: tuple[tuple[str, Kind], ...] = (("cf", "copy"), ("E", "execute"), ("PBD", "prepare"), ("C", "close"))
    return next((kind for letters, kind in marks if any(code in letters for code in codes)), "sync")


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _error(frame: bytes) -> str:
    fields = {field[:1]: _text(field[1:]) for field in frame[5:].split(b"\0") if field}
    return f"{fields.get(b'C', '')} {fields.get(b'M', '')}"


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
