"""What is said arrives as it was said, on a terminal and elsewhere."""

from __future__ import annotations

import pytest

from etl.cli import talk

ODD = "no job ':bug:' in [red]here[/red]: \x1b[2J"
AS_SAID = "no job ':bug:' in [red]here[/red]: \\x1b[2J\n"


@pytest.fixture(params=["", "1"], ids=["a file", "as if on a terminal"])
def stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it goes: FORCE_COLOR makes rich take anything for a terminal."""
    monkeypatch.setenv("FORCE_COLOR", request.param)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    talk.screen.cache_clear()


@pytest.mark.usefixtures("stream")
def test_nothing_that_is_said_is_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    talk.say(ODD)

    assert ("", AS_SAID) == capsys.readouterr()


@pytest.mark.usefixtures("stream")
def test_nothing_that_is_shown_is_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    talk.show([ODD, ""])

    assert (f"{AS_SAID}\n", "") == capsys.readouterr()
