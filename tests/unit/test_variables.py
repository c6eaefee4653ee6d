"""Which ETL_ variables are taken for settings written wrong, and which for somebody's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from etl.cli.variables import warn_of_variables
from etl.config import PREFIX, Settings, known_variables
from etl.core.variables import misspelt

JOB = """
from etl import BatchProcessingSource, Pipeline, RemotePostgresSink
source = BatchProcessingSource("inbox", pending="waiting", done="waiting = false")
sales = Pipeline("sales", source, RemotePostgresSink("sale", dsn_env="ETL_DATABASE2_URL"))
"""


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ETL_LAESE", "ETL_LEASE"),
        ("ETL_DATABSE_URL", "ETL_DATABASE_URL"),
        ("etl_histroy", "ETL_HISTORY"),
        ("ETL_PG_BINS", "ETL_PG_BIN"),
        ("ETL_PIPELNE__FLIGHTS__POOL", "ETL_PIPELINE__FLIGHTS__POOL"),
    ],
)
def test_a_name_that_is_nearly_one_of_ours_is_told_with_that_one(name: str, meant: str) -> None:
    assert {name: meant} == misspelt([name], PREFIX, known_variables(), "PIPELINE")


@pytest.mark.parametrize(
    "name",
    [
        "ETL_LEASE", "etl_lease", "ETL_PG_OS_USER", "ETL_PIPELINE__FLIGHTS__POOL", "ETL_WAREHOUSE_URL", "LAESE",
        "ETL_TARGET_DATABASE_URL", "ETL_DATABASE_URL_2", "ETL_SHOP__LEASE", "ETL_",
    ],
)  # fmt: skip
def test_ours_and_everybody_elses_names_are_left_alone(name: str) -> None:
    assert {} == misspelt([name], PREFIX, known_variables(), "PIPELINE")


def test_a_variable_is_told_without_its_value_and_not_if_a_sink_is_reached_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs_of_variables.py").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("ETL_DATABSE_URL", "postgresql://ada:S3cret@h/d")
    monkeypatch.setenv("ETL_DATABASE2_URL", "postgresql://ada:S3cret@h/d")

    warn_of_variables(Settings(jobs=("jobs_of_variables",)))

    told = "etl: there is no variable ETL_DATABSE_URL, it is not looked at (did you mean ETL_DATABASE_URL?)\n"
    assert told == capsys.readouterr().err
