"""Settings: flags, then ETL_... variables, then one file (etl.toml, etl.ini or pyproject.toml), then defaults.

The first file that says anything is read, and no other. Sections about jobs are only read here: what they mean is
told by `core.overrides`, which knows the jobs.
"""

from __future__ import annotations

import configparser
import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from etl.durations import parse_duration
from etl.errors import ConfigurationError

Span = Annotated[timedelta, BeforeValidator(parse_duration)]

PREFIX = "ETL_"
# Variables about a job: ETL_PIPELINE__FLIGHTS__BATCH_SIZE.
JOB_PREFIX = "ETL_PIPELINE__"
# Variables that are no settings: where the embedded server's programs are, and whose account it runs as.
OTHER_VARIABLES = ("PG_BIN", "PG_OS_USER")
DEFAULT = "default"


class Settings(BaseSettings):
    """What can be set from outside the job modules.

    `database_url`  the server; empty: an embedded one under `.etl/`.
    `pooled`        the server is reached through a transaction-pooling proxy.
    `lease`         how long a run stays its owner's without a sign of life.
    `grace`         how long a shutdown waits for what is in hand.
    `jobs`          packages with job modules, looked for in the folder one stands in.
    `max_runs`      runs at the same time in one worker.
    `pools`         limits on runs that are active at once in the whole cluster, by name; jobs name theirs.
    `history`       how long finished runs with their spans and log lines, ticks and messages are kept.
    `redact`        keys and paths whose values are blanked in all jobs, besides passwords, tokens and the like.
    `redact_patterns`  regular expressions for texts that are blanked wherever they occur.
    `connections`   connections to the server at the same time in one process, the heartbeat's apart.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    database_url: str = Field(default="", repr=False)
    pooled: bool = False
    lease: Span = timedelta(seconds=30)
    grace: Span = timedelta(seconds=25)
    jobs: Annotated[tuple[str, ...], NoDecode] = ("jobs",)
    max_runs: int = Field(default=10, ge=1, le=1000)
    connections: int = Field(default=20, ge=2, le=1000)
    pools: dict[str, Annotated[int, Field(ge=1, le=1000)]] = Field(default_factory=dict)
    history: Span = timedelta(days=90)
    redact: Annotated[tuple[str, ...], NoDecode] = ()
    redact_patterns: Annotated[tuple[str, ...], NoDecode] = ()

    @field_validator("redact_patterns", mode="before")
    @classmethod
    def _lines(cls, value: Any) -> Any:
        """From the environment and etl.ini: one a line, since patterns have commas."""
        if isinstance(value, str):
            return tuple(line.strip() for line in value.splitlines() if line.strip())
        return value

    @field_validator("jobs", "redact", mode="before")
    @classmethod
    def _names(cls, value: Any, info: ValidationInfo) -> Any:
        """From the environment and etl.ini: names with commas between them."""
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("lease")
    @classmethod
    def _long_enough(cls, value: timedelta) -> timedelta:
        if value < timedelta(milliseconds=500):
            raise ValueError("a lease under 500 ms cannot be kept")
        if value > timedelta(days=1):
            raise ValueError("a lease over a day keeps the rows of a dead process too long")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, _FileSettings(settings_cls))


class _FileSettings(PydanticBaseSettingsSource):
    """The settings file of the current folder, without its sections about jobs."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(read_settings_file(Path.cwd()).values)


@dataclass(frozen=True, slots=True)
class JobSetting:
    """One key of a section about a job. `section` says where: "etl.ini [pipeline:flights]"."""

    job: str
    key: str
    value: Any
    section: str


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """What the one settings file says. `unread` are files that say something too, and are not listened to."""

    name: str | None
    values: Mapping[str, Any]
    jobs: tuple[JobSetting, ...] = ()
    unread: tuple[str, ...] = ()

    def place(self, key: str) -> str:
        """The file and section that `key` stands in, for people."""
        section = {"etl.ini": "etl", "pyproject.toml": "tool.etl"}.get(self.name or "", "")
        if key == "pools":
            section = "pools" if self.name == "etl.ini" else f"{section}.pools".lstrip(".")
        return f"{self.name} [{section}]" if section else str(self.name)


def read_settings_file(folder: Path) -> SettingsFile:
    """The first file of a folder that says anything: etl.toml, etl.ini, pyproject.toml. Raises `ConfigurationError`."""
    chosen: SettingsFile | None = None
    for name, read in (("etl.toml", _read_toml), ("etl.ini", _read_ini), ("pyproject.toml", _read_pyproject)):
        try:
            data = read((folder / name).read_text(encoding="utf-8-sig"))
            if data and chosen is not None:
                chosen = replace(chosen, unread=(*chosen.unread, name))
            elif data:
                sections = tuple(_job_sections(name, data.pop("pipeline", {})))
                chosen = SettingsFile(name, data, sections)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ConfigurationError, UnicodeDecodeError, OSError) as error:
            if chosen is not None or (name == "pyproject.toml" and not isinstance(error, ConfigurationError)):
                continue  # nobody asks it, or it is somebody else's: its own tools will complain
            raise error if isinstance(error, ConfigurationError) else _unreadable(name, error) from None
    return chosen or SettingsFile(None, {})


def _read_toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _unreadable("etl.toml", error) from None


