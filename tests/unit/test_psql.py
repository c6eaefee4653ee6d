"""`etl psql`: what it is called with."""

from __future__ import annotations

import pytest

from etl.cli.psql import psql
from etl.config import Settings
from etl.errors import ConfigurationError


@pytest.mark.parametrize("arguments", [["-d", "other"], ["-dother"], ["-c", "SELECT 1", "--dbname=other"]])
def test_another_database_than_the_projects_is_refused(arguments: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"--dbname: etl psql is for the project's database \(type \\c"):
        psql(Settings(), arguments)
