"""What is blanked before anything is recorded or shown: by key, path and pattern. Pure, but for the rules in force.

What always holds cannot be taken away; settings add rules for all jobs, a job adds its own for its runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

from etl.core.redaction_rules import Path, parse_keys, parse_patterns
from etl.core.secret_text import REDACTED, finders

# By the words of a key: `access_token`, `accessToken` and `X-Access-Token` have the word `token`.
KEYS = (
    "password", "passwd", "passphrase", "secret", "token", "api_key", "access_key", "private_key", "credential",
    "credentials", "authorization", "cookie", "connection_string", "pwd", "dsn",
)  # fmt: skip
_IN_TEXT = (*KEYS[:8], "connection_string")  # `Authorization: ...` goes on to the end of its line
_SHORT = ("credential", "credentials", "pwd")  # "invalid DSN: ..." tells of an error
_JOINED = ("password", "passwd", "secret", "token", "apikey")  # also as the end of a word: PGPASSWORD
# Says which batch, and opens nothing.
_HARMLESS = frozenset({"etl.batch.token", "batch_token"})
# Names that the framework itself gives to what it records of a run, a span or a line: a user's key `name` means others.
_OURS = ("etl.", "host.", "process.", "service.", "messaging.", "exception.", "error.")
_FACTS = frozenset(
    {"event", "run_id", "job", "trigger", "trace_id", "span_id", "scheduled_for", "status", "duration_s", "batches",
     "balanced", "error_type", "error", "host", "pid", "message", "level", "logger", "time", "exception"}
)  # fmt: skip

# A match of a user's own pattern that is no longer than half of this is found wherever it stands.
WINDOW = 256
_LEAST = 4  # characters of a value that is looked for in other text: shorter ones are everywhere
_LEAST_LITERAL = 10
_PLAIN = re.compile(r"[\w.-]{0,19}|[0-9a-f-]{36}", re.ASCII)  # what is no secret by its form, nor names one
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")


@dataclass(frozen=True)
class Redaction:
    """Rules besides those that always hold. `literals` are secrets themselves."""

    keys: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = ()
    literals: tuple[str, ...] = ()

    def plus(self, other: Redaction) -> Redaction:
        """These rules and those."""
        if other == NO_MORE:
            return self
        return Redaction(
            self.keys + other.keys,
            self.paths + other.paths,
            self.patterns + other.patterns,
            self.literals + other.literals,
        )

    def text(self, text: str) -> str:
        """The text without what looks like a secret."""
        for literal in self.literals:
            text = text.replace(literal, REDACTED)
        if not self.patterns and _PLAIN.fullmatch(text):
            return text
        lowered = text.lower()
        for finder in self._finders:
            text = finder.blank(text, lowered)
        for pattern in self.patterns:
            text = _blank_in_pieces(pattern, text)
        return text

    def harmless(self, text: str) -> bool:
        """Whether this JSON text has nothing to blank, as far as a glance can tell."""
        lowered = text.lower()
        own = bool(self.paths or self.patterns or self.literals)
        return not own and not any(finder.may_find(lowered) for finder in self._finders)

    def value(self, value: Any) -> Any:
        """A value as JSON has it, without what is secret. What needs no blank is the same object."""
        return self._value(value, self.paths)

    def fact(self, name: str, value: Any) -> Any:
        """What is recorded or logged under a name, beside rows and events; paths begin elsewhere."""
        ours = name in _FACTS or name.startswith(_OURS)
        return REDACTED if not ours and self.hides(name, value) else self._value(value, ())

    def hidden(self, value: Any) -> list[str]:
        """The texts and numbers that `value()` would blank for their key or path, the longest first."""
        found: set[str] = set()
        self._collect(value, self.paths, found)
        return sorted(found, key=len, reverse=True)

    @cached_property
    def _finders(self) -> Sequence[Any]:
        # In text a path is known by its last name only.
        own = (*self.keys, *(path[-1] for path in self.paths if path[-1] != "*"))
        return finders(_IN_TEXT, tuple(dict.fromkeys((*_SHORT, *own))))

    @cached_property
    def _joined_keys(self) -> frozenset[str]:
        return frozenset("".join(_words(key)) for key in (*KEYS, *self.keys))

    def hides(self, name: str, value: Any) -> bool:
        """Whether a value is secret for the name it stands under."""
        return value is not None and value != "" and not isinstance(value, bool) and _tells(name, self._joined_keys)

    def _value(self, value: Any, paths: Sequence[Path]) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            told = {name: self._item(str(name), item, paths) for name, item in value.items()}
            return value if all(told[name] is item for name, item in value.items()) else told
        if isinstance(value, (list, tuple)):
            items = self._pair(value) or [self._item("*", item, paths, listed=True) for item in value]
            return value if all(new is old for new, old in zip(items, value, strict=True)) else items
        return value

    def _item(self, name: str, item: Any, paths: Sequence[Path], *, listed: bool = False) -> Any:
        beneath = [path[1:] for path in paths if path[0] in (name, "*")]
        if [] in map(list, beneath) and item is not None:
            return REDACTED
        if not listed and self.hides(name, item):
            return REDACTED
        blanked = self._value(item, beneath)
        return item if blanked == item and type(blanked) is type(item) else blanked

    def _pair(self, value: Sequence[Any]) -> list[Any] | None:
        """("Authorization", "Basic ...") in a list of headers."""
        if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], str) and len(value[0]) <= 100:
            return [value[0], REDACTED] if self.hides(value[0], value[1]) else None
        return None

    def _collect(self, value: Any, paths: Sequence[Path], found: set[str]) -> None:
        if isinstance(value, Mapping):
            items = [(str(name), item, False) for name, item in value.items()]
        elif isinstance(value, (list, tuple)):
            items = [("*", item, True) for item in value]
        else:
            return
        for name, item, listed in items:
            beneath = [path[1:] for path in paths if path[0] in (name, "*")]
            if () in beneath or (not listed and self.hides(name, item)):
                found.update(_leaves(item))
            else:
                self._collect(item, beneath, found)


NO_MORE = Redaction()

_everywhere: Redaction = NO_MORE
_here: ContextVar[Redaction | None] = ContextVar("etl_redaction", default=None)


def rules() -> Redaction:
    """The rules in force: of the run in whose context the caller is, else of the process."""
    return _here.get() or _everywhere


def redact_everywhere(redaction: Redaction) -> None:
    """From now on these rules hold in the whole process, besides those that always hold."""
    global _everywhere  # noqa: PLW0603 - what is logged anywhere in the process has to pass them
    _everywhere = redaction


@contextmanager
def redacting(redaction: Redaction) -> Iterator[None]:
    """Meanwhile, in this context, these rules hold besides the process's."""
    with applying(_everywhere.plus(redaction)):
        yield


