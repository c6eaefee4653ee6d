"""A message that reached nobody: what is said about it."""

from __future__ import annotations

import pytest

from etl.core.topics import nobody_wants


@pytest.mark.parametrize(
    ("topic", "hint"),
    [
        ("ordesr", "nobody wants it, it is not kept (did you mean orders?)"),
        ("refund", "nobody wants it, it is not kept (did you mean refunds?)"),
        ("weather", "nobody wants it, it is not kept (a job is heard of when a worker first serves it: etl worker)"),
        ("orders", "nobody wants it yet, it is not kept (news will be heard of when a worker serves it: etl worker)"),
    ],
)
def test_a_topic_that_nobody_wants_is_told_with_what_was_meant(topic: str, hint: str) -> None:
    assert f"{topic}: {hint}" == nobody_wants(topic, ["refunds"], {"orders": ["news"]})
