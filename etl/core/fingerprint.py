"""Why a row was set aside, told apart from other reasons: by type, place in the user's code, and message.

A message has numbers, names and ids of its row in it, so these are masked. The place is the innermost line of the
user's own code: the same error raised by two functions is two errors. Which line of the function it was does not count,
for that changes with every edit.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from etl.core.sanitise import ErrorText

_FRAME = re.compile(r'^[ |]*File "([^"\n]+)", line (\d+), in ([^\n]+)$', re.MULTILINE)
_MACHINERY = re.compile(r"/etl/(processors|sinks|runtime|postgres|core)/|/tenacity/|/asyncpg/")
_OTHERS = re.compile(r"/(site|dist)-packages/|/lib(64)?/python\d|^<")
# What stands in quotes, ids, hexadecimal numbers, numbers.
_VARIABLE = re.compile(
    r"""'[^']*'|"[^"]*"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b0x[0-9a-f]+\b|\b[0-9a-f]{8,}\b|\d+""",
    re.IGNORECASE,
)


def own_frame(traceback: str) -> str | None:
    """The innermost line of the user's own code in a traceback's text, as `jobs/flights.py:41 in to_utc`.

    Of an error that no such code was part of, the outermost line outside of the framework; None where there is none.
    """
    frames = [match.groups() for match in _FRAME.finditer(traceback) if _whose(match[1]) != "framework"]
    own = next((frame for frame in reversed(frames) if _whose(frame[0]) == "own"), None)
    if (frame := own or next(iter(frames), None)) is None:
        return None
    path, line, function = frame
    return f"{'/'.join(_parts(path)[-2:])}:{line} in {function}"


def masked(message: str) -> str:
    """A message with `#` for what varies from row to row."""
    return _VARIABLE.sub("#", message)


def fingerprint(stage: str, error: ErrorText, frame: str | None) -> str:
    """The same 32 digits for all rows that were set aside for the same reason."""
    place = re.sub(r":\d+ in ", " in ", frame or "")
    told = (stage, error.type, place, masked(error.message))
    return hashlib.blake2b("\x1f".join(told).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


@lru_cache(maxsize=1024)
def _whose(path: str) -> str:
    plain = path.replace("\\", "/")
    if _MACHINERY.search(plain):
        return "framework"
    return "others" if _OTHERS.search(plain) else "own"


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", path) if part]
