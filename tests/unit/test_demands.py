"""What a sink's table demands: for how long that is looked for, and when it is forgotten."""

from __future__ import annotations

from etl.postgres.writing.demands import ENOUGH, Demand, Demands, Place

CHECK = Place("public", "sink", constraint="positive")
FILLED = Place("public", "sink", column="m")
POSITIVE, NOT_NULL = Demand("n > 0", {"n": None}), Demand('"m" IS NOT NULL', {"m": None})


def _known(*places: Place) -> Demands:
    demands = Demands()
    for place in places:
        demands.note(place)
    for place in demands.take_noted():
        demands.learn(place, POSITIVE if place == CHECK else NOT_NULL)
    return demands


def test_nothing_is_looked_for_before_something_was_refused() -> None:
    assert [] == Demands().take_noted()
    assert {} == Demands().among(["n", "m"])


def test_a_place_is_to_be_found_out_about_once() -> None:
    demands = Demands()
    demands.note(CHECK)
    demands.note(CHECK)

    assert [CHECK] == demands.take_noted()
    assert [] == demands.take_noted()


def test_only_what_rows_bring_all_columns_for_is_looked_for() -> None:
    demands = _known(CHECK, FILLED)

    assert {CHECK: POSITIVE} == demands.among(["id", "n"])
    assert {CHECK: POSITIVE, FILLED: NOT_NULL} == demands.among({"id": 1, "n": 1, "m": 1})


def test_what_was_not_found_for_a_while_is_not_looked_for_any_more() -> None:
    demands = _known(CHECK, FILLED)

    for _ in range(ENOUGH):
        assert {CHECK, FILLED} == demands.among(["n", "m"]).keys()
        demands.looked([CHECK, FILLED], [FILLED])

    assert {FILLED: NOT_NULL} == demands.among(["n", "m"])


def test_a_find_and_a_refusal_both_prolong_the_search() -> None:
    demands = _known(CHECK)

    for number in range(3 * ENOUGH):
        demands.looked([CHECK], [CHECK] if number % ENOUGH == 1 else [])
        if number % ENOUGH == 3:
            demands.note(CHECK)

    assert {CHECK: POSITIVE} == demands.among(["n"])
    assert [] == demands.take_noted(), "it is known already"


def test_what_was_forgotten_is_found_out_about_when_a_row_is_refused_there_again() -> None:
    demands = _known(CHECK)
    demands.forget([CHECK, FILLED])
    demands.looked([CHECK], [CHECK])  # by somebody who began before

    assert {} == demands.among(["n"])
    demands.note(CHECK)
    assert [CHECK] == demands.take_noted()


def test_what_a_partition_refused_is_found_in_the_others() -> None:
    demands = _known(CHECK)

    for _ in range(2 * ENOUGH):
        demands.looked([CHECK], [Place("public", "sink_2", constraint="positive")])
    demands.note(Place("public", "sink_3", constraint="positive"))

    assert {CHECK: POSITIVE} == demands.among(["n"])
    assert [] == demands.take_noted()
