"""Spans of the SDK without what the rules of redaction in force call secret: those of users go out as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Status

from etl.core.redaction import rules


def blanked(span: ReadableSpan) -> ReadableSpan:
    """The span itself, or a copy where there is something to blank. Call in the context in which it ends."""
    name, status = rules().text(span.name), _status(span.status)
    attributes = _attributes(span.attributes)
    events = [_event(event) for event in span.events]
    same = attributes is span.attributes and all(new is old for new, old in zip(events, span.events, strict=True))
    if same and name == span.name and status is span.status:
        return span
    return ReadableSpan(
        name=name,
        context=span.get_span_context(),
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        events=events,
        links=span.links,
        kind=span.kind,
        status=status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _status(status: Status) -> Status:
    told = status.description and rules().text(status.description)
    return status if told == status.description else Status(status.status_code, told)


def _event(event: Event) -> Event:
    attributes = _attributes(event.attributes)
    return event if attributes is event.attributes else Event(event.name, attributes, event.timestamp)


def _attributes(attributes: Mapping[str, Any] | None) -> Any:
    if not attributes:
        return attributes
    told = {name: rules().fact(name, value) for name, value in attributes.items()}
    return attributes if all(told[name] == value for name, value in attributes.items()) else told
