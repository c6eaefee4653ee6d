"""A pipeline is one inert value; what cannot be right is refused where it is written, with job, setting and remedy."""

from __future__ import annotations

import asyncio
import functools
import inspect
from datetime import timedelta
from typing import Any

import pytest

from etl import (
    BatchProcessingSource,
    ConfigurationError,
    CronTrigger,
    Pipeline,
    PostgresSink,
    PPrintSink,
    Processor,
    RemotePostgresSink,
    Sink,
    TriggerSource,
    processor,
)
from etl.core.processor import FunctionProcessor

SOURCE = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'")
SINK = PostgresSink("dst")


class Ticks(TriggerSource):
    async def cycle(self, *args: Any, **kwargs: Any) -> None:
        await self.pipeline.process(1)


class Double(Processor):
    def process(self, context: Any, event: Any) -> Any:
        return event * 2


def keep(context: Any, row: Any) -> Any:
    return row


def kind(value: Any) -> str:
    """What a case is called: without an address in it, which every process would spell another way."""
    return str(getattr(value, "__name__", type(value).__name__))


def refused(*parts: Any, name: Any = "copy", **options: Any) -> ConfigurationError:
    """The refusal of a pipeline of these parts; it is a `ValueError`, too."""
    with pytest.raises(ConfigurationError) as caught:
        Pipeline(name, *parts, **options)
    assert isinstance(caught.value, ValueError)
    assert caught.value.remedy, "it says what to do"
    return caught.value


# Names


@pytest.mark.parametrize("name", ["a", "flights", "Flights_2.new-york", "9", "_", "x" * 100])
def test_a_job_may_be_called(name: str) -> None:
    assert name == Pipeline(name, SOURCE, SINK).name


@pytest.mark.parametrize(
    "name", ["", " ", "two words", "-x", ".hidden", "a/b", "a\n", "a\x00", "Zürich", "x" * 101, "a;b", None, 7, b"a"]
)
def test_a_job_may_not_be_called(name: Any) -> None:
    error = refused(SOURCE, SINK, name=name)

    assert (f"{name!r} is not a job name", "Pipeline") == (error.problem, error.setting)


def test_a_job_whose_name_was_forgotten_is_told_so() -> None:
    error = refused(SINK, name=SOURCE)

    assert "Pipeline: the job has no name (name it first: Pipeline('orders', source, ..., sink))" == str(error)


# Parts


def test_parts_come_in_the_order_in_which_they_were_written() -> None:
    double = Double()

    pipeline = Pipeline("copy", SOURCE, keep, double, processor(inline=True)(keep), SINK)

    assert (SOURCE, SINK) == (pipeline.source, pipeline.sink)
    assert ["keep", "Double", "keep"] == [each.name for each in pipeline.processors]
    assert [False, False, True] == [each.inline for each in pipeline.processors]
    assert double is pipeline.processors[1]


def test_processors_may_be_left_out() -> None:
    assert () == Pipeline("copy", SOURCE, SINK).processors


def test_a_plain_function_a_lambda_and_an_object_that_can_be_called_are_processors() -> None:
    class Callable:
        def __call__(self, context: Any, row: Any) -> Any:
            return row

    pipeline = Pipeline("copy", SOURCE, keep, lambda context, row: row, Callable(), SINK)

    assert all(isinstance(each, FunctionProcessor) for each in pipeline.processors)
    assert ["keep", "<lambda>", "Callable"] == [each.name for each in pipeline.processors]


@pytest.mark.parametrize("source", [None, "src", SINK, keep, object()], ids=kind)
def test_a_source_that_is_none_is_refused(source: Any) -> None:
    error = refused(source, SINK)

    assert ("copy", "source", f"{source!r} is not a source") == (error.job, error.setting, error.problem)


def test_a_source_class_is_refused_with_what_to_write() -> None:
    error = refused(Ticks, SINK)

    assert ("Ticks is a class, not an instance", "write Ticks()") == (error.problem, error.remedy)


