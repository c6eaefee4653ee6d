"""Scheduled batches over a Postgres table you already have."""

from etl.core.context import Context
from etl.core.overlap import Missed, Overlap
from etl.core.pipeline import Pipeline
from etl.core.processor import Processor, processor
from etl.core.retry import Retry
from etl.core.sink import Sink
from etl.core.source import TriggerSource
from etl.core.trigger import ClockTrigger, Trigger
from etl.errors import ConfigurationError, EtlError
from etl.sinks.postgres import PostgresSink
from etl.sinks.pprint import PPrintSink
from etl.sources.batch import BatchProcessingSource
from etl.triggers.cron import CronTrigger
from etl.triggers.daily import DailyTrigger, OnceTrigger
from etl.triggers.every import every
from etl.triggers.named import daily, heartbeat, hourly, minutely, monthly, weekly, yearly
from etl.triggers.periodic import PeriodicTrigger

__all__ = [
    "BatchProcessingSource",
    "ClockTrigger",
    "ConfigurationError",
    "Context",
    "CronTrigger",
    "DailyTrigger",
    "EtlError",
    "Missed",
    "OnceTrigger",
    "Overlap",
    "PPrintSink",
    "PeriodicTrigger",
    "Pipeline",
    "PostgresSink",
    "Processor",
    "Retry",
    "Sink",
    "Trigger",
    "TriggerSource",
    "daily",
    "every",
    "heartbeat",
    "hourly",
    "minutely",
    "monthly",
    "processor",
    "weekly",
    "yearly",
]
