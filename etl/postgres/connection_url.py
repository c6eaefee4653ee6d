"""Connection URLs that would come apart at the wrong place.

The driver and psql take some of these for something else: what was to be the password becomes a piece of a host's or a
database's name, which servers and error messages show to everybody.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote, urlsplit

from etl.errors import ConfigurationError

# One `@` at most before the query, and none behind the first slash.
_WHOLE = re.compile(r"postgres(?:ql)?://(?:[^@/?#]*@)?[^@/?#]*(?:/[^@?#]*)?(?:[?#]|$)", re.IGNORECASE)
_REMEDY = (
    "write postgresql://USER@HOST:PORT/DATABASE, with a colon and the password behind USER if there is one; "
    "what is special in it is percent-encoded: %2F for /, %3A for :, %40 for @"
)


def unreadable_url(variable: str) -> ConfigurationError:
    """What is said about a URL in `variable` that nobody can read, without a piece of it."""
    return ConfigurationError("cannot be read as a URL", setting=variable, remedy=_REMEDY)


def require_url(dsn: str, variable: str = "ETL_DATABASE_URL") -> str:
    """The URL that stands in `variable`. Raises `ConfigurationError` where it can be read in more ways than one."""
    if not _WHOLE.match(dsn):
        raise unreadable_url(variable)
    return dsn


def place_in(dsn: str) -> str:
    """` at host:port`, where the URL is sure to have come apart at the right places."""
    parts = urlsplit(dsn)
    if "@" in parts.path + parts.query + parts.fragment:
        return ""
    named = parse_qs(parts.query).get("host", [])
    place = parts.netloc.rpartition("@")[2] or ", ".join(named)
    return f" at {place}" if place else ""


def database_in(dsn: str) -> str:
    """`database shop at host:port`, as far as the URL names them; no user and no password.

    Raises `ConfigurationError` as `require_url` does.
    """
    parts = urlsplit(require_url(dsn))
    name = unquote(parts.path.removeprefix("/")) or "".join(parse_qs(parts.query).get("dbname", [])[:1])
    return f"{f'database {name}' if name else 'the database'}{place_in(dsn)}"
