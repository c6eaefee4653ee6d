"""A run by hand on a terminal, redrawn in place; lines now and then where a terminal cannot be redrawn.

The screen and the look at the database have threads of their own: a processor that blocks the event loop is what
somebody wants to see, and nothing here holds up the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

from etl.app import HandControls
from etl.cli.talk import is_plain, say, screen
from etl.core.counts import Counts
from etl.core.pace import Pace
from etl.core.stages import StageCounts
from etl.core.waits import describe_waits
from etl.late import late
from etl.postgres.database import Database
from etl.postgres.waits import watching
from etl.reports.live import LiveFacts, one_line, render_live
from etl.reports.terminal import ansi, plain

if TYPE_CHECKING:
    from rich import console, live
    from rich import text as texts
else:
    console, live, texts = late("rich.console"), late("rich.live"), late("rich.text")

logger = logging.getLogger("etl.cli")

_REDRAWS = 4.0  # a second
_LOOKS = 1.0  # seconds between two looks at the database
_LOOK_AGAIN = 10.0  # after one that failed
_LINES = 10.0  # seconds between two lines


class Progress:
    """What is known of a run that is going on. Written on the event loop, read in other threads."""

    def __init__(self, job: str, total: int | None, hand: HandControls) -> None:
        self._job = job
        self._total = total or None
        self._hand = hand
        self._lock = threading.Lock()
        self._begin()
        self.waits: str | None = None
        self._awaits: str | None = None

    def _begin(self) -> None:
        self._started = time.monotonic()
        self._pace = Pace()
        self._counts = Counts()
        self._stages: list[StageCounts] = []

    def note(self, counts: Counts, stages: Sequence[StageCounts]) -> None:
        """A batch is done."""
        with self._lock:
            if counts.batches < self._counts.batches:  # of the next run: there may be several
                self._begin()
            self._counts = replace(counts)
            self._pace.note(time.monotonic() - self._started, counts.accounted)
            for position, stage in enumerate(stages):
                if position == len(self._stages):
                    self._stages.append(StageCounts(stage.name))
                self._stages[position].add(stage)

    def note_awaits(self, awaits: str | None) -> None:
        """What the run cannot go on without; None: it goes on."""
        self._awaits = awaits

    def facts(self) -> LiveFacts:
        """As it is at this moment."""
        with self._lock:
            at = time.monotonic() - self._started
            return LiveFacts(
                job=self._job,
                elapsed_s=at,
                counts=self._counts,
                total=self._total,
                stages=tuple(replace(stage, calls=dict(stage.calls)) for stage in self._stages),
                rate_now=self._pace.recently(at),
                rate_mean=self._pace.mean(at),
                left_s=self._pace.left(at, self._total),
                waits=self.waits,
                awaits=self._awaits,
                stopping=self._hand.control.stopping,
            )


@contextlib.asynccontextmanager
async def by_hand(
    database: Database, name: str, count: Callable[[], Awaitable[int | None]]
) -> AsyncIterator[HandControls]:
    """Controls of a run by hand, shown while it goes on; `count` gives the rows there are to do."""
    hand = HandControls(tell=say)
    if is_plain(sys.stderr) or not screen().is_terminal:
        yield hand
        return
    progress = Progress(name, await count(), hand)
    hand.on_progress, hand.awaits = progress.note, progress.note_awaits
    over = threading.Event()
    redraws = can_redraw(screen())
    look = threading.Thread(target=_look_on, args=(database, progress, over), name="etl-waits", daemon=True)
    lines = threading.Thread(target=_say_on, args=(progress, over), name="etl-lines", daemon=True)
    threads = [look] if redraws and not database.settings.pooled else [] if redraws else [lines]
    for thread in threads:
        thread.start()
    try:
        with _screen(progress) if redraws else contextlib.nullcontext():
            yield hand
    finally:
        over.set()
        for thread in threads:
            await asyncio.to_thread(thread.join, 5.0)


def can_redraw(where: console.Console) -> bool:
    """Whether control characters are welcome: not to a dumb terminal, in CI, or where NO_COLOR is set."""
    unwelcome = any(os.environ.get(name) for name in ("NO_COLOR", "CI"))
    return where.is_terminal and not where.is_dumb_terminal and not unwelcome


@contextlib.contextmanager
def _screen(progress: Progress) -> Iterator[None]:
    """Redraws until the end; then nothing of it is left."""
    err = screen()
    paint = ansi if err.color_system and not err.no_color else plain

    def draw() -> console.Group:
        # One column less: a full line makes some terminals go on to the next.
        lines = render_live(progress.facts(), width=err.width - 1, paint=paint)
        drawn = [texts.Text.from_ansi(line, no_wrap=True, overflow="crop") for line in lines]
        return console.Group(*drawn[: max(1, err.height - 1)])

    # What jobs print goes above the screen if it appears on it, and where the shell sent it otherwise.
    both = sys.stdout.isatty()
    before = (sys.stderr, sys.stdout) if both else (sys.stderr,)
    with (
        live.Live(
            get_renderable=draw,
            console=err,
            transient=True,
            refresh_per_second=_REDRAWS,
            redirect_stdout=both,
            redirect_stderr=True,
            vertical_overflow="crop",
        ),
        _handlers_above(before),
    ):
        yield


@contextlib.contextmanager
def _handlers_above(streams: Sequence[TextIO]) -> Iterator[None]:
    """Handlers that hold on to the streams as they were write above the screen meanwhile."""
    now = {id(stream): new for stream, new in zip(streams, (sys.stderr, sys.stdout), strict=False)}
    loggers = [logging.getLogger(), *(each for each in logging.Logger.manager.loggerDict.values())]
    handlers = {
        handler
        for each in loggers
        if isinstance(each, logging.Logger)
        for handler in each.handlers
        if type(handler) is logging.StreamHandler and id(handler.stream) in now
    }
    former = {handler: handler.setStream(now[id(handler.stream)]) for handler in handlers}
    try:
        yield
    finally:
        for handler, stream in former.items():
            if stream is not None:
                handler.setStream(stream)


def _say_on(progress: Progress, over: threading.Event) -> None:
    while not over.wait(_LINES):
        say(one_line(progress.facts()))


def _look_on(database: Database, progress: Progress, over: threading.Event) -> None:
    """Look what the database waits for until it is over; whatever goes wrong, the run does not hear of it."""
    while not over.is_set():
        try:
            asyncio.run(_looks(database, progress, over))
        except Exception as error:
            logger.debug("what the database waits for is not known: %s: %s", type(error).__name__, error)
        progress.waits = None
        over.wait(_LOOK_AGAIN)


async def _looks(database: Database, progress: Progress, over: threading.Event) -> None:
    async with watching(database.settings) as look:
        used, at = time.process_time(), time.monotonic()
        while not over.is_set():
            await asyncio.to_thread(over.wait, _LOOKS)
            pids = set(database.sessions)
            async with asyncio.timeout(_LOOK_AGAIN):
                sessions = await look(pids)
            now, moment = time.process_time(), time.monotonic()
            progress.waits = describe_waits(sessions, own=pids, cpu=(now - used) / (moment - at))
            used, at = now, moment
