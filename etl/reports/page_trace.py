"""What the page tells of a run's evidence: its waterfall, its log lines, its claim, its settings. Cut to what fits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from etl.core.evidence import ClaimPlan, Evidence, LoggedLine, Traced
from etl.core.origins import Setting
from etl.core.report import RunDetail
from etl.core.sanitise import redact
from etl.reports import lanes, svg
from etl.reports.waterfall import Close, Closer, lay_out

_TROUBLE = ("warning", "error", "critical")


@dataclass(frozen=True, slots=True)
class Room:
    """How much of the evidence a page shows: batches that are looked at closer, lines of the log, characters."""

    close: Close
    lines: int
    text: int
    sql: int


def evidence_facts(detail: RunDetail, evidence: Evidence, room: Room, seconds: float) -> dict[str, Any]:
    """For the template. Without spans the timeline is that of the ledger."""
    return {
        **_timeline(detail, evidence.traced, room, seconds),
        **_log(evidence.traced, room),
        "claim": _claim(evidence.claim, room),
        "settings": [(key, _value(each, room), each.origin) for key, each in evidence.settings.items()],
        "versions": evidence.versions,
    }


def _timeline(detail: RunDetail, traced: Traced, room: Room, seconds: float) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "timeline": None,
        "waterfall": None,
        "batches_shown": len(detail.batches),
        "batches_total": detail.batches_total,
        "spans_lost": traced.spans_lost,
    }
    if not any(span.parent_id == traced.root_id for span in traced.spans):
        if detail.batches:
            facts["timeline"] = svg.waterfall(detail.batches, seconds, detail.report.slices, detail.batches_total)
        return facts
    found = lay_out(traced, detail.batches, seconds, total=detail.batches_total, close=room.close)
    label = f"{len(found.lanes)} lanes of spans on the time of the run; their names and words are in the lists beside"
    return facts | {
        "waterfall": {
            "lanes": [_lane(lane, room) for lane in found.lanes],
            "chart": lanes.draw(found.lanes, found.seconds, label, zoomable=True),
            "closer": [_closer(each, room) for each in found.closer],
            "spanless": found.spanless,
        },
        "batches_shown": found.shown,
    }


def _lane(lane: lanes.Lane, room: Room) -> dict[str, Any]:
    return {"name": cut(lane.name, 60), "words": cut(lane.words, room.text), "depth": lane.depth, "tall": lane.tall}


def _closer(closer: Closer, room: Room) -> dict[str, Any]:
    label = f"{len(closer.lanes)} spans on the time of this batch; their names and words are in the lists beside"
    return {
        "title": closer.title,
        "start_s": closer.start_s,
        "lanes": [_lane(lane, room) for lane in closer.lanes],
        "chart": lanes.draw(closer.lanes, closer.seconds, label, start_s=closer.start_s),
        "notes": [(at_s, cut(text, room.text)) for at_s, text in closer.notes],
        "left_out": closer.left_out,
        "spans_left_out": closer.spans_left_out,
    }


def _log(traced: Traced, room: Room) -> dict[str, Any]:
    """Of too many lines the first and the last third, and the warnings and errors between that there is room for."""
    kept = list(traced.lines)
    if len(kept) > room.lines:
        third = room.lines // 3
        middle = [line for line in kept[third:-third] if line.level in _TROUBLE][:third]
        kept = [*kept[:third], *middle, *kept[-third:]]
    return {
        "lines": [_line(line, before, room) for line, before in zip(kept, [None, *kept], strict=False)],
        "lines_logged": traced.lines_logged,
        "lines_left_out": max(0, traced.lines_logged - len(kept)),
        "lines_lost": traced.lines_lost,
        "lines_with_trouble": sum(line.level in _TROUBLE for line in kept),
    }


def _line(line: LoggedLine, before: LoggedLine | None, room: Room) -> dict[str, Any]:
    return {
        "at": f"{line.at:%H:%M:%S}.{line.at.microsecond // 1000:03d}",
        "level": line.level,
        "trouble": line.level in _TROUBLE,
        "logger": cut(line.logger, 60),
        "message": cut(line.message, room.text),
        "exception": tail(line.exception, 2 * room.text) if line.exception else None,
        "gap": line.number - (-1 if before is None else before.number) - 1,
    }


def _claim(claim: ClaimPlan, room: Room) -> dict[str, Any]:
    return {
        "sql": cut(claim.sql, room.sql),
        "parameters": [cut(each, 300) for each in claim.parameters],
        "plan": cut(claim.plan, room.sql),
        "problem": cut(claim.problem, room.text),
    }


def _value(setting: Setting, room: Room) -> str:
    value = setting.value
    if value is None or value in ("", {}):
        return "-"
    return cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), room.text)


def cut(text: str, limit: int) -> str:
    """The beginning of a text, with its secrets blanked before."""
    text = redact(text)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters in all)"


def tail(text: str, limit: int) -> str:
    """The end of a traceback says what happened."""
    text = redact(text)
    return text if len(text) <= limit else f"... {text[-limit:]}"