@pytest.mark.parametrize("parts", [[], [keep], [SINK, keep], [PostgresSink], [None]], ids=kind)
def test_a_pipeline_without_a_sink_at_its_end_is_refused(parts: list[Any]) -> None:
    error = refused(SOURCE, *parts)

    assert ("copy", "sink", "the last part is not a sink") == (error.job, error.setting, error.problem)


def test_a_second_sink_is_refused_and_told_by_its_place() -> None:
    error = refused(SOURCE, keep, PPrintSink(), SINK)

    assert ("sink", "part 2 is a sink but not the last part") == (error.setting, error.problem)


@pytest.mark.parametrize("part", [None, 7, "keep", Double, [keep]], ids=kind)
def test_a_part_that_is_no_processor_is_refused_and_told_by_its_place(part: Any) -> None:
    error = refused(SOURCE, keep, part, SINK)

    assert ("copy", "processors") == (error.job, error.setting)
    assert f"part 2, {part!r}, is not a processor" == error.problem


@pytest.mark.parametrize("function", [lambda: None, lambda row: row, lambda a, b, c: a], ids=["none", "one", "three"])
def test_a_function_of_another_shape_is_refused_with_the_name_of_the_job(function: Any) -> None:
    error = refused(SOURCE, keep, function, SINK)

    assert ("copy", "processor") == (error.job, error.setting)
    assert "cannot be called with (context, row)" in error.problem


def in_parts(context: Any, row: Any) -> Any:
    yield row


async def in_parts_and_async(context: Any, row: Any) -> Any:
    yield row


@pytest.mark.parametrize("function", [in_parts, in_parts_and_async, functools.partial(in_parts)], ids=kind)
def test_a_generator_is_refused_for_nobody_would_go_through_it(function: Any) -> None:
    error = refused(SOURCE, keep, function, SINK)

    assert ("copy", "processor", "return a list in place of yield") == (error.job, error.setting, error.remedy)
    assert "is a generator" in error.problem


# Options


def test_options_are_read_where_they_are_written() -> None:
    pipeline = Pipeline("copy", SOURCE, SINK, max_quarantined="2.5%", timeout="1m30s")

    assert ("2.5%", timedelta(seconds=90)) == (str(pipeline.quota), pipeline.timeout)


def test_without_options_nothing_is_bounded() -> None:
    pipeline = Pipeline("copy", SOURCE, SINK)

    assert not pipeline.quota.exceeded(10**9, 10**9)
    assert (None, {}) == (pipeline.timeout, dict(pipeline.resources))


@pytest.mark.parametrize("quota", [-1, 0.5, "x", "101%", "-1%", True, [], "1/2"])
def test_a_quota_that_is_none_is_refused(quota: Any) -> None:
    error = refused(SOURCE, SINK, max_quarantined=quota)

    assert ("copy", "max_quarantined") == (error.job, error.setting)


@pytest.mark.parametrize(
    "timeout", ["soon", -1, "", True, float("nan"), float("inf"), [], 0, "0s", timedelta(0)], ids=kind
)
def test_a_timeout_in_which_nothing_can_be_done_is_refused(timeout: Any) -> None:
    error = refused(SOURCE, SINK, timeout=timeout)

    assert ("copy", "timeout") == (error.job, error.setting)
    assert repr(timeout) in error.problem


def test_limits_are_durations() -> None:
    source = BatchProcessingSource("src", pending="p", done="d", pending_since="created_at")

    pipeline = Pipeline("copy", source, SINK, finish_within="2h", backlog_limit=90, quiet_for=timedelta(days=1))

    expected = (timedelta(hours=2), timedelta(seconds=90), timedelta(days=1))
    assert expected == (pipeline.finish_within, pipeline.backlog_limit, pipeline.quiet_for)
    assert timedelta(seconds=90) == pipeline.limits.shortest
    assert Pipeline("copy", SOURCE, SINK).limits.shortest is None


@pytest.mark.parametrize("setting", ["finish_within", "backlog_limit", "quiet_for"])
@pytest.mark.parametrize("value", ["soon", -1, 0, True, []], ids=kind)
def test_a_limit_that_is_no_duration_is_refused(setting: str, value: Any) -> None:
    error = refused(SOURCE, SINK, **{setting: value})

    assert ("copy", setting) == (error.job, error.setting)
    assert repr(value) in error.problem
    assert error.remedy


