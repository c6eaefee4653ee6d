"""Schedules everybody has a word for, in UTC. They mean what cron's words mean: `weekly` is Sunday at midnight.

For another zone or other policies: `CronTrigger("@daily", timezone=...)`, `daily.with_policy(overlap="again")`.
"""

from __future__ import annotations

from etl.triggers.cron import CronTrigger
from etl.triggers.periodic import PeriodicTrigger

heartbeat = PeriodicTrigger(1)
minutely = CronTrigger("@minutely")
hourly = CronTrigger("@hourly")
daily = CronTrigger("@daily")
weekly = CronTrigger("@weekly")
monthly = CronTrigger("@monthly")
yearly = CronTrigger("@yearly")
