"""The command line: parse, call one thing, print."""

from __future__ import annotations

import gc


def main() -> None:
    """Entry point of the command `etl`.

    Nothing of what is made while modules are imported is ever garbage: the collector rests until commands have what
    they need (`collector.calm_collector`).
    """
    gc.disable()
    from etl.cli import commands  # noqa: PLC0415 - the collector rests by now

    commands.main()