@pytest.mark.parametrize(
    ("source", "said"),
    [(SOURCE, "pending_since='created_at'"), (Ticks(), "only a BatchProcessingSource has")],
    ids=["no column", "no table"],
)
def test_the_age_of_pending_rows_is_not_guessed(source: TriggerSource, said: str) -> None:
    error = refused(source, SINK, backlog_limit="1h")

    assert ("copy", "backlog_limit") == (error.job, error.setting)
    assert said in str(error.remedy)


@pytest.mark.parametrize("column", ["", 5, "a\x00b"])
def test_a_column_that_cannot_be_is_refused(column: Any) -> None:
    with pytest.raises(ConfigurationError, match="pending_since"):
        BatchProcessingSource("src", pending="p", done="d", pending_since=column)


@pytest.mark.parametrize("hook", [5, "print", Double, lambda: None, lambda a, b: None], ids=kind)
def test_a_hook_that_cannot_be_called_with_an_event_is_refused(hook: Any) -> None:
    error = refused(SOURCE, SINK, on_event=hook)

    assert ("copy", "on_event") == (error.job, error.setting)
    assert "def tell(event)" in str(error.remedy)


def test_a_source_may_have_the_hook_as_a_method() -> None:
    class Told(Ticks):
        async def on_event(self, event: Any) -> None:
            raise AssertionError

    source = Told()

    assert source.on_event == Pipeline("copy", source, SINK).on_event
    assert print == Pipeline("copy", source, SINK, on_event=print).on_event
    assert Pipeline("copy", Ticks(), SINK).on_event is None


def test_a_resource_that_nobody_can_open_is_refused_by_its_name() -> None:
    error = refused(SOURCE, SINK, resources={"client": object, "model": 7})

    assert ("copy", "resources", "'model' is not a function") == (error.job, error.setting, error.problem)


@pytest.mark.parametrize("resources", [keep, ["client"], "client", 7, [("client", object)]], ids=kind)
def test_resources_without_names_are_refused(resources: Any) -> None:
    error = refused(SOURCE, SINK, resources=resources)

    assert ("copy", "resources") == (error.job, error.setting)


def test_resources_are_not_opened_and_cannot_be_changed_afterwards() -> None:
    opened: list[str] = []
    given = {"client": lambda: opened.append("client")}

    pipeline = Pipeline("copy", SOURCE, SINK, resources=given)
    given["other"] = given["client"]

    assert ([], ["client"]) == (opened, list(pipeline.resources))
    with pytest.raises(TypeError):
        pipeline.resources["other"] = object  # type: ignore[index]


# Inert


def test_a_pipeline_tells_where_it_was_declared() -> None:
    line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    pipeline = Pipeline("copy", SOURCE, SINK)

    assert f"{__file__}:{line}" == pipeline.declared_at
    assert "Pipeline('copy')" == repr(pipeline)


def test_a_definition_is_not_touched_by_the_runs_of_it() -> None:
    """P12: each run binds a copy, so that runs beside each other do not meet in the definition."""

    class Driven:
        def __init__(self) -> None:
            self.events: list[Any] = []

        async def process(self, *events: Any) -> None:
            self.events += events

    source = Ticks().on(CronTrigger("* * * * *"))
    one, other = Driven(), Driven()

    asyncio.run(source.bound(one).cycle())  # type: ignore[arg-type]
    asyncio.run(source.bound(other).cycle())  # type: ignore[arg-type]

    assert ([1], [1]) == (one.events, other.events)
    assert not hasattr(source, "pipeline")


# Triggers


def test_triggers_may_be_attached_in_one_call_or_in_several_and_stay_in_order() -> None:
    first, second, third = (CronTrigger(f"{minute} * * * *") for minute in range(3))

    source = Ticks().on(first, second).on(third)

    assert (first, second, third) == source.triggers


