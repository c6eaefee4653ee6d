"""The errors of the framework.

    EtlError
    ├── ConfigurationError (also ValueError)   the declaration, the settings or the catalog cannot be right: exit code 2
    │   └── SchemaVersionError                 the database's `etl` schema is missing, older or newer than this program
    ├── DatabaseUnavailableError               no usable server: refused, unreachable, or down for too long
    ├── RunLostError                           this process no longer owns the run; whatever it still holds is void
    └── TooManyQuarantinedError                a run set aside more rows than `max_quarantined` allows

What happens to one row (filtered, quarantined, deferred ...) is an outcome, not an error of the framework.
"""

from __future__ import annotations


class EtlError(Exception):
    """Root of every error this framework raises on purpose."""


class ConfigurationError(EtlError, ValueError):
    """Something written down by a person cannot work; the message says what, where and what to do about it.

    `job` and `setting` name the place, `remedy` the way out; all three become part of the message.
    """

    def __init__(
        self, problem: str, *, job: str | None = None, setting: str | None = None, remedy: str | None = None
    ) -> None:
        self.problem = problem
        self.job = job
        self.setting = setting
        self.remedy = remedy
        super().__init__(problem)

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.job and f"job {self.job}", self.setting) if part)
        text = f"{place}: {self.problem}" if place else self.problem
        return f"{text} ({self.remedy})" if self.remedy else text


class SchemaVersionError(ConfigurationError):
    """The `etl` schema in the database does not fit this program."""


class DatabaseUnavailableError(EtlError):
    """No server answered, or not for longer than the framework is willing to wait."""


class RunLostError(EtlError):
    """The run was ended by somebody else (its lease ran out and it was reaped); nothing may be written for it."""


class TooManyQuarantinedError(EtlError):
    """The run would quarantine more rows than `max_quarantined` allows; the batch in hand was given back untouched."""
