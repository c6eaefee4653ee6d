"""What secrets look like in text: values behind telling names, and forms that speak for themselves.

Text comes from rows, of any length: each pattern takes time in proportion to it, and is only tried where one of its
needles occurs, since most text has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

REDACTED = "[redacted]"

_QUOTED = r"""b?"(?:[^"\\]|\\.)*"|b?'(?:[^'\\]|\\.)*'"""
# Quotes in JSON inside JSON; the ordinary ones; one that nobody closes, because the text was cut there.
_VALUE = rf"""(?P<quote>\\{{1,8}}["'])(?:[\s\S]{{0,4000}}?)(?P=quote)|{_QUOTED}|["'][^\r\n]*"""
_IS = r"""["')\]\\]{0,4}\s{0,20}(?:=>|:=|[=:])\s{0,20}"""
# `access_key` in aws_secret_access_key, `Hash` in passwordHash.
_SUFFIX = r"(?:[_-][\w-]{0,40}|(?-i:[A-Z])\w{0,40})?"
_FLAGS = re.IGNORECASE | re.DOTALL


class Finder(NamedTuple):
    """A pattern, when it is worth trying, and what becomes of a match."""

    needles: tuple[tuple[str, tuple[str, ...]], ...]  # in small letters; of one of them all parts must be there
    pattern: re.Pattern[str]
    replace: Callable[[re.Match[str]], str] | str

    def blank(self, text: str, lowered: str) -> str:
        """The text without what this finds."""
        return self.pattern.sub(self.replace, text) if self.may_find(lowered) else text

    def may_find(self, lowered: str) -> bool:
        """Whether there may be something in this text, in small letters."""
        return any(longest in lowered and all(part in lowered for part in others) for longest, others in self.needles)


def _finder(needles: Sequence[str], pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str] | str) -> Finder:
    """Where `needles` are words, what stands between them may be something else than `_`."""
    parts = [sorted(filter(None, needle.lower().split("_")), key=len, reverse=True) or [needle] for needle in needles]
    return Finder(tuple(dict.fromkeys((longest, tuple(others)) for longest, *others in parts)), pattern, replace)


def quoted_blank(value: str) -> str:
    """A blank in the quotes that the value had."""
    start = re.match(r"""b?(\\*["'])""", value)
    return f"{start[1]}{REDACTED}{start[1]}" if start else REDACTED


def _keep_name(match: re.Match[str]) -> str:
    return match["name"] + quoted_blank(match["value"])


def _whole_key(names: str) -> Callable[[re.Match[str]], str]:
    """Of `Key (a, b)=(1, 2)`: the values, if one of the columns is secret."""
    telling = re.compile(names, _FLAGS)
    return lambda match: f"{match[1]}({REDACTED})" if telling.search(match[1]) else match[0]


# Sure of themselves, whatever stands before them.
_FORMS: tuple[Finder, ...] = (
    _finder(("://",), re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://[^\s:/]*:)[^\s/]+@", re.IGNORECASE), rf"\1{REDACTED}@"),
    _finder(
        ("private key-----",),
        re.compile(r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,20}PRIVATE KEY-----|\Z)"),
        REDACTED,
    ),
    _finder(
        ("authorization", "cookie"),
        re.compile(
            rf"(?P<name>(?:authorization|cookie)[\"')\]\\]{{0,4}}\s{{0,20}}(?:=>|[=:])\s{{0,20}})"
            rf"(?P<value>{_VALUE}|[^\r\n]+)",
            re.IGNORECASE,
        ),
        _keep_name,
    ),
    _finder(
        ("bearer", "basic"),
        re.compile(r"(\b(?:bearer|basic)\s{1,20})[a-z0-9._~+/=-]{8,}", re.IGNORECASE),
        rf"\1{REDACTED}",
    ),
    _finder(  # a JSON web token
        ("eyj",), re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?", re.ASCII), REDACTED
    ),
    _finder(  # AWS access keys
        ("akia", "asia"), re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", re.ASCII), REDACTED
    ),
    _finder(  # GitHub, GitLab, Slack, Stripe and others
        ("ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-", "xox", "sk_live_", "rk_live_", "sk-"),
        re.compile(
            r"\b(?:gh[opsur]_|github_pat_|glpat-|xox[abeoprs]-|[rs]k_live_|sk-(?:[a-z]{2,8}-)?)[\w-]{20,}", re.ASCII
        ),
        REDACTED,
    ),
    # Which of a row's values is secret, its text does not tell.
    _finder(("failing row contains",), re.compile(r"(Failing row contains )\(.*", re.DOTALL), rf"\1({REDACTED})."),
)


@cache
def finders(builtin: tuple[str, ...], own: tuple[str, ...]) -> tuple[Finder, ...]:
    """What to look for in text: the forms above, and values of these names; `own` names are whole words."""
    spelled = [re.escape(name).replace("_", "[_-]?") for name in builtin]
    spelled += [rf"(?<![^\W_]){re.escape(name).replace('_', '[_-]?')}" for name in own]
    names = rf"(?:{'|'.join(spelled)})"
    paired = rf"(?:{'|'.join([*spelled, 'authorization', 'cookie'])})"
    needles = (*builtin, *own)
    return (
        _finder(
            ("key (",),
            re.compile(r"(Key \([^)]{0,300}\)=)\(.*", re.DOTALL),
            _whole_key(rf"{names}{_SUFFIX}[\"),]"),
        ),
        *_FORMS,
        _finder(  # ("password", "x") in a list of pairs
            (*needles, "authorization", "cookie"),
            re.compile(
                rf"""(?P<name>\(\s?b?["'][\w.-]{{0,40}}?{paired}{_SUFFIX}["'],\s?)(?P<value>{_QUOTED})""", _FLAGS
            ),
            _keep_name,
        ),
        _finder(
            needles, re.compile(rf"(?P<name>{names}{_SUFFIX}{_IS})(?P<value>{_VALUE}|[^\s,;&]+)", _FLAGS), _keep_name
        ),
    )
