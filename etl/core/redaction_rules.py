"""Rules of redaction as people write them: keys, paths and patterns, judged before anything is matched with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any, TypeAlias

from etl.errors import ConfigurationError

# Names from the root of a row or event; "*" is any name, or each item of a list.
Path: TypeAlias = tuple[str, ...]

_KEY = re.compile(r"[A-Za-z0-9_-]{1,63}")
_STEP = re.compile(r"\.([A-Za-z0-9_-]{1,63}|\*)|(\[\*\])")
_LONGEST_PATTERN = 500
_MOST = 100  # keys and paths, or patterns
_WIDE = 64  # repetitions: more than that count as without end
_MOST_WIDE = 2
_FEW = 8

_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)


def listed(written: Any, setting: str, separator: str) -> tuple[str, ...]:
    """A list of texts, or one text with separators between them. Raises `ConfigurationError`."""
    parts: Iterable[Any] = written.split(separator) if isinstance(written, str) else written or ()
    if not isinstance(parts, (list, tuple)):
        raise ConfigurationError(f"{written!r} is not a list", setting=setting, remedy=f'e.g. {setting} = ["email"]')
    for part in parts:
        if not isinstance(part, str):
            raise ConfigurationError(f"{part!r} is not text", setting=setting, remedy="write it in quotes")
    found = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if len(found) > _MOST:
        raise ConfigurationError(f"{len(found)} rules", setting=setting, remedy=f"{_MOST} are the most")
    return found


def parse_keys(written: Sequence[str]) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Keys, and paths such as `$.customer.phone` or `$.items[*].phone`. Raises `ConfigurationError`."""
    keys: list[str] = []
    paths: list[Path] = []
    for each in written:
        if each.startswith("$"):
            paths.append(_path(each))
        elif _KEY.fullmatch(each):
            keys.append(each.lower().replace("-", "_"))
        else:
            remedy = "write a key such as email, or a path such as $.customer.phone"
            raise ConfigurationError(f"{each!r} is neither a key nor a path", setting="redact", remedy=remedy)
    return tuple(keys), tuple(paths)


def _path(text: str) -> Path:
    steps: list[str] = []
    at = 1
    while at < len(text):
        found = _STEP.match(text, at)
        if found is None:
            raise ConfigurationError(
                f"{text!r} is not a path: {text[at:]!r} cannot be read",
                setting="redact",
                remedy="e.g. $.customer.phone, $.items[*].phone or $.*.phone",
            )
        steps.append(found[1] or "*")
        at = found.end()
    if not steps:
        raise ConfigurationError(f"{text!r} names nothing", setting="redact", remedy="e.g. $.customer.phone")
    return tuple(steps)


def parse_patterns(written: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    """Regular expressions that cannot take for ever on a piece of text. Raises `ConfigurationError`."""
    return tuple(_pattern(text) for text in written)


def _pattern(text: str) -> re.Pattern[str]:
    shown = text if len(text) <= 80 else f"{text[:77]}..."

    def refusal(problem: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(f"{shown!r} {problem}", setting="redact_patterns", remedy=remedy)

    if len(text) > _LONGEST_PATTERN:
        raise refusal(f"has {len(text)} characters", f"{_LONGEST_PATTERN} are the most; make several patterns of it")
    try:
        compiled = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise refusal(f"is not a regular expression: {error}", "see the Python module re") from None
    tree = _parser.parse(text)
    if not tree.getwidth()[0]:
        raise refusal("matches no text at all, and so every place", "say what must be there: + in place of *")
    if _nested(tree, inside=False):
        raise refusal(
            "repeats something that itself repeats or has alternatives, which can take for ever",
            r"e.g. in place of (\w+-?)+ write [\w-]+",
        )
    if (wide := _wide(tree)) > _MOST_WIDE:
        raise refusal(
            f"has {wide} repetitions without an end or of more than {_WIDE}, which can take for ever",
            r"write how many at most, e.g. \d{1,20} in place of \d+",
        )
    return compiled


def _nested(tree: Any, *, inside: bool) -> bool:
    """Whether a repetition holds another one, or alternatives: each doubles the ways to match."""
    for operator, argument in tree:
        if operator in _REPEATS:
            least, most, body = argument
            if (inside and most != least) or _nested(body, inside=inside or most > _FEW):
                return True
        elif (inside and operator is _constants.BRANCH) or any(
            _nested(part, inside=inside) for part in _parts(argument)
        ):
            return True
    return False


def _wide(tree: Any) -> int:
    """Repetitions with a wide range; of alternatives those of the worst."""
    count = 0
    for operator, argument in tree:
        if operator in _REPEATS:
            least, most, body = argument
            count += (most - least > _WIDE) + _wide(body) * max(1, min(int(most), _FEW))
        elif operator is _constants.BRANCH:
            count += max(_wide(part) for part in argument[1])
        else:
            count += sum(_wide(part) for part in _parts(argument))
    return count


def _parts(argument: Any) -> list[Any]:
    """Patterns within one: groups, alternatives, looking ahead and behind."""
    if isinstance(argument, _parser.SubPattern):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [part for each in argument for part in _parts(each)]
    return []
