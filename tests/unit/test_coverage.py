"""What is left free between stretches, as the server names them in key order."""

from __future__ import annotations

import pytest

from etl.postgres.coverage import Key, free_stretches


def stretches(text: str) -> list[tuple[Key | None, Key, bool]]:
    """`"a-c e-g!"` -> from a to c, from e to g, which reaches the end; `-c` from the beginning."""
    found: list[tuple[Key | None, Key, bool]] = []
    for part in text.split():
        begin, end = part.rstrip("!").split("-")
        found.append(([begin] if begin else None, [end], part.endswith("!")))
    return found


@pytest.mark.parametrize(
    ("free", "after", "taken"),
    [
        ("-z", None, ""),
        ("b-z", "b", ""),
        ("", "z", ""),
        ("", None, "-z!"),
        ("c-z", None, "-c"),
        ("-c g-z", None, "c-g"),
        ("g-z", "c", "c-g"),
        ("c-e g-z", None, "-c e-g"),
        ("c-e", None, "-c e-z!"),
        ("k-z", None, "-c c-g g-k"),
        ("k-m", "b", "b-g g-k m-q!"),
    ],
)
def test_what_is_left_is_what_nobody_has(free: str, after: str | None, taken: str) -> None:
    left = free_stretches(None if after is None else [after], ["z"], stretches(taken))

    assert [(begin, end) for begin, end, _ in stretches(free)] == list(left)
