"""Which pg-etl this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The installed version of pg-etl."""
    try:
        return version("pg-etl")
    except PackageNotFoundError:
        return "0"
