"""The command line: parse, call one thing, print."""

from etl.cli.main import main

__all__ = ["main"]
