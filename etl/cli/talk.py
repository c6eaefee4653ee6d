"""Talking to the person who typed a command, and errors as one message and an exit code."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console

from etl.core.run import EXIT_FAILED, EXIT_MISUSE
from etl.core.sanitise import redact, showable
from etl.errors import ConfigurationError, DatabaseUnavailableError, EtlError
from etl.reports.columns import WIDTH

P = ParamSpec("P")
T = TypeVar("T")

err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def say(text: str) -> None:
    """Talk to the person: standard error."""
    err.print(showable(text))


def screen_width() -> int:
    """How wide a report may be: as wide as the terminal, up to what it is made for."""
    return min(WIDTH, Console().width) if sys.stdout.isatty() else WIDTH


def list_width() -> int | None:
    """How wide a list may be: as the terminal; without one there is no bound."""
    return Console().width if sys.stdout.isatty() else None


def show(lines: list[str]) -> None:
    """Data for the person: standard output."""
    out = Console(highlight=False, soft_wrap=True, markup=False)
    for line in lines:
        out.print(showable(line))


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