def test_triggers_are_of_the_source_they_were_attached_to() -> None:
    Ticks().on(CronTrigger("* * * * *"))

    assert () == Ticks().triggers


def test_triggers_are_named_by_kind_and_numbered_from_the_second_on() -> None:
    source = Ticks().on(*(CronTrigger(f"{minute} * * * *") for minute in range(3)))

    assert ["cron", "cron-2", "cron-3"] == list(source.named_triggers())
    assert list(source.triggers) == list(source.named_triggers().values())


@pytest.mark.parametrize("trigger", [None, "* * * * *", CronTrigger, 300], ids=kind)
def test_what_is_no_trigger_is_refused_and_nothing_is_attached(trigger: Any) -> None:
    source = Ticks()

    with pytest.raises(ConfigurationError, match=r"is not a trigger .*CronTrigger") as caught:
        source.on(CronTrigger("* * * * *"), trigger)

    assert ("source.on", ()) == (caught.value.setting, source.triggers)


# Sinks


def test_a_sink_of_ones_own_is_called_by_its_class_name_and_a_table_by_its_own() -> None:
    class Mail(Sink):
        def write(self, context: Any, rows: list[Any]) -> None:
            pass

    assert ["Mail", "-> sales.dst"] == [Mail().name, PostgresSink("sales.dst").name]


@pytest.mark.parametrize("key", [(), [], "", ("a", ""), ("a", "a"), 7, {"a"}, (1,)], ids=kind)
def test_a_key_of_a_sink_that_names_no_columns_is_refused(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="key=") as caught:
        PostgresSink("dst", key=key)

    assert "PostgresSink" == caught.value.setting
    assert caught.value.remedy


@pytest.mark.parametrize("table", ["", None, 7], ids=kind)
def test_a_sink_without_a_table_is_refused(table: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not a name"):
        PostgresSink(table)


def test_a_table_sink_is_never_written_by_hand() -> None:
    with pytest.raises(TypeError, match="written by the framework"):
        SINK.write(None, [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"mode": "copy"}, "one of 'insert', 'append', 'upsert', 'merge'"),
        ({"mode": 5}, "is not one"),
        ({"mode": ["insert"]}, "is not one"),
        ({"mode": "upsert"}, "needs a key"),
        ({"mode": "merge"}, "needs a key"),
        ({"mode": "insert", "key": "id"}, "has no use for a key"),
        ({"mode": "append", "key": "id"}, "has no use for a key"),
    ],
)
def test_a_mode_that_does_not_go_with_the_key_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        PostgresSink("dst", **how)


def test_modes_that_go_with_the_key_are_taken() -> None:
    modes = [PostgresSink("dst", mode=mode).mode for mode in (None, "insert", "append")]
    upserting = [PostgresSink("dst", key="id", mode=mode).mode for mode in (None, "upsert", "merge")]

    assert [None, "insert", "append"] == modes
    assert [None, "upsert", "merge"] == upserting


@pytest.mark.parametrize("given", ["postgresql://me:hunter2@host/db", "", "A B", 5, None, "Ü"])
def test_a_destination_is_named_by_a_variable_and_never_by_its_url(given: Any) -> None:
    """Whatever was given in its place is not repeated: it may hold a password."""
    with pytest.raises(ConfigurationError, match="RemotePostgresSink: dsn_env is not the name of a variable") as caught:
        RemotePostgresSink("dst", dsn_env=given)

    assert "hunter2" not in str(caught.value)


def test_a_destination_is_declared_like_a_table_here() -> None:
    sink = RemotePostgresSink("sales.dst", ("a", "b"), dsn_env="WAREHOUSE_URL", mode="merge", pooled=True)

    assert ("-> sales.dst (WAREHOUSE_URL)", "WAREHOUSE_URL", True) == (sink.name, sink.dsn_env, sink.pooled)
    assert ("sales.dst", ("a", "b"), "merge") == (sink.within.table, sink.within.key, sink.within.mode)
    with pytest.raises(ConfigurationError, match="needs a key"):
        RemotePostgresSink("dst", dsn_env="WAREHOUSE_URL", mode="merge")
