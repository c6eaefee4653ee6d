"""A word about environment variables that are nearly settings: a typing error there is a default that nobody chose."""

from __future__ import annotations

import os
from pathlib import Path

from etl.cli.talk import say
from etl.config import JOB_PREFIX, PREFIX, Settings, known_variables
from etl.core.sink import RemoteTableSink
from etl.core.variables import misspelt
from etl.jobs import find_jobs


def warn_of_variables(settings: Settings) -> None:
    """Tell of each, unless a job's sink is reached by it; never what is in it."""
    suspects = misspelt(os.environ, PREFIX, known_variables(), JOB_PREFIX.removeprefix(PREFIX).removesuffix("__"))
    if not suspects:
        return
    sinks = [pipeline.sink for pipeline in find_jobs(settings.jobs, Path.cwd()).pipelines.values()]
    used = {sink.dsn_env for sink in sinks if isinstance(sink, RemoteTableSink)}
    for name, meant in suspects.items():
        if name not in used:
            say(f"etl: there is no variable {name}, it is not looked at (did you mean {meant}?)")
