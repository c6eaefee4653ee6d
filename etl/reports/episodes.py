"""What is wrong with a job, in a line."""

from __future__ import annotations

from etl.core.episode import Episode
from etl.reports.words import one_line


def episode_text(episode: Episode) -> str:
    """`LATE since 2024-02-29 04:30 UTC: run 0190a1b2 of flights is still going ...`; in the past where it is over."""
    text = one_line(episode.text)
    if episode.closed_at is None:
        return f"{episode.kind.upper()} since {episode.opened_at:%Y-%m-%d %H:%M %Z}: {text}"
    when = f"from {episode.opened_at:%Y-%m-%d %H:%M:%S} to {episode.closed_at:%H:%M:%S %Z}"
    return f'was {episode.kind} {when}: "{text}"'
