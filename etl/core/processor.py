"""What happens to a row between source and sink."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, overload

from etl.core.context import Context
from etl.core.retry import Retry
from etl.errors import ConfigurationError


class Processor(ABC):
    """Base of class-style processors: subclass it and write `process(self, context, event)`, sync or async.

    `process` gets a row and returns what goes on: a value, None (the row is filtered out) or a list (several results).
    What it raises quarantines the row, after the attempts that `retry` grants. With `batch = True` it gets the list of
    the batch's rows at once and returns a list of the same length, each item as above.

    A sync `process` runs in a thread; `inline = True` calls it on the event loop instead, which is faster for work of
    microseconds and blocks everything for work of seconds.
    """

    retry: Retry | None = None
    batch: bool = False
    inline: bool = False

    @property
    def name(self) -> str:
        """The stage's name in reports."""
        return type(self).__name__

    @property
    def target(self) -> Callable[..., Any]:
        """The function that is really called, sync or async."""
        return self.process

    @abstractmethod
    def process(self, context: Context, event: Any) -> Any:
        """Turn one row (or one batch of rows) into what goes on."""


class FunctionProcessor(Processor):
    """A plain function as a processor. It stays callable, so that a test can call it as the function it is."""

    def __init__(
        self, function: Callable[..., Any], *, retry: Retry | None = None, batch: bool = False, inline: bool = False
    ) -> None:
        name = getattr(function, "__name__", type(function).__name__)
        if not callable(function) or not _takes_two(function):
            raise ConfigurationError(
                f"{name!r} cannot be called with (context, row)",
                setting="processor",
                remedy=f"def {name}(context, row)",
            )
        if is_generator(function):
            raise ConfigurationError(
                f"{name!r} is a generator", setting="processor", remedy="return a list in place of yield"
            )
        if retry is not None and not isinstance(retry, Retry):
            raise ConfigurationError(
                f"retry={retry!r} is not a policy", setting=name, remedy="use retry=Retry(attempts=3)"
            )
        self._function = function
        self.retry = retry
        self.batch = batch
        self.inline = inline
        self._name = name
        functools.update_wrapper(self, function, updated=())

    @property
    def name(self) -> str:
        return self._name

    @property
    def target(self) -> Callable[..., Any]:
        return self._function

    def process(self, context: Context, event: Any) -> Any:
        return self._function(context, event)

    def __call__(self, context: Any, event: Any) -> Any:
        return self._function(context, event)


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


@overload
def processor(function: Callable[..., Any], /) -> FunctionProcessor: ...
@overload
def processor(
    *, retry: Retry | None = None, batch: bool = False, inline: bool = False
) -> Callable[[Callable[..., Any]], FunctionProcessor]: ...
def processor(
    function: Callable[..., Any] | None = None,
    /,
    *,
    retry: Retry | None = None,
    batch: bool = False,
    inline: bool = False,
) -> FunctionProcessor | Callable[[Callable[..., Any]], FunctionProcessor]:
    """Make a processor of a function `(context, row)`: `@processor` or `@processor(retry=..., batch=..., inline=...)`.

    The parameters are those of `Processor`. Raises `ConfigurationError` for a function of another shape.
    """
    if function is not None:
        return FunctionProcessor(function)
    return lambda decorated: FunctionProcessor(decorated, retry=retry, batch=batch, inline=inline)


def as_processor(part: Any) -> Processor | None:
    """The part as a processor (plain functions are taken as they are); None if it cannot be one."""
    if isinstance(part, Processor):
        return part
    if isinstance(part, type) or not callable(part):
        return None
    return FunctionProcessor(part)


def call_in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a pool's thread calls in place of `function`: a `StopIteration` would never reach whoever waits for it."""
    try:
        return function(*arguments)
    except StopIteration as error:
        raise RuntimeError("StopIteration raised outside of an iterator") from error


def is_generator(function: Callable[..., Any]) -> bool:
    """Whether calling the function runs none of it, but gives something to go through."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling the function gives something to await; decided once per processor, never per row."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