def _read_pyproject(text: str) -> dict[str, Any]:
    try:
        data: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}  # somebody else's file: its own tools will complain
    for key in ("tool", "etl"):
        data = data.get(key, {}) if isinstance(data, dict) else {}
    if not isinstance(data, dict):
        raise ConfigurationError(
            "[tool.etl] is not a table", setting="pyproject.toml", remedy='write lease = "30s" below it'
        )
    return data


def _read_ini(text: str) -> dict[str, Any]:
    """`[etl]`, `[pools]` and `[pipeline:JOB]`, in the shape that the other files have; values are text."""
    # No interpolation: "2%" is a value. No section is copied into the others. `#` inside a value belongs to it.
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read_string(text, source="etl.ini")
    except configparser.Error as error:
        raise _unreadable("etl.ini", error) from None
    data: dict[str, Any] = {}
    jobs: dict[str, Any] = {}
    for section in parser.sections():
        kind, colon, job = (part.strip() for part in section.partition(":"))
        values = dict(parser.items(section))
        if (kind, colon) == ("etl", ""):
            data |= values
        elif (kind, colon) == ("pools", ""):
            data["pools"] = values
        elif kind == "pipeline" and job and job not in jobs:
            jobs[job] = values
        else:
            raise ConfigurationError(
                f"there is no section [{section}]",
                setting="etl.ini",
                remedy="there are [etl], [pools] and one [pipeline:JOB] for each job",
            )
    if "pipeline" in data:
        raise ConfigurationError(
            "pipeline is not a setting", setting="etl.ini [etl]", remedy="write a section [pipeline:JOB]"
        )
    return data | ({"pipeline": jobs} if jobs else {})


def _unreadable(name: str, error: Exception) -> ConfigurationError:
    reason = " ".join(str(error).split())
    return ConfigurationError(f"cannot be read: {reason}", setting=name, remedy="correct the file")


def _job_sections(name: str, sections: Any) -> Iterator[JobSetting]:
    shape = _job_section(name)
    if not isinstance(sections, dict):
        raise ConfigurationError(
            "pipeline is not a table", setting=name, remedy=f"write a section {shape % 'JOB'} for each job"
        )
    for job, values in sections.items():
        section = f"{name} {shape % (job if name == 'etl.ini' else _toml_key(job))}"
        if not isinstance(values, dict):
            raise ConfigurationError(f"{values!r} is not a table", setting=section, remedy="write key = value below it")
        for key, value in _flat(values):
            yield JobSetting(job, key, value, section)


def _job_section(file: str | None) -> str:
    """How a file begins its section about a job, with %s for the job."""
    return {"etl.ini": "[pipeline:%s]", "etl.toml": "[pipeline.%s]"}.get(str(file), "[tool.etl.pipeline.%s]")


def _toml_key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else f'"{name}"'


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """`schedule.cron-2 = ...` is a table inside a table in TOML."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


@dataclass(frozen=True, slots=True)
class WrittenOverrides:
    """What is said about jobs: by the settings file, and by variables (name as set -> text), which win over it."""

    sections: tuple[JobSetting, ...] = ()
    variables: Mapping[str, str] | None = None

    def __bool__(self) -> bool:
        return bool(self.sections or self.variables)


def written_overrides(folder: Path, environment: Mapping[str, str]) -> WrittenOverrides:
    """What is said about jobs in a folder and an environment. Raises `ConfigurationError`."""
    variables = {name: text for name, text in environment.items() if name.upper().startswith(JOB_PREFIX)}
    return WrittenOverrides(read_settings_file(folder).jobs, variables)


def known_variables() -> list[str]:
    """The names of all variables but those about a job, without their prefix."""
    return [*(name.upper() for name in Settings.model_fields), *OTHER_VARIABLES]


def setting_origins(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Where each general setting comes from: a variable's name, a file's with its section, or "default"."""
    file = read_settings_file(folder)
    set_here = {name.upper(): name for name in environment}
    return {
        name: set_here.get(f"{PREFIX}{name.upper()}") or (file.place(name) if name in file.values else DEFAULT)
        for name in Settings.model_fields
    }


def load_settings(**flags: Any) -> Settings:
    """The settings of this process. Raises `ConfigurationError` naming each setting that cannot be right."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        file = read_settings_file(Path.cwd())
        problems = "; ".join(_problem(each, file) for each in error.errors(include_input=False))
        raise ConfigurationError(
            problems, setting="settings", remedy="see ETL_... variables, etl.toml, etl.ini or pyproject.toml"
        ) from None
    except SettingsError:  # only `pools` is a variable in JSON; the cause has its text
        raise ConfigurationError(
            "is not JSON", setting=f"{PREFIX}POOLS", remedy=f"""e.g. {PREFIX}POOLS='{{"api": 4}}'"""
        ) from None


def _problem(fault: ErrorDetails, file: SettingsFile) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else "settings"
    place = f"{file.place(name)} {name}" if name in file.values else name
    if fault["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, (*Settings.model_fields, "pipeline"), n=1)
        hint = f"did you mean {close[0]}? There are" if close else "there are"
        known = f"{', '.join(Settings.model_fields)}, and those of a job in {_job_section(file.name) % 'JOB'}"
        return f"{place}: there is no setting {name!r}; {hint} {known}"
    variable = f"{PREFIX}{name.upper()}"
    return f"{variable if variable in os.environ else place}: {fault['msg'].removeprefix('Value error, ')}"
