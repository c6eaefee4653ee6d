"""Scheduled batches over a Postgres table you already have."""

from etl.core.context import Context
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

__all__ = [
    "BatchProcessingSource",
    "ClockTrigger",
    "ConfigurationError",
    "Context",
    "CronTrigger",
    "EtlError",
    "PPrintSink",
    "Pipeline",
    "PostgresSink",
    "Processor",
    "Retry",
    "Sink",
    "Trigger",
    "TriggerSource",
    "processor",
]
