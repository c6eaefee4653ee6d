"""What the server was asked to do, from its own log (log_statement = all, log_line_prefix = '%a|')."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import TypeVar

K = TypeVar("K")

_ENTRY = re.compile(r"^(?P<program>[^|\n]*)\|LOG:  (?:statement|execute [^:]+): (?P<sql>.*(?:\n\t.*)*)", re.MULTILINE)
_FRAME = re.compile(r"(BEGIN|COMMIT|ROLLBACK|SET|RESET|DISCARD|LISTEN|UNLISTEN)\b", re.IGNORECASE)
# What a worker sends around a run: finding out that one is asked for, and starting it.
_AROUND = {
    *("next_wake", "list_messages", "lock_triggers_with_messages", "waiting_messages", "gather_messages"),
    *("assign_messages", "hand_over_messages", "insert_run", "insert_runs", "insert_ticks", "start_queued_run"),
    "start_for_messages",
}
_HISTORY = re.compile(r"\b(?:INSERT INTO|UPDATE|DELETE FROM) etl\.(?:run|tick|message|schedule)\b")


def statements(log: str, program: str) -> list[str]:
    """The statements of a program (its application_name), without those that only frame a transaction."""
    found = [match["sql"] for match in _ENTRY.finditer(log) if match["program"] == program]
    return [sql for sql in found if not _FRAME.match(sql)]


def kind(sql: str) -> str:
    """Whose a statement is: `worker` (finding and starting a run), `history` (what a run leaves behind) or `run`."""
    if named(sql) in _AROUND:
        return "worker"
    return "history" if _HISTORY.search(sql) else "run"


def named(sql: str) -> str:
    """What to call a statement: its file in etl/sql, or else how it begins."""
    text = _plain(sql)
    return _names().get(text, " ".join(text.split()[:4]))


def beyond(counted: Iterable[K], idle: Iterable[K], share: float, runs: int) -> Mapping[K, float]:
    """Statements per run by name or kind: all that were counted, less `share` of those of an idle time."""
    background = Counter(idle)
    per_run = {key: (number - background[key] * share) / runs for key, number in Counter(counted).items()}
    return {key: number for key, number in sorted(per_run.items(), key=lambda item: -item[1]) if number >= 0.05}


def _plain(sql: str) -> str:
    return " ".join(re.sub(r"--[^\n]*", "", sql).split())


@cache
def _names() -> dict[str, str]:
    folder = files("etl") / "sql"
    return {_plain(path.read_text()): path.name.removesuffix(".sql") for path in folder.iterdir()}
