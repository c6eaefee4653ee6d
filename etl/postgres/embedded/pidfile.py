"""Read what a postmaster wrote about itself, as a claim: the file outlives a killed server."""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PORT = 5432  # only part of the socket's name

# Answered with one letter before anybody needs to log in, and nothing is logged: a length and the code of SSLRequest.
_ENCRYPTION_REQUEST = struct.pack("!ii", 8, 80877103)


@dataclass(frozen=True, slots=True)
class PidFile:
    """What a postmaster wrote about itself; `pid` 0 where the file is empty or no such text."""

    pid: int
    run: Path
    status: str

    @classmethod
    def read(cls, data: Path) -> Self | None:
        """The pid file of a data directory, None where it has none."""
        try:
            lines = (data / "postmaster.pid").read_text(errors="surrogateescape").splitlines()
        except FileNotFoundError:
            return None
        lines += [""] * (8 - len(lines))
        return cls(leading_number(lines[0]), Path(lines[4]), lines[7].strip())

    @property
    def socket(self) -> Path:
        """Where the server listens."""
        return self.run / f".s.PGSQL.{PORT}"

    def answers(self) -> bool:
        """Whether the server says it is ready and a connection gets an answer; a frozen one would still take it."""
        if self.status != "ready":
            return False
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(str(self.socket))
                client.sendall(_ENCRYPTION_REQUEST)
                return client.recv(1) != b""
        except OSError:
            return False


def leading_number(text: str) -> int:
    """The pid that a lock file begins with (negative for a server without clients); 0 for anything else."""
    first = text.strip().splitlines()[0].strip() if text.strip() else ""
    return abs(int(first)) if re.fullmatch(r"-?\d{1,10}", first, re.ASCII) else 0
