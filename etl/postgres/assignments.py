"""Reads the user's SQL as far as that has to be: its pieces, and which columns a SET list assigns."""

from __future__ import annotations

import re


def assigned_columns(assignments: str) -> list[str]:
    """The columns that a SET list assigns, as the server would read their names. Pure text work on valid SQL.

    Understands quoted names, `(a, b) = (...)`, strings, dollar quotes and comments.
    """
    names: list[str] = []
    for assignment in _split_top_level(assignments, ","):
        target = _split_top_level(assignment, "=")[0].strip()
        inner = target[1:-1] if target.startswith("(") and target.endswith(")") else target
        names += [_folded(part) for part in _split_top_level(inner, ",")]
    return [name for name in names if name]


# A name in front of its subscript or field.
_NAME = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]|"")*)"|(?P<plain>[^\s.\["]*))')
# What hides commas, equals signs and parentheses: comments, strings, quoted names; and words, which may hold a dollar.
_WHOLE = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))|[eE]'(?:[^'\\]|\\.)*'?|'[^']*'?|"[^"]*"?"""
    r"""|\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)|[^\W\d][\w$]*|.""",
    re.DOTALL,
)


def split_sql(text: str) -> list[str]:
    """SQL in pieces that are one thing each: a comment, a string, a quoted name, a word, or a single character."""
    return [match[0] for match in _WHOLE.finditer(text)]


def _folded(name: str) -> str:
    match = _NAME.match(name)
    assert match is not None
    quoted, plain = match["quoted"], match["plain"]
    return quoted.replace('""', '"') if quoted is not None else plain.lower()


def _split_top_level(text: str, separator: str) -> list[str]:
    """Split SQL where a separator stands outside parentheses, quotes and comments; comments are dropped."""
    parts, depth = [""], 0
    for match in _WHOLE.finditer(text):
        piece = match[0] if match["comment"] is None else " "
        depth += (piece in "([") - (piece in ")]")
        if piece == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    return parts
