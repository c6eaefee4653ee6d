"""Environment variables that look like settings written wrong. Pure: names only, never a value."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

# Closer than what is suggested elsewhere: there somebody asked for a name, here it may be somebody else's.
_CLOSE = 0.8


def misspelt(names: Iterable[str], prefix: str, known: Collection[str], group: str) -> dict[str, str]:
    """The names that begin with `prefix` and are nearly one that is known, with that one.

    `known`  names without the prefix, in capitals.   `group`  what others begin with, up to `__`.
    What has a known name whole, with words before or after it, is taken for a name that somebody chose.
    """
    found = {}
    for name in sorted(names):
        if not name.upper().startswith(prefix):
            continue
        own, separator, rest = name.upper().removeprefix(prefix).partition("__")
        candidates = [group] if separator else known
        near = difflib.get_close_matches(own, candidates, n=1, cutoff=_CLOSE)
        if near and not _is_chosen(own, near[0]):
            found[name] = f"{prefix}{near[0]}{separator}{rest}"
    return found


def _is_chosen(own: str, known: str) -> bool:
    return own == known or own.startswith(f"{known}_") or own.endswith(f"_{known}")
