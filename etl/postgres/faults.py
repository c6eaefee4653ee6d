"""Exceptions of the driver and the network, classed by who has to act on them."""

from __future__ import annotations

import asyncpg

from etl.core.faults import Fault, fault_of_sqlstate
from etl.errors import EtlError


def classify(error: BaseException) -> Fault:
    """The fault class of an exception raised while talking to the server."""
    if isinstance(error, asyncpg.PostgresError):
        return fault_of_sqlstate(error.sqlstate or "")
    if isinstance(error, EtlError):
        return Fault.bug
    if isinstance(error, asyncpg.InterfaceError):
        # The driver's own refusal of an argument (nothing was sent) is a ValueError too.
        return Fault.data if isinstance(error, ValueError) else _of_interface_error(str(error))
    if isinstance(error, (asyncpg.InternalClientError, OSError, EOFError, TimeoutError)):
        return Fault.infrastructure
    if isinstance(error, (TypeError, ValueError, OverflowError, RecursionError)):  # raised by an encoder
        return Fault.data
    return Fault.bug


def _of_interface_error(message: str) -> Fault:
    # The driver gives no codes here. What speaks of the connection's state is the network's doing or ours after it.
    gone = ("connection is closed", "connection was closed", "connection has been released", "underlying connection")
    return Fault.infrastructure if any(words in message for words in gone) else Fault.bug


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE, if the server spoke."""
    return error.sqlstate if isinstance(error, asyncpg.PostgresError) else None


def said(error: asyncpg.PostgresError) -> str:
    """The server's sentence alone, on one line: the driver's text of an error goes on with detail and hint."""
    return " ".join(str(error.args[0] if error.args else error).split())


def hint_of(error: asyncpg.PostgresError) -> str | None:
    """What the server advises."""
    hint = getattr(error, "hint", None)
    return hint if isinstance(hint, str) else None
