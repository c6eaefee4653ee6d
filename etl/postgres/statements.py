"""The framework's own statements: one `.sql` file each, sent as they are."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def statement(name: str) -> str:
    """The text of `etl/sql/<name>.sql`."""
    return (files("etl") / "sql" / f"{name}.sql").read_text(encoding="utf-8")
