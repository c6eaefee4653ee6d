"""What makes two rows set aside for the same reason."""

from __future__ import annotations

import pytest

from etl.core.fingerprint import fingerprint, masked, own_frame
from etl.core.sanitise import ErrorText

JOB = "/srv/shop/jobs/orders.py"
LIBRARY = "/srv/.venv/lib/python3.11/site-packages/httpx/_client.py"
STANDARD = "/usr/lib/python3.11/json/decoder.py"
DRIVER = "/srv/.venv/lib/python3.11/site-packages/asyncpg/connection.py"
OURS = "/srv/.venv/lib/python3.11/site-packages/etl/postgres/database.py"


def told(*frames: tuple[str, int, str]) -> str:
    """A traceback's text."""
    lines = [f'  File "{path}", line {line}, in {name}\n    something()\n' for path, line, name in frames]
    return "Traceback (most recent call last):\n" + "".join(lines) + 'ValueError: said File "x", line 1, in y\n'


@pytest.mark.parametrize(
    ("traceback", "expected"),
    [
        (told((JOB, 4, "outer"), (JOB, 9, "geocode"), (LIBRARY, 7, "get")), "jobs/orders.py:9 in geocode"),
        (told((JOB, 9, "geocode"), (STANDARD, 7, "loads")), "jobs/orders.py:9 in geocode"),
        (told((r"C:\shop\jobs\orders.py", 9, "geocode")), "jobs/orders.py:9 in geocode"),
        (told(("/orders.py", 9, "<module>")), "orders.py:9 in <module>"),
        (told((LIBRARY, 7, "get"), (STANDARD, 8, "loads")), "httpx/_client.py:7 in get"),
        (told((OURS, 7, "unit"), (OURS, 8, "fetch")), None),
        (told((OURS, 7, "unit"), (DRIVER, 8, "fetch")), None),
        (told((JOB, 9, "ask"), (DRIVER, 8, "fetch")), "jobs/orders.py:9 in ask"),
        (told((JOB, 9, "first")) + "\nDuring handling of the above ...\n\n" + told((JOB, 12, "then")),
         "jobs/orders.py:12 in then"),
        ("", None),
    ],
    ids=["library", "standard", "windows", "root", "nobody's", "framework", "the sink", "a query of theirs", "chained", "none"],
)  # fmt: skip
def test_the_place_of_an_error_is_the_innermost_line_of_the_users_own_code(
    traceback: str, expected: str | None
) -> None:
    assert expected == own_frame(traceback)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("row 17 is no good", "row # is no good"),
        ("no airport 'XYZ' at \"12\"", "no airport # at #"),
        ("order 3F9c2ab1-0000-4000-8000-00deadbeef00 is gone", "order # is gone"),
        ("<object at 0x7f3a12ffeb>", "<object at #>"),
        ("trace deadbeefdeadbeef", "trace #"),
        ("effaced 1.5e3", "effaced #.#e#"),
    ],
)
def test_what_varies_in_a_message_is_masked(message: str, expected: str) -> None:
    assert expected == masked(message)


def told_by(
    frame: str | None = "jobs/orders.py:9 in geocode",
    *,
    stage: str = "geocode",
    kind: str = "ValueError",
    message: str = "row 1 is no good",
) -> str:
    return fingerprint(stage, ErrorText(kind, message, ""), frame)


def test_rows_that_failed_alike_have_one_fingerprint_whatever_line_it_was() -> None:
    here = told_by()

    assert here == told_by("jobs/orders.py:11 in geocode", message="row 20 is no good")
    others = {
        told_by(stage="other"),
        told_by(kind="KeyError"),
        told_by(message="row 1 is bad"),
        told_by("jobs/orders.py:9 in lookup"),
        told_by(None),
    }
    assert 5 == len(others - {here})
