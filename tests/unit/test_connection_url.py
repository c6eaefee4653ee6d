"""Which connection URLs are taken, and that the others are refused without a piece of them."""

from __future__ import annotations

import pytest

from etl.errors import ConfigurationError
from etl.postgres.connection_url import database_in, require_url


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:pw@h:5432/d",
        "postgres://u@h",
        "POSTGRESQL://h/d",
        "postgresql:///d",
        "postgresql://?host=/run/postgresql&user=u@realm",
        "postgresql://u:p%40w%2F@[::1]:5432,h2:5433/d%40x?sslmode=require",
    ],
)
def test_a_url_that_comes_apart_in_one_way_only_is_taken(url: str) -> None:
    taken = require_url(url)

    assert url == taken


@pytest.mark.parametrize(
    "url",
    [
        "postgres:/u:S3cret@h/d",
        "postgresql:u:S3cret@h/d",
        "postgresql://u:S3@cret@h/d",
        "postgresql://u:1/S3cret@h/d",
        "u:S3cret@h/d",
        "host=h password=S3cret",
        "mysql://u:S3cret@h/d",
        " postgresql://u:S3cret@h/d",
    ],
)
def test_any_other_is_refused_by_its_variable_and_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        require_url(url, "WAREHOUSE_URL")

    assert str(refusal.value).startswith("WAREHOUSE_URL: cannot be read as a URL (write postgresql://")
    assert not any(piece in str(refusal.value) for piece in ("S3", "cret@"))


@pytest.mark.parametrize(
    ("expected", "url"),
    [
        ("database shop at db.example:5433", "postgresql://ada:S3cret@db.example:5433/shop"),
        ("database shop at h1:5432,h2", "postgres://h1:5432,h2/shop?sslmode=require"),
        ("database a b at /run/pg", "postgresql:///a%20b?host=/run/pg&password=S3cret"),
        ("database shop", "postgresql:///?dbname=shop"),
        ("the database at h", "postgresql://u:S3cret@h"),
        ("the database", "postgresql://?user=u@realm"),
    ],
)
def test_a_database_is_named_with_its_host_and_without_its_password(expected: str, url: str) -> None:
    assert expected == database_in(url)
