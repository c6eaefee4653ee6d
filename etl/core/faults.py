"""What kind of fault an SQLSTATE is, and so who has to act on it. A pure table.

Source: PostgreSQL manual, appendix "PostgreSQL Error Codes"; the reading per class is ours.
"""

from __future__ import annotations

from enum import Enum


class Fault(Enum):
    """infrastructure: again with the same token, no row charged. data: isolate the row. configuration: stop the job
    loudly. bug: a fault of ours or of the user's code; the run fails with its traceback."""

    infrastructure = "infrastructure"
    data = "data"
    configuration = "configuration"
    bug = "bug"


LOCK_NOT_AVAILABLE = "55P03"
DIVISION_BY_ZERO = "22012"
NOT_NULL_VIOLATION = "23502"
CHECK_VIOLATION = "23514"

# Longest prefix wins.
_BY_PREFIX = {
    "08": Fault.infrastructure,  # connection exceptions
    "21000": Fault.data,  # cardinality violation: one statement would touch a row twice
    "22": Fault.data,  # data exceptions: out of range, bad text, NUL, ...
    "23": Fault.data,  # integrity constraints
    "25006": Fault.infrastructure,  # read-only: we reached a standby
    "25P02": Fault.bug,  # in a failed transaction: somebody swallowed an error
    "25P03": Fault.infrastructure,  # idle-in-transaction timeout: we were stopped or starved
    "25P04": Fault.infrastructure,  # transaction timeout
    "26000": Fault.infrastructure,  # prepared statement is gone: a pooler gave us another server connection
    "28": Fault.configuration,  # who are you
    "3D000": Fault.configuration,  # no such database
    "3F000": Fault.configuration,  # no such schema
    "40": Fault.infrastructure,  # serialization failure, deadlock, partition move
    "42": Fault.configuration,  # syntax, unknown names, privileges
    "44000": Fault.data,  # WITH CHECK OPTION
    "0A000": Fault.configuration,  # feature not supported
    "53": Fault.infrastructure,  # disk full, out of memory, too many connections
    "54": Fault.data,  # program limit exceeded: value too large, too deep
    "55": Fault.infrastructure,  # object not in a usable state, lock not available
    "57": Fault.infrastructure,  # cancelled, shutting down, crashed
    "58": Fault.infrastructure,  # I/O
    "P0": Fault.data,  # RAISE in a trigger or function of the user
    "XX000": Fault.infrastructure,  # "tuple concurrently updated" and its kin
}


def fault_of_sqlstate(sqlstate: str) -> Fault:
    """The fault class of a five-character SQLSTATE; unknown ones are bugs."""
    for length in (5, 2):
        found = _BY_PREFIX.get(sqlstate[:length])
        if found is not None:
            return found
    return Fault.bug
