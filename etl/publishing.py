"""Publishing a message, from any process that reaches the database."""

from __future__ import annotations

from typing import Any

from etl.postgres.publishing import send
from etl.telemetry.propagation import current_traceparent


async def publish(topic: str, /, **data: Any) -> int:
    """Send a message to every job with a `PubSubTrigger` on the topic; returns how many triggers that were.

    When this returns the message is stored and cannot be lost. `data` is what JSON can say. Inside a worker the
    process's own connections are used; elsewhere the settings (ETL_DATABASE_URL, else the project's embedded server)
    say where to. The caller's current OpenTelemetry span, if there is one, is where the run's trace goes on from.
    Raises `ConfigurationError` for data without a JSON form, `DatabaseUnavailableError`.
    """
    return await send(topic, data, current_traceparent())