@contextmanager
def applying(redaction: Redaction) -> Iterator[None]:
    """Meanwhile, in this context, these rules hold and no others."""
    token = _here.set(redaction)
    try:
        yield
    finally:
        _here.reset(token)


@lru_cache(maxsize=100)
def redaction_of(redact: tuple[str, ...], patterns: tuple[str, ...], *urls: str) -> Redaction:
    """Rules as somebody wrote them, and the passwords of these URLs. Raises `ConfigurationError`."""
    keys, paths = parse_keys(redact)
    secrets = [secret for url in urls for secret in _passwords(url)]
    return Redaction(keys, paths, parse_patterns(patterns), tuple(secrets))


def without(text: str, hidden: Sequence[str]) -> str:
    """The text without these values."""
    for each in hidden:
        text = text.replace(each, REDACTED)
    return text


def _passwords(url: str) -> list[str]:
    """A URL's password as written and as meant; not one so short or common that it may be any word."""
    try:
        parts = urlsplit(url)
        written, others = parts.password or "", {parts.username, parts.hostname, parts.path.strip("/")}
    except ValueError:
        return []
    both = dict.fromkeys((written, unquote(written)))
    return [each for each in both if len(each) >= _LEAST_LITERAL and each not in others]


def _blank_in_pieces(pattern: re.Pattern[str], text: str) -> str:
    """Overlapping pieces keep a pattern that is slow from being slow on long text."""
    done = 0
    parts: list[str] = []
    for start in range(0, max(1, len(text) - WINDOW // 2), WINDOW // 2):
        for match in pattern.finditer(text, max(start, done), start + WINDOW):
            if match.end() > match.start() >= done:
                parts += [text[done : match.start()], REDACTED]
                done = match.end()
    return "".join([*parts, text[done:]]) if parts else text


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        text = str(value)
        if len(text) >= _LEAST and text != REDACTED:
            yield text
            if (escaped := repr(text)[1:-1]) != text:
                yield escaped


@cache
def _words(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORDS.split(name) if word)


@lru_cache(maxsize=4096)
def _tells(name: str, joined: frozenset[str]) -> bool:
    """Whether words of this name that follow each other are one of the keys."""
    if name in _HARMLESS or len(name) > 200:
        return False
    words = _words(name)
    runs = ("".join(words[start:end]) for start in range(len(words)) for end in range(start + 1, start + 4))
    return any(run in joined for run in runs) or any(word.endswith(_JOINED) for word in words)
