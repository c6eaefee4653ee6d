"""Settings: where they may be written, who wins, and what is said about those that cannot be right."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from etl.config import (
    JobSetting,
    Settings,
    load_settings,
    read_settings_file,
    setting_origins,
    written_overrides,
)
from etl.durations import format_duration, parse_duration
from etl.errors import ConfigurationError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, and no ETL_ variables."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ETL_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_any_settings_the_documented_defaults_hold() -> None:
    expected = Settings(
        database_url="",
        pooled=False,
        lease=timedelta(seconds=30),
        grace=timedelta(seconds=25),
        jobs=("jobs",),
        max_runs=10,
        connections=20,
    )

    assert expected == load_settings()


def test_a_flag_wins_over_the_environment_over_etl_toml_over_pyproject(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each place loses to the next one, and says nothing about settings it does not name."""
    (folder / "pyproject.toml").write_text('[tool.etl]\nlease = "11s"\ngrace = "11s"\n')
    only_pyproject = load_settings()

    (folder / "etl.toml").write_text('lease = "22s"\n')
    etl_toml = load_settings()

    monkeypatch.setenv("ETL_LEASE", "33s")
    environment = load_settings()

    flag = load_settings(lease="44s", grace=None)

    assert [11, 22, 33, 44] == [
        round(settings.lease.total_seconds()) for settings in (only_pyproject, etl_toml, environment, flag)
    ]
    assert timedelta(seconds=11) == only_pyproject.grace
    assert Settings().grace == etl_toml.grace, "etl.toml is read instead of pyproject.toml, not on top of it"


def test_each_setting_can_be_written_in_each_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (
        "postgresql://u@h/d",
        True,
        timedelta(minutes=1),
        timedelta(seconds=5),
        ("a", "b.c"),
        3,
        4,
        {"api": 2},
        timedelta(days=7),
        ("email", "$.a.b"),
        (r"\d{3},\d", "x"),
    )
    (folder / "etl.toml").write_text(
        'database_url = "postgresql://u@h/d"\npooled = true\nlease = "1m"\ngrace = 5\njobs = ["a", "b.c"]\n'
        'max_runs = 3\nconnections = 4\nhistory = "7d"\n'
        'redact = ["email", "$.a.b"]\nredact_patterns = [\'\\d{3},\\d\', "x"]\n[pools]\napi = 2\n'
    )
    from_file = load_settings()
    (folder / "etl.toml").unlink()
    for name, value in {
        "DATABASE_URL": "postgresql://u@h/d",
        "POOLED": "1",
        "LEASE": "60",
        "GRACE": "5s",
        "JOBS": " a, b.c ,",
        "MAX_RUNS": "3",
        "CONNECTIONS": "4",
        "POOLS": '{"api": 2}',
        "HISTORY": "7d",
        "REDACT": "email, $.a.b",
        "REDACT_PATTERNS": "\\d{3},\\d\nx",
    }.items():
        monkeypatch.setenv(f"ETL_{name}", value)

    from_environment = load_settings()
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ETL_{name.upper()}")
    (folder / "etl.ini").write_text(
        "[etl]\ndatabase_url = postgresql://u@h/d\npooled = yes\nlease = 1m\ngrace = 5\njobs = a, b.c\n"
        "max_runs = 3\nconnections = 4\nhistory = 7d\n"
        "redact = email, $.a.b\nredact_patterns =\n  \\d{3},\\d\n  x\n[pools]\napi = 2\n"
    )
    from_ini = load_settings()

    assert expected == tuple(getattr(from_ini, name) for name in Settings.model_fields)
    assert expected == tuple(getattr(from_file, name) for name in Settings.model_fields)
    assert expected == tuple(getattr(from_environment, name) for name in Settings.model_fields)


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("etl.toml", 'leese = "5s"', ["etl.toml leese", "'leese'", "did you mean lease?"]),
        (
            "etl.toml",
            "batch_size = 5",
            ["etl.toml batch_size", "; there are database_url", "of a job in [pipeline.JOB]"],
        ),
        ("etl.toml", "[pipelines.x]\npool = 5", ["etl.toml pipelines", "did you mean pipeline? There are"]),
        ("etl.ini", "[etl]\nbatch_size = 5", ["of a job in [pipeline:JOB]"]),
        ("etl.ini", "[etl]\nleese = 5s", ["etl.ini [etl] leese", "'leese'", "did you mean lease?"]),
        ("etl.ini", "[etl]\nlease = soon", ["etl.ini [etl] lease", "'soon'", "30s"]),
        ("etl.ini", "[etl]\nmax_runs = 0", ["etl.ini [etl] max_runs", "1"]),
        ("etl.ini", "[pools]\napi = many", ["etl.ini [pools] pools", "integer"]),
        ("etl.ini", "[etl]\nlease = 5s\nlease = 6s", ["etl.ini", "cannot be read", "lease"]),
        ("etl.ini", "lease = 5s", ["etl.ini", "cannot be read", "section"]),
        ("etl.ini", "[settings]\nlease = 5s", ["etl.ini", "no section [settings]", "[pipeline:JOB]"]),
        ("etl.ini", "[DEFAULT]\nlease = 5s", ["etl.ini", "no section [DEFAULT]"]),
        ("etl.ini", "[pipeline:]\npool = x", ["etl.ini", "no section [pipeline:]"]),
        ("etl.ini", "[pipeline:a]\npool = x\n[pipeline: a]\npool = y", ["etl.ini", "no section [pipeline: a]"]),
        ("etl.ini", "[etl]\npipeline = x", ["etl.ini [etl]", "pipeline", "[pipeline:JOB]"]),
        ("etl.toml", "pipeline = 5", ["etl.toml", "pipeline is not a table", "[pipeline.JOB]"]),
        ("etl.toml", "[pipeline]\nflights = 5", ["etl.toml [pipeline.flights]", "5 is not a table"]),
        ("pyproject.toml", "[tool.etl.pipeline]\nx = 5", ["pyproject.toml [tool.etl.pipeline.x]", "not a table"]),
        ("etl.toml", 'lease = "soon"', ["lease", "'soon'", "30s"]),
        ("etl.toml", "lease = -1", ["lease", "-1"]),
        ("etl.toml", 'lease = "25h"', ["lease", "over a day"]),
        ("etl.toml", "lease = 0.4", ["lease", "500 ms"]),
        ("etl.toml", "lease = inf", ["lease", "inf"]),
        ("etl.toml", "max_runs = 0", ["max_runs", "1"]),
        ("etl.toml", 'pooled = "perhaps"', ["pooled", "boolean"]),
        ("etl.toml", "database_url = 5", ["database_url", "string"]),
        ("etl.toml", 'jobs = ["a", 5]', ["jobs", "string"]),
        ("etl.toml", "lease = ", ["etl.toml", "cannot be read"]),
        ("pyproject.toml", "[tool]\netl = 5", ["pyproject.toml", "[tool.etl]"]),
        ("pyproject.toml", '[tool.etl]\nleese = "5s"', ["'leese'"]),
    ],
)
def test_what_cannot_be_right_is_named_with_what_is_wrong(folder: Path, file: str, text: str, named: list[str]) -> None:
    (folder / file).write_text(text)

    with pytest.raises(ConfigurationError) as refusal:
        load_settings()

    assert [] == [piece for piece in named if piece not in str(refusal.value)], str(refusal.value)
    assert refusal.value.remedy


