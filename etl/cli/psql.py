"""psql on the project's database: the way to look into the embedded one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from etl.app import start_embedded
from etl.config import Settings
from etl.errors import ConfigurationError
from etl.postgres.connection_url import require_url
from etl.postgres.embedded.binaries import find_binaries


def psql(settings: Settings, arguments: Sequence[str]) -> int:
    """Run psql with these arguments; its exit code.

    Raises `ConfigurationError` where there is no psql, or the arguments name another database: psql would take the
    project's for a user's name then, and look for the other one wherever it usually does.
    """
    if any(each.startswith(("-d", "--dbname")) for each in arguments):
        remedy = r"type \c and its name once you are in, or call psql itself"
        raise ConfigurationError("etl psql is for the project's database", setting="--dbname", remedy=remedy)
    if settings.database_url:
        require_url(settings.database_url)
    server = None if settings.database_url else start_embedded(Path.cwd())
    try:
        url, password = without_password(server.dsn() if server is not None else settings.database_url)
        # The password goes by the environment: everybody can read a command line.
        environment = {**os.environ, **({"PGPASSWORD": password} if password else {})}
        return subprocess.run([_program(), url, *arguments], env=environment, check=False).returncode
    finally:
        if server is not None:
            server.stop()


def without_password(url: str) -> tuple[str, str | None]:
    """A connection URL and the password that stood in it."""
    parts = urlsplit(url)
    if parts.password is None:
        return url, None
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.split(':', 1)[0]}@{host}")), unquote(parts.password)


def _program() -> str:
    if system := shutil.which("psql"):
        return system
    bundled = find_binaries().folder / "psql"
    if not bundled.is_file():
        raise ConfigurationError("there is no psql on this machine", remedy="install the PostgreSQL client programs")
    return str(bundled)
