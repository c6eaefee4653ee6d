"""Arguments that nobody reads are a mistake where a person wrote them, and no matter where a message brought them."""

from __future__ import annotations

from typing import Any

import pytest

from etl import BatchProcessingSource, ConfigurationError, TriggerSource
from etl.core.arguments import refuse_strange


class Shop(TriggerSource):
    async def cycle(self, shop: int = 0, trigger_name: str = "") -> None:
        await self.pipeline.ready()


class Anything(TriggerSource):
    async def cycle(self, *args: Any, **kwargs: Any) -> None:
        await self.pipeline.ready()


class Chosen(BatchProcessingSource):
    async def cycle(self, *args: Any, **kwargs: Any) -> None:
        await super().cycle(**kwargs)


def table(kind: type[BatchProcessingSource] = BatchProcessingSource) -> BatchProcessingSource:
    return kind("inbox", pending="waiting", done="waiting = false")


def refusal(source: TriggerSource, *names: str, by_hand: bool = True) -> tuple[str, str | None] | None:
    """What is said about arguments of these names, and of which setting; None where they are taken."""
    try:
        refuse_strange(source.cycle, names, "flights", by_hand=by_hand)
    except ConfigurationError as error:
        return error.problem, error.setting
    return None


@pytest.mark.parametrize(
    ("source", "problem"),
    [(table(), "nothing in this job reads 'tpyo'"), (Shop(), "cycle() does not take 'tpyo'")],
    ids=["table", "named"],
)
def test_an_argument_by_hand_that_nobody_reads_is_refused(source: TriggerSource, problem: str) -> None:
    assert (problem, "--arg") == refusal(source, "tpyo")


def test_an_argument_that_a_cycle_names_is_taken() -> None:
    assert refusal(Shop(), "shop") is None


@pytest.mark.parametrize("source", [Anything(), table(Chosen)], ids=["own", "subclass of a table's"])
def test_a_cycle_of_ones_own_that_takes_anything_gets_anything(source: TriggerSource) -> None:
    assert refusal(source, "tpyo", "kwargs") is None


def test_no_arguments_are_never_too_many() -> None:
    assert refusal(table()) is None


def test_what_a_message_carries_may_come_to_a_table_that_only_has_to_be_woken() -> None:
    assert refusal(table(), "order", by_hand=False) is None
    assert ("cycle() does not take 'order'", None) == refusal(Shop(), "order", by_hand=False)
