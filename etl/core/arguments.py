"""What a source's `cycle` takes by name, and what nobody would read. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from etl.errors import ConfigurationError

Cycle = TypeVar("Cycle", bound=Callable[..., Any])

_UNREAD = "_etl_reads_no_arguments"
_ANY_NAME = inspect.Parameter.VAR_KEYWORD
_ANY_PLACE = inspect.Parameter.VAR_POSITIONAL


def reads_no_arguments(cycle: Cycle) -> Cycle:
    """Mark a `cycle` that takes anything, since what messages and web hooks carry comes to it, and reads nothing."""
    setattr(cycle, _UNREAD, True)
    return cycle


def named_by(cycle: Callable[..., Any]) -> set[str]:
    """The parameters that a `cycle` takes by name."""
    parameters = inspect.signature(cycle).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind not in (_ANY_NAME, _ANY_PLACE)}


def refuse_strange(cycle: Callable[..., Any], names: Iterable[str], job: str, *, by_hand: bool = False) -> None:
    """Refuse arguments that a `cycle` does not take. `by_hand`: a person wrote them, so somebody has to read them.

    Raises `ConfigurationError`.
    """
    strange = ", ".join(repr(name) for name in sorted(set(names) - named_by(cycle)))
    if not strange:
        return
    setting = "--arg" if by_hand else None
    if by_hand and getattr(cycle, _UNREAD, False):
        remedy = "leave it out, or subclass the source with a cycle() that reads it"
        raise ConfigurationError(f"nothing in this job reads {strange}", job=job, setting=setting, remedy=remedy)
    parameters = inspect.signature(cycle).parameters.values()
    if not any(parameter.kind is _ANY_NAME for parameter in parameters):
        remedy = "add **kwargs or the parameter"
        raise ConfigurationError(f"cycle() does not take {strange}", job=job, setting=setting, remedy=remedy)
