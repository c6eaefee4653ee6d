"""Talking to the person who typed a command, and errors as one message and an exit code.

rich knows terminals; where there is none, plain text is written without it.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TextIO, TypeVar

import typer

from etl.core.run import EXIT_FAILED, EXIT_MISUSE
from etl.core.sanitise import redact, showable
from etl.errors import ConfigurationError, DatabaseUnavailableError, EtlError
from etl.late import late
from etl.reports.columns import WIDTH

if TYPE_CHECKING:
    from rich import console
else:
    console = late("rich.console")

P = ParamSpec("P")
T = TypeVar("T")

# By these rich takes for a terminal what is none.
_WISHES = ("FORCE_COLOR", "TTY_COMPATIBLE")


def is_plain(stream: TextIO) -> bool:
    """Whether this is surely no terminal, so that rich need not be asked."""
    return not (stream.isatty() or any(os.environ.get(name) for name in _WISHES))


@functools.cache
def screen() -> console.Console:
    """Standard error, where one talks to the person."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> console.Console:
    return console.Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def say(text: str) -> None:
    """Talk to the person: standard error."""
    if is_plain(sys.stderr):
        sys.stderr.write(f"{showable(text)}\n")
        sys.stderr.flush()
    else:
        screen().print(showable(text))


def screen_width() -> int:
    """How wide a report may be: as wide as the terminal, up to what it is made for."""
    return min(WIDTH, console.Console().width) if sys.stdout.isatty() else WIDTH


def list_width() -> int | None:
    """How wide a list may be: as the terminal; without one there is no bound."""
    return console.Console().width if sys.stdout.isatty() else None


def show(lines: list[str]) -> None:
    """Data for the person: standard output."""
    if is_plain(sys.stdout):
        sys.stdout.writelines(f"{showable(line)}\n" for line in lines)
        sys.stdout.flush()
        return
    out = _console(stderr=False)
    for line in lines:
        out.print(showable(line))


def in_colour() -> bool:
    """Whether standard output is a terminal that has colour and whose owner did not refuse it (NO_COLOR)."""
    if is_plain(sys.stdout):
        return False
    out = console.Console()
    return out.is_terminal and bool(out.color_system) and not out.no_color


def show_json(value: Any) -> None:
    """Data for programs: standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def program() -> str:
    """How this program was called, for commands to type."""
    name = sys.argv[0]
    return "etl" if Path(name).name != "etl" or name == "etl" else _short(Path(name))


def _short(path: Path) -> str:
    if (found := shutil.which("etl")) and Path(found).resolve() == path.resolve():
        return "etl"
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def handled(command: Callable[P, T]) -> Callable[P, T]:
    """Turn errors of ours into one message and an exit code; anything else keeps its traceback."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except EtlError as error:
            fail(error)

    return wrapper


def fail(error: EtlError) -> NoReturn:
    """Print an error and leave."""
    for line in redact(str(error)).splitlines():
        say(f"etl: {line}")
    misuse = isinstance(error, (ConfigurationError, DatabaseUnavailableError))
    raise typer.Exit(EXIT_MISUSE if misuse else EXIT_FAILED)


def show_uncaught(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    """A bug's traceback, without secrets."""
    say(redact("".join(traceback.format_exception(kind, error, frames))).rstrip())