def test_all_wrong_settings_are_named_at_once_and_the_variable_where_one_is_meant(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "etl.toml").write_text('grace = "x"\n')
    monkeypatch.setenv("ETL_LEASE", "y")

    with pytest.raises(ConfigurationError) as refusal:
        load_settings()

    assert "ETL_LEASE: 'y'" in str(refusal.value)
    assert "grace: 'x'" in str(refusal.value)


def test_a_variable_that_should_be_json_and_is_not_is_refused_with_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_POOLS", "{api: 4}")

    with pytest.raises(ConfigurationError) as refusal:
        load_settings()

    expected = """ETL_POOLS: is not JSON (e.g. ETL_POOLS='{"api": 4}')"""
    assert expected == str(refusal.value)


def test_the_password_in_the_url_is_in_no_message_and_no_repr(folder: Path) -> None:
    (folder / "etl.toml").write_text('database_url = "postgresql://u:S3cret@h/d"\nlease = "x"\n')

    with pytest.raises(ConfigurationError) as refusal:
        load_settings()
    (folder / "etl.toml").write_text('database_url = "postgresql://u:S3cret@h/d"\n')
    settings = load_settings()

    assert "S3cret" not in str(refusal.value)
    assert "S3cret" not in repr(settings)
    assert "S3cret" in settings.database_url


def test_exactly_one_file_is_read_and_those_that_are_not_are_known(folder: Path) -> None:
    """etl.toml, then etl.ini, then pyproject.toml; one that says nothing is passed over, a broken one behind it harms nobody."""
    (folder / "pyproject.toml").write_text('[tool.etl]\nlease = "11s"\n')
    last = read_settings_file(folder)

    (folder / "etl.ini").write_text("[etl]\nlease = 22s\n")
    second = read_settings_file(folder)

    (folder / "etl.toml").write_text("# nothing\n")
    empty = read_settings_file(folder)

    (folder / "etl.toml").write_text('lease = "33s"\n')
    (folder / "etl.ini").write_text("broken")
    first = read_settings_file(folder)

    read = [(file.name, file.values["lease"], file.unread) for file in (last, second, empty, first)]
    assert [
        ("pyproject.toml", "11s", ()),
        ("etl.ini", "22s", ("pyproject.toml",)),
        ("etl.ini", "22s", ("pyproject.toml",)),
        ("etl.toml", "33s", ("pyproject.toml",)),
    ] == read


