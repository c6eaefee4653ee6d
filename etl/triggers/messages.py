"""Triggers that messages fire: what somebody published, a web hook."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any

from etl.core.overlap import Overlap
from etl.core.trigger import Trigger
from etl.durations import Duration
from etl.errors import ConfigurationError

_LONGEST_TOPIC = 200
_PATH = re.compile(r"/[A-Za-z0-9._~/-]{0,199}")


class PubSubTrigger(Trigger):
    """Fires when something is published to a topic, from any process that reaches the database:

        await publish("orders.arrived", shop=7)          # Python
        etl publish orders.arrived --data '{"shop": 7}'  # command line
        SELECT etl.publish('orders.arrived', '{"shop": 7}')

    Messages are rows: none is lost, whenever it comes. With the default policy, `again`, those that come during a run
    are served by one more run that gets them all, as `cycle(messages=...)`, equal topic and data once. With `queue(n)`
    or `parallel(n)` each has a run of its own, and its data reach `cycle` by name.

    `topics`  one or more topics; a message is wanted from the moment that a worker first served the job.
    """

    kind = "pubsub"
    default_overlap = Overlap.again

    def __init__(
        self, *topics: str, overlap: str | Overlap | None = None, start_deadline: Duration | None = None
    ) -> None:
        super().__init__(overlap=overlap, start_deadline=start_deadline)
        if not topics:
            raise ConfigurationError("names no topic", setting="PubSubTrigger", remedy="e.g. PubSubTrigger('orders')")
        self.topics = tuple(checked_topic(topic, "PubSubTrigger") for topic in topics)

    @property
    def spec(self) -> str:
        return f"messages to {', '.join(self.topics)}"


class WebhookTrigger(Trigger):
    """Fires when a signed request comes in at a path.

    The request itself is received elsewhere: whoever receives it calls `deliver`, inside a worker.

    `path`    of the URL, from "/".
    `secret`  signs the body: the header `X-Signature-256: sha256=<hex>` (the form GitHub uses) holds its HMAC-SHA256.
              Without it anybody may fire the trigger.
    """

    kind = "webhook"

    def __init__(
        self,
        path: str,
        *,
        secret: str | None = None,
        overlap: str | Overlap | None = None,
        start_deadline: Duration | None = None,
    ) -> None:
        super().__init__(overlap=overlap, start_deadline=start_deadline)
        if not isinstance(path, str) or not _PATH.fullmatch(path):
            raise ConfigurationError(f"{path!r} is not a path", setting="WebhookTrigger", remedy="e.g. '/hooks/orders'")
        if secret is not None and (not isinstance(secret, str) or len(secret) < 16):
            raise ConfigurationError(
                "the secret is shorter than 16 characters", setting="WebhookTrigger", remedy="use a long random one"
            )
        self.path = path
        self._secret = secret

    @property
    def spec(self) -> str:
        return f"web hook {self.path}"

    def accepts(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether the signature is right; compared in constant time."""
        if self._secret is None:
            return True
        given = _header(headers, "X-Signature-256") or _header(headers, "X-Hub-Signature-256") or ""
        right = "sha256=" + hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()
        return hmac.compare_digest(given.encode(), right.encode())

    async def deliver(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Fire for a request; False (and nothing happens) if its signature is wrong.

        The header `Idempotency-Key` (or `X-GitHub-Delivery`) names the request: sent again, it fires once. The body, a
        JSON object, reaches `cycle` by name; anything else as `data`. The run goes on in the trace that the header
        `traceparent` names. Raises `ConfigurationError` outside a worker.
        """
        if not self.accepts(headers, body):
            return False
        key = _header(headers, "Idempotency-Key") or _header(headers, "X-GitHub-Delivery")
        await self._fire(_arguments(body), key, _header(headers, "traceparent"))
        return True


def checked_topic(topic: Any, setting: str) -> str:
    """A topic's name. Raises `ConfigurationError`."""
    if not isinstance(topic, str) or not topic.strip() or len(topic) > _LONGEST_TOPIC or not topic.isprintable():
        raise ConfigurationError(
            f"{topic!r} is not a topic", setting=setting, remedy=f"use printable text of at most {_LONGEST_TOPIC}"
        )
    return topic


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for each, value in headers.items() if each.lower() == name.lower()), None)


def _arguments(body: bytes) -> dict[str, Any]:
    try:
        read = json.loads(body) if body else {}
    except ValueError:
        return {"data": body.decode("utf-8", "replace")}
    return read if isinstance(read, dict) else {"data": read}
