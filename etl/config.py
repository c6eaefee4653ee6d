"""Settings: flags, then ETL_... variables, then etl.toml or [tool.etl] of pyproject.toml, then defaults."""

from __future__ import annotations

import os
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from etl.durations import parse_duration
from etl.errors import ConfigurationError

Span = Annotated[timedelta, BeforeValidator(parse_duration)]


class Settings(BaseSettings):
    """What can be set from outside the job modules.

    `database_url`  the server; empty: an embedded one under `.etl/`.
    `pooled`        the server is reached through a transaction-pooling proxy.
    `lease`         how long a run stays its owner's without a sign of life.
    `grace`         how long a shutdown waits for what is in hand.
    `jobs`          packages with job modules, looked for in the folder one stands in.
    `max_runs`      runs at the same time in one worker.
    `pools`         limits on runs that are active at once in the whole cluster, by name; jobs name theirs.
    `history`       how long finished runs, ticks and messages are kept.
    `connections`   connections to the server at the same time in one process, the heartbeat's apart.
    """

    model_config = SettingsConfigDict(env_prefix="ETL_", extra="forbid", frozen=True)

    database_url: str = Field(default="", repr=False)
    pooled: bool = False
    lease: Span = timedelta(seconds=30)
    grace: Span = timedelta(seconds=25)
    jobs: Annotated[tuple[str, ...], NoDecode] = ("jobs",)
    max_runs: int = Field(default=10, ge=1, le=1000)
    connections: int = Field(default=20, ge=2, le=1000)
    pools: dict[str, Annotated[int, Field(ge=1, le=1000)]] = Field(default_factory=dict)
    history: Span = timedelta(days=90)

    @field_validator("jobs", mode="before")
    @classmethod
    def _names(cls, value: Any, info: ValidationInfo) -> Any:
        """From the environment: names with commas between them."""
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
    """`etl.toml`, else [tool.etl] of pyproject.toml, in the current folder."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return read_settings_file(Path.cwd())


def read_settings_file(folder: Path) -> dict[str, Any]:
    """The settings written down in a folder; empty when there are none. Raises `ConfigurationError`."""
    for name, section in (("etl.toml", ()), ("pyproject.toml", ("tool", "etl"))):
        path = folder / name
        try:
            data: Any = tomllib.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            if name == "pyproject.toml":
                continue  # somebody else's file: its own tools will complain
            raise ConfigurationError(f"cannot be read: {error}", setting=name, remedy="correct the file") from None
        for key in section:
            data = data.get(key, {}) if isinstance(data, dict) else {}
        if not isinstance(data, dict):
            raise ConfigurationError("[tool.etl] is not a table", setting=name, remedy='write lease = "30s" below it')
        if data:
            return data
    return {}


def load_settings(**flags: Any) -> Settings:
    """The settings of this process. Raises `ConfigurationError` naming each setting that cannot be right."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(_problem(each) for each in error.errors(include_input=False))
        raise ConfigurationError(
            problems, setting="settings", remedy="see ETL_... variables, etl.toml and [tool.etl] in pyproject.toml"
        ) from None


def _problem(fault: ErrorDetails) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else "settings"
    if fault["type"] == "extra_forbidden":
        return f"there is no setting {name!r}, only {', '.join(Settings.model_fields)}"
    variable = f"ETL_{name.upper()}"
    return f"{variable if variable in os.environ else name}: {fault['msg'].removeprefix('Value error, ')}"
