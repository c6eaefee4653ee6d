"""A server's refusal as a sentence for people."""

from __future__ import annotations

import asyncpg

from etl.core.faults import Fault
from etl.core.sanitise import redact
from etl.errors import ConfigurationError
from etl.postgres.faults import classify, hint_of, said

_REMEDIES = {
    "42501": "grant the privilege to the database user of this program",
    "42P01": "check the table's name, or run: etl check",
    "42703": "check the column's name, or run: etl check",
    "42601": "check the SQL of pending, done, failed and query",
    "42P10": "the key of the sink needs a unique index",
    "428C9": "leave the generated column out of the results",
}


def explain(error: BaseException) -> BaseException:
    """The error as `ConfigurationError` with a remedy, where it is about what somebody wrote down."""
    if not isinstance(error, asyncpg.PostgresError) or classify(error) is not Fault.configuration:
        return error
    remedy = _REMEDIES.get(error.sqlstate or "", hint_of(error) or "run: etl check")
    return ConfigurationError(redact(said(error)), setting="database", remedy=remedy)
