"""What to say of a message that reached no trigger. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


def nobody_wants(topic: str, subscribed: Iterable[str], declared: Mapping[str, Iterable[str]]) -> str:
    """One sentence about a message to this topic that was sent to nobody, and is kept for nobody.

    `subscribed`  topics of all jobs that a worker has served.
    `declared`    topic -> names of the jobs here that want it, served or not.
    """
    if topic in declared:
        jobs = ", ".join(sorted(declared[topic]))
        hint = f"{jobs} will be heard of when a worker serves it: etl worker"
        return f"{topic}: nobody wants it yet, it is not kept ({hint})"
    near = difflib.get_close_matches(topic, sorted({*subscribed, *declared}), n=2)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else "a job is heard of when a worker first serves it: etl worker"
    )
    return f"{topic}: nobody wants it, it is not kept ({hint})"
