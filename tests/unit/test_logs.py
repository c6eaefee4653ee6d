"""Log lines: JSON for machines, one readable line for people, never a secret."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from opentelemetry.sdk.trace import TracerProvider

from etl.telemetry.logs import JsonFormatter, TerminalFormatter, set_up_logging


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The `etl` logger, put back afterwards."""
    logger = logging.getLogger("etl")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield logger
    logger.handlers[:], logger.level, logger.propagate = before


def record(message: str = "run ended", *, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    """A record as `logger.info(message, extra=...)` makes it."""
    made = logging.LogRecord("etl.run", level, __file__, 1, message, (), None)
    made.created = 1357016400.25
    made.__dict__.update(extra)
    return made


def test_a_line_for_machines_has_time_level_logger_message_and_facts() -> None:
    line = json.loads(JsonFormatter().format(record(etl={"event": "run.ended", "job": "flights", "written": 25804})))

    assert line == {
        "time": "2013-01-01T05:00:00.250+00:00",
        "level": "info",
        "logger": "etl.run",
        "message": "run ended",
        "event": "run.ended",
        "job": "flights",
        "written": 25804,
    }


def test_the_time_has_an_offset() -> None:
    line = json.loads(JsonFormatter().format(record()))

    assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)


def test_what_a_processor_logs_says_whose_run_it_is() -> None:
    line = json.loads(JsonFormatter().format(record("odd row", run_id="r1", job="flights")))

    assert (line["run_id"], line["job"]) == ("r1", "flights")


def test_inside_a_span_a_line_tells_its_trace() -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("etl.run") as span:
        line = json.loads(JsonFormatter().format(record()))

    assert line["trace_id"] == format(span.get_span_context().trace_id, "032x")
    assert line["span_id"] == format(span.get_span_context().span_id, "016x")


def test_an_exception_is_one_field_of_the_line() -> None:
    try:
        raise ValueError("no good")
    except ValueError:
        made = record()
        made.exc_info = sys.exc_info()
    line = JsonFormatter().format(made)

    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: no good")


@pytest.mark.parametrize("where", ["message", "fact", "exception"])
@pytest.mark.parametrize("secret", ["password=hunter2", 'token: "hunter2', "postgresql://me:hunter2@host/db"])
def test_a_secret_is_blanked_and_the_line_stays_json(where: str, secret: str) -> None:
    made = record(secret if where == "message" else "run failed", etl={"error": secret if where == "fact" else None})
    if where == "exception":
        error = ValueError(secret)
        made.exc_info = (ValueError, error, None)

    machine, person = JsonFormatter().format(made), TerminalFormatter().format(made)

    assert "hunter2" not in machine + person
    assert json.loads(machine)["logger"] == "etl.run"


@given(
    st.text(),
    st.dictionaries(st.text(), st.text() | st.integers() | st.floats(allow_nan=False) | st.none() | st.booleans()),
)
def test_any_line_is_one_line_of_json(message: str, facts: dict[str, Any]) -> None:
    line = JsonFormatter().format(record(message.replace("%", "%%"), etl=facts))

    assert "\n" not in line
    assert json.loads(line).keys() >= {"time", "level", "logger", "message"}


def test_facts_without_a_json_form_are_told_as_text() -> None:
    line = json.loads(
        JsonFormatter().format(record(etl={"error": ValueError("no good"), "since": timedelta(seconds=5)}))
    )

    assert (line["error"], line["since"]) == ("no good", "0:00:05")


def test_a_line_for_people_shows_what_matters_in_a_fixed_order() -> None:
    line = TerminalFormatter().format(record(etl={"written": 3, "job": "flights", "event": "run.ended", "error": None}))

    assert line.endswith(" run ended  job=flights written=3")


def test_a_warning_is_marked_as_one() -> None:
    assert " warning: odd row" in TerminalFormatter().format(record("odd row", level=logging.WARNING))


def test_control_characters_of_a_row_do_not_reach_the_terminal() -> None:
    line = TerminalFormatter().format(record("\x1b[2J\r\u202egone"))

    assert not {"\x1b", "\r", "\u202e"} & set(line)


def test_on_a_terminal_lines_are_for_people_elsewhere_for_machines(logger: logging.Logger) -> None:
    terminal, file = Terminal(), io.StringIO()

    set_up_logging(stream=terminal)
    logger.info("to a person")
    set_up_logging(stream=file)
    logger.info("to a machine")

    assert terminal.getvalue().endswith("to a person\n")
    assert json.loads(file.getvalue())["message"] == "to a machine"


def test_setting_up_twice_logs_once(logger: logging.Logger) -> None:
    file = io.StringIO()

    set_up_logging(stream=file)
    set_up_logging(stream=file)
    logging.getLogger("etl.run").info("once")

    assert len(file.getvalue().splitlines()) == 1


def test_the_loggers_of_others_are_left_alone(logger: logging.Logger) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)

    set_up_logging(stream=io.StringIO())

    assert before == (root.handlers, root.level)
    assert not logger.propagate


def test_less_than_the_level_is_not_logged(logger: logging.Logger) -> None:
    file = io.StringIO()

    set_up_logging(level=logging.WARNING, stream=file)
    logger.info("chatter")
    logger.warning("matter")

    assert [json.loads(line)["message"] for line in file.getvalue().splitlines()] == ["matter"]
