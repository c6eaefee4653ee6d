"""Reading a cron expression: how many fields, which aliases; each field is read in `cron_parts`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from etl.triggers.cron_fields import DATE, HOUR, MINUTE, MONTH, SECOND, WEEKDAY
from etl.triggers.cron_parts import checked, refusal

_FIVE = (MINUTE, HOUR, DATE, MONTH, WEEKDAY)
_ALIASES = {
    "@minutely": "* * * * *",
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_LONGEST = 200
_ORDER = "minute, hour, day of month, month, day of week"


@dataclass(frozen=True, slots=True)
class Fields:
    """A checked expression: each field with numbers for names, in capitals. Without seconds `second` is "0"."""

    expression: str
    minute: str
    hour: str
    date: str
    month: str
    weekday: str
    second: str = "0"

    @property
    def hashed(self) -> bool:
        """Whether some field has an `H`."""
        return any("H" in field for field in (self.minute, self.hour, self.date, self.month, self.weekday, self.second))


def read(text: str, seconds: str | None) -> Fields:
    """Check an expression and take it apart. Raises `ConfigurationError` with field, reason and suggestion."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise refusal(str(text)[:60], "is not a cron expression", "give text of five fields")
    expanded = text.strip()
    if expanded.startswith("@"):
        expanded = _alias(text, expanded)
        parts = expanded.split() if seconds is None else [*expanded.split(), "0"]
    else:
        parts = expanded.split()
        _check_count(text, parts, seconds)
        if seconds == "first":
            parts = [*parts[1:], parts[0]]
    names = (*_FIVE, SECOND)
    fields = [checked(text, field, part) for field, part in zip(names, parts, strict=False)]
    return Fields(" ".join(parts), *fields)


def _alias(text: str, alias: str) -> str:
    word = alias.lower()
    if word in _ALIASES:
        return _ALIASES[word]
    if word.startswith("@every"):
        duration = word.removeprefix("@every").strip() or "5m"
        raise refusal(text, "is an interval, not a cron expression", f"write PeriodicTrigger({duration!r})")
    if word == "@reboot":
        raise refusal(text, "names no time", "for a run at each start write RunOnceTrigger()")
    near = difflib.get_close_matches(word, _ALIASES, n=1) or ["@daily"]
    raise refusal(text, "is no alias there is", f"did you mean {near[0]!r}? There are {', '.join(_ALIASES)}")


def _check_count(text: str, parts: list[str], seconds: str | None) -> None:
    if parts and parts[0].upper().startswith(("CRON_TZ=", "TZ=")):
        zone = parts[0].partition("=")[2]
        raise refusal(text, "names a time zone", f"write CronTrigger('...', timezone={zone!r})")
    if seconds is None:
        if len(parts) == 5:
            return
        remedy = f"write {_ORDER}"
        if len(parts) == 6:
            remedy += "; with seconds give seconds='first' or seconds='last'"
        raise refusal(text, f"has {len(parts)} fields, not five", remedy)
    if len(parts) != 6:
        order = f"second, {_ORDER}" if seconds == "first" else f"{_ORDER}, second"
        raise refusal(text, f"has {len(parts)} fields, not six, with seconds={seconds!r}", f"write {order}")
