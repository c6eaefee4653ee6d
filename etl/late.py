"""Modules that are imported when they are first used: what only some commands need keeps no other one waiting.

For type checkers they are imported as ever:

    if TYPE_CHECKING:
        from etl.reports import page
    else:
        page = late("etl.reports.page")
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class LateModule:
    """Stands in for a module: has its attributes, and imports it for the first of them."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)

    def __repr__(self) -> str:
        return f"late({self._name!r})"


def late(name: str) -> Any:
    """The module of this name, as if it had been imported. An import error is raised where it is used."""
    return LateModule(name)