@pytest.mark.parametrize(
    ("file", "text", "section"),
    [
        (
            "etl.toml",
            '[pipeline.flights]\nschedule.cron-2 = "@daily"\nmax_quarantined = "2%"\n',
            "etl.toml [pipeline.flights]",
        ),
        (
            "etl.ini",
            "[pipeline:flights]\n# a comment\nschedule.cron-2 = @daily\nmax_quarantined = 2%\n",
            "etl.ini [pipeline:flights]",
        ),
        (
            "pyproject.toml",
            '[tool.etl.pipeline.flights]\n"schedule.cron-2" = "@daily"\nmax_quarantined = "2%"\n',
            "pyproject.toml [tool.etl.pipeline.flights]",
        ),
    ],
)
def test_sections_about_jobs_are_read_from_each_file_and_are_no_settings_of_ours(
    folder: Path, file: str, text: str, section: str
) -> None:
    (folder / file).write_text(text)

    written = written_overrides(folder, {"etl_pipeline__flights__pool": "api", "ETL_PIPELINES": "x", "PATH": "y"})

    assert Settings() == load_settings()
    assert (
        JobSetting("flights", "schedule.cron-2", "@daily", section),
        JobSetting("flights", "max_quarantined", "2%", section),
    ) == written.sections
    assert {"etl_pipeline__flights__pool": "api"} == written.variables


def test_names_that_toml_would_take_apart_are_shown_as_they_must_be_written(folder: Path) -> None:
    (folder / "etl.toml").write_text('[pipeline."two.parts"]\npool = "x"\n')

    sections = written_overrides(folder, {}).sections

    assert [('etl.toml [pipeline."two.parts"]', "two.parts")] == [(each.section, each.job) for each in sections]


@pytest.mark.parametrize(
    ("file", "text", "lease", "pools"),
    [
        ("etl.toml", 'lease = "5s"\n[pools]\napi = 1', "etl.toml", "etl.toml [pools]"),
        ("etl.ini", "[etl]\nlease = 5s\n[pools]\napi = 1", "etl.ini [etl]", "etl.ini [pools]"),
        (
            "pyproject.toml",
            '[tool.etl]\nlease = "5s"\n[tool.etl.pools]\napi = 1',
            "pyproject.toml [tool.etl]",
            "pyproject.toml [tool.etl.pools]",
        ),
    ],
)
def test_each_setting_is_known_with_the_place_it_comes_from(
    folder: Path, file: str, text: str, lease: str, pools: str
) -> None:
    (folder / file).write_text(text)

    origins = setting_origins(folder, {"ETL_GRACE": "1s"})

    assert (lease, pools, "ETL_GRACE", "default") == tuple(
        origins[name] for name in ("lease", "pools", "grace", "history")
    )
    assert {"api": 1} == load_settings().pools


@pytest.mark.parametrize("text", ["", "[tool.other]\nlease = 1\n", "tool = 5", "[tool.etl]", "[tool.etl"])
def test_a_pyproject_that_says_nothing_to_us_is_left_alone(folder: Path, text: str) -> None:
    """Somebody else's file: even one that is broken is for its own tools to complain about."""
    (folder / "pyproject.toml").write_text(text)

    assert Settings() == load_settings()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1m30s", 90), ("500ms", 0.5), ("2h", 7200), ("1d", 86400), ("1h 30m", 5400), (" 7 ", 7), ("2.5s", 2.5),
     (4, 4), (0.25, 0.25), (timedelta(minutes=3), 180), ("0", 0)],
)  # fmt: skip
def test_durations_are_read_as_people_write_them(text: int | float | str | timedelta, seconds: float) -> None:
    assert timedelta(seconds=seconds) == parse_duration(text)


@pytest.mark.parametrize(
    "text", ["", "s", "5 x", "5s later", "-1", "-1s", "nan", "inf", "1e400", "5s5", True, None, [5]]
)
def test_what_is_no_duration_is_refused_with_its_value(text: object) -> None:
    with pytest.raises(ValueError, match="is not a duration") as refusal:
        parse_duration(text)  # type: ignore[arg-type]

    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.004, "0.00 s"), (0.42, "0.42 s"), (9.994, "9.99 s"), (9.996, "10.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"),
     (132, "2 min 12 s"), (3599.6, "1 h 00 min"), (3900, "1 h 05 min")],
)  # fmt: skip
def test_seconds_are_shown_in_the_unit_people_think_in(seconds: float, shown: str) -> None:
    assert shown == format_duration(seconds)
