"""Scheduled batches over a Postgres table you already have."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from etl.core.after import AfterTrigger
from etl.core.context import Context
from etl.core.event import Event, EventKind
from etl.core.message import Message
from etl.core.overlap import Missed, Overlap
from etl.core.pipeline import Pipeline
from etl.core.processor import Processor, processor
from etl.core.retry import Retry
from etl.core.sink import Sink
from etl.core.source import TriggerSource
from etl.core.sql_processor import SqlProcessor
from etl.core.trigger import ClockTrigger, OpportunisticTrigger, Trigger
from etl.errors import ConfigurationError, EtlError
from etl.sinks.postgres import PostgresSink
from etl.sinks.pprint import PPrintSink
from etl.sinks.remote import RemotePostgresSink
from etl.sources.batch import BatchProcessingSource
from etl.triggers.cron import CronTrigger
from etl.triggers.daily import DailyTrigger, OnceTrigger
from etl.triggers.every import every
from etl.triggers.messages import PubSubTrigger, WebhookTrigger
from etl.triggers.named import daily, heartbeat, hourly, minutely, monthly, weekly, yearly
from etl.triggers.once import RunOnceTrigger
from etl.triggers.periodic import PeriodicTrigger

if TYPE_CHECKING:
    from etl.publishing import publish

__all__ = [
    "AfterTrigger",
    "BatchProcessingSource",
    "ClockTrigger",
    "ConfigurationError",
    "Context",
    "CronTrigger",
    "DailyTrigger",
    "EtlError",
    "Event",
    "EventKind",
    "Message",
    "Missed",
    "OnceTrigger",
    "OpportunisticTrigger",
    "Overlap",
    "PPrintSink",
    "PeriodicTrigger",
    "Pipeline",
    "PostgresSink",
    "Processor",
    "PubSubTrigger",
    "RemotePostgresSink",
    "Retry",
    "RunOnceTrigger",
    "Sink",
    "SqlProcessor",
    "Trigger",
    "TriggerSource",
    "WebhookTrigger",
    "daily",
    "every",
    "heartbeat",
    "hourly",
    "minutely",
    "monthly",
    "processor",
    "publish",
    "weekly",
    "yearly",
]


def __getattr__(name: str) -> Any:
    """`publish` needs the driver, which a module that only declares jobs does not."""
    if name == "publish":
        return import_module("etl.publishing").publish
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
