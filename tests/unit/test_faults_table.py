"""Which faults are whose: the table of SQLSTATEs, and exceptions that carry none."""

from __future__ import annotations

import asyncio
import inspect
import ssl

import asyncpg
import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl.core.faults import Fault, fault_of_sqlstate
from etl.errors import ConfigurationError, DatabaseUnavailableError, RunLostError, TooManyQuarantinedError
from etl.postgres.explain import explain
from etl.postgres.faults import classify, sqlstate_of

TABLE = {
    Fault.infrastructure: (
        "08000 08006 08P01 25006 25P03 40001 40P01 53000 53100 53200 53300 55006 55P03 57014 57P01 57P02 57P03 58000 58030"
    ),
    Fault.data: (
        "21000 22001 22003 22007 22008 22012 22021 22P02 22P05 22023 23502 23503 23505 23514 23P01 44000 54000 54001 P0001"
    ),
    Fault.configuration: "0A000 28000 28P01 3D000 3F000 42501 42601 42703 42P01 42P10 42883 428C9",
    Fault.bug: "25P02 25001 26001 34000 38000 XX001 F0000 HV000 00000 01000",
}


@pytest.mark.parametrize(
    ("expected", "sqlstate"), [(fault, code) for fault, codes in TABLE.items() for code in codes.split()]
)
def test_a_sqlstate_is_somebody_s_fault(expected: Fault, sqlstate: str) -> None:
    assert expected is fault_of_sqlstate(sqlstate)


@given(st.text(max_size=6))
def test_what_is_no_sqlstate_is_a_bug_or_known_by_its_class(text: str) -> None:
    assert fault_of_sqlstate(text) in Fault


def test_a_longer_code_wins_over_its_class() -> None:
    """A read-only server is not the fault of whoever else gets class 25."""
    assert fault_of_sqlstate("25006") is Fault.infrastructure
    assert fault_of_sqlstate("25001") is Fault.bug


def test_every_error_of_the_server_that_the_driver_knows_is_classed_by_its_code() -> None:
    known = [
        error
        for _, error in inspect.getmembers(asyncpg, inspect.isclass)
        if issubclass(error, asyncpg.PostgresError) and error.sqlstate
    ]

    assert len(known) > 200
    for error in known:
        assert fault_of_sqlstate(error.sqlstate) is classify(error("said the server"))
        assert error.sqlstate == sqlstate_of(error("said the server"))


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        (Fault.infrastructure, ConnectionResetError("peer")),
        (Fault.infrastructure, ConnectionRefusedError("no")),
        (Fault.infrastructure, OSError("network is unreachable")),
        (Fault.infrastructure, ssl.SSLError("handshake")),
        (Fault.infrastructure, TimeoutError()),
        (Fault.infrastructure, asyncio.IncompleteReadError(b"", 5)),
        (Fault.infrastructure, asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")),
        (Fault.infrastructure, asyncpg.InterfaceError("connection is closed")),
        (Fault.infrastructure, asyncpg.InterfaceError("cannot perform operation: the underlying connection is closed")),
        (Fault.infrastructure, asyncpg.InternalClientError("got result for unknown protocol state 3")),
        (Fault.data, asyncpg.DataError("invalid input for query argument $1: 'x' (an integer is required)")),
        (Fault.data, ValueError("out of range float values are not JSON compliant")),
        (Fault.data, UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")),
        (Fault.data, OverflowError("int too big to convert")),
        (Fault.data, TypeError("object has no JSON form")),
        (Fault.data, RecursionError()),
        (Fault.bug, asyncpg.InterfaceError("cannot use Connection.transaction() in a manually started transaction")),
        (Fault.bug, AttributeError("no such attribute")),
        (Fault.bug, KeyError("x")),
        (Fault.bug, ConfigurationError("unknown table")),
        (Fault.bug, RunLostError("reaped")),
        (Fault.bug, TooManyQuarantinedError("51 of 100")),
        (Fault.bug, DatabaseUnavailableError("gave up")),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else type(value).__name__,
)
def test_an_exception_without_a_code_is_classed_by_what_it_is(expected: Fault, error: Exception) -> None:
    assert expected is classify(error)


def test_our_own_errors_are_never_tried_again_nor_charged_to_a_row() -> None:
    """`ConfigurationError` is a `ValueError`, and must not pass for a value that a column refused."""
    assert classify(ConfigurationError("no such column")) is Fault.bug


def test_only_the_server_has_sqlstates() -> None:
    assert sqlstate_of(ConnectionResetError()) is None


@pytest.mark.parametrize(
    ("remedy", "error"),
    [
        ("grant the privilege", asyncpg.InsufficientPrivilegeError("permission denied for table flight")),
        ("etl check", asyncpg.UndefinedTableError('relation "flight" does not exist')),
        ("etl check", asyncpg.UndefinedColumnError('column "carier" does not exist')),
        ("unique index", asyncpg.InvalidColumnReferenceError("there is no unique or exclusion constraint")),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_refusal_that_concerns_a_declaration_comes_with_its_remedy(remedy: str, error: Exception) -> None:
    explained = explain(error)

    assert isinstance(explained, ConfigurationError)
    assert remedy in str(explained.remedy)
    assert str(error) in str(explained)


@pytest.mark.parametrize("error", [asyncpg.UniqueViolationError("twice"), ConnectionResetError(), KeyError("x")])
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    assert explain(error) is error
