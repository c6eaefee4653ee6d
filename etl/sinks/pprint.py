"""Results on the screen, for tries."""

from __future__ import annotations

import pprint
import sys
from typing import Any, TextIO

from etl.core.context import Context
from etl.core.sink import Sink


class PPrintSink(Sink):
    """Pretty-print each result to `stream` (default: standard output)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream

    def write(self, context: Context, rows: list[Any]) -> None:
        stream = self.stream or sys.stdout
        for row in rows:
            pprint.pprint(row, stream=stream)
        stream.flush()
