"""What settings override of jobs: which place wins, what each key does, what is refused, and where values come from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from etl import (
    BatchProcessingSource,
    ClockTrigger,
    ConfigurationError,
    CronTrigger,
    Missed,
    Overlap,
    Pipeline,
    PPrintSink,
    PubSubTrigger,
    RunOnceTrigger,
    Trigger,
    TriggerSource,
)
from etl.config import JobSetting, WrittenOverrides
from etl.core.limits import Limits
from etl.core.origins import settings_of
from etl.core.overrides import KEYS, Declarations, Overridden, clock_triggers, entries_by_job, overridden
from etl.core.quota import Quota
from etl.jobs import BrokenModule, FoundJobs, override

DECLARATIONS = Declarations(cron=CronTrigger, table_source=BatchProcessingSource)
FILE = "etl.toml [pipeline.flights]"
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)


class Own(TriggerSource):
    async def cycle(self, *args: Any, **kwargs: Any) -> None:
        await self.pipeline.ready()


def table(*triggers: Trigger, **options: Any) -> BatchProcessingSource:
    return BatchProcessingSource("inbox", pending="waiting", done="waiting = false", **options).on(*triggers)


def job(*triggers: Trigger, name: str = "flights", source: TriggerSource | None = None, **options: Any) -> Pipeline:
    return Pipeline(name, table(*triggers) if source is None else source, PPrintSink(), **options)


def in_file(values: Mapping[str, Any], name: str = "flights") -> tuple[JobSetting, ...]:
    return tuple(JobSetting(name, key, value, f"etl.toml [pipeline.{name}]") for key, value in values.items())


def said(
    pipeline: Pipeline, values: Mapping[str, Any] | None = None, variables: Mapping[str, str] | None = None
) -> Overridden:
    """The job with these keys in its section, and these variables."""
    written = WrittenOverrides(in_file(values or {}, pipeline.name), variables or {})
    entries, strangers = entries_by_job(written, [pipeline.name])
    assert [] == strangers
    return overridden(pipeline, entries.get(pipeline.name, ()), DECLARATIONS, ["api"])


def clock(result: Overridden, name: str = "cron") -> ClockTrigger:
    assert [] == list(map(str, result.faults))
    return clock_triggers(result.pipeline.source)[name]


def first(trigger: ClockTrigger) -> str:
    return f"{next(trigger.fire_times(NEW_YEAR)).astimezone(UTC):%m-%d %H:%M}"


# What each key does


def test_without_a_word_the_definition_itself_is_served() -> None:
    pipeline = job(CronTrigger("@daily"))

    assert pipeline is said(pipeline).served


@pytest.mark.parametrize("digits", [50, "50", " 50 "])
def test_numbers_may_be_text_as_variables_and_ini_files_have_them(digits: int | str) -> None:
    result = said(job(), {"batch_size": digits, "concurrency": digits, "max_quarantined": digits})

    source = result.pipeline.source
    assert isinstance(source, BatchProcessingSource)
    assert ([], 50, 50, Quota(count=50)) == (
        result.faults,
        source.batch_size,
        source.concurrency,
        result.pipeline.quota,
    )


def test_bounds_and_names_of_the_job_itself() -> None:
    limits = {"finish_within": "5m", "backlog_limit": "1h", "quiet_for": 86400}
    result = said(
        job(max_quarantined=5, source=table(pending_since="created_at")),
        {"max_quarantined": "2%", "timeout": "10m", "pool": "api", "overlap_key": "all", **limits},
    )

    changed = result.pipeline
    assert (Quota(percent=2.0), timedelta(minutes=10), "api", "all") == (
        changed.quota,
        changed.timeout,
        changed.pool,
        changed.overlap_key,
    )
    assert Limits(timedelta(minutes=5), timedelta(hours=1), timedelta(days=1)) == changed.limits


def test_none_takes_a_bound_of_the_job_module_away() -> None:
    declared = job(CronTrigger("@daily", start_deadline=5), max_quarantined=5, timeout=5, pool="api", quiet_for=5,
                   finish_within=5)  # fmt: skip
    keys = ("max_quarantined", "timeout", "pool", "start_deadline", "quiet_for", "finish_within", "backlog_limit")

    result = said(declared, dict.fromkeys(keys, "none"))

    changed = result.pipeline
    assert (Quota(), None, None, None) == (changed.quota, changed.timeout, changed.pool, clock(result).start_deadline)
    assert Limits() == changed.limits


def test_a_schedule_changes_the_text_and_nothing_else_of_the_one_cron_trigger() -> None:
    options: dict[str, Any] = {
        "timezone": "America/New_York",
        "starting": date(2027, 3, 1),
        "until": "2027-03-31",
        "excluding": ["2027-03-02"],
        "jitter": "3m",
        "overlap": "queue(2)",
        "missed": "all(3)",
        "start_deadline": "1h",
        "day_match": "and",
        "seconds": "last",
    }

    changed = clock(said(job(CronTrigger("0 4 * * * 0", **options)), {"schedule": "0 18 13 * sat 0"}))

    assert CronTrigger("0 18 13 * sat 0", **options).spec == changed.spec
    assert (Overlap.queue(2), Missed.all(3), timedelta(hours=1)) == (
        changed.overlap,
        changed.missed,
        changed.start_deadline,
    )


def test_a_zone_moves_wall_time_and_leaves_written_moments_where_they_were() -> None:
    declared = CronTrigger("0 6 * * *", starting="2027-01-02", excluding=["2027-01-02"])

    changed = clock(said(job(declared), {"timezone": "Asia/Tokyo"}))

    assert ("01-03 06:00", "01-02 21:00") == (first(declared), first(changed))
    assert declared.window.start == changed.window.start


def test_a_zone_that_leaves_no_fire_time_is_refused() -> None:
    declared = CronTrigger("0 6 * * *", starting="2027-01-02 05:00", until="2027-01-02 07:00")

    result = said(job(declared), {"timezone": "Asia/Tokyo"})

    assert [f"{FILE} timezone"] == [fault.setting for fault in result.faults]


def test_policies_are_those_of_every_clock_trigger_and_of_no_other() -> None:
    message = PubSubTrigger("topic")
    declared = job(CronTrigger("@daily"), message, RunOnceTrigger())

    result = said(declared, {"overlap": "parallel(2)", "missed": "within(15m)", "start_deadline": 60})

    for name in ("cron", "run-once"):
        trigger = clock(result, name)
        assert (Overlap.parallel(2), Missed.within(900), timedelta(minutes=1)) == (
            trigger.overlap,
            trigger.missed,
            trigger.start_deadline,
        )
    assert result.pipeline.source.triggers[1] is message
    assert Overlap.again == message.overlap


def test_of_several_clock_triggers_a_key_may_name_one_and_wins_over_what_means_all() -> None:
    declared = job(CronTrigger("0 1 * * *"), CronTrigger("0 2 * * *"), RunOnceTrigger())

    result = said(
        declared, {"timezone.cron-2": "Asia/Tokyo", "timezone": "Europe/Vienna", "schedule.cron": "0 3 * * *"}
    )

    assert ("01-01 02:00", "01-01 17:00") == (first(clock(result)), first(clock(result, "cron-2")))
    assert "Europe/Vienna" == clock(result, "run-once").zone.key


def test_a_job_without_a_clock_trigger_gets_one_with_the_policies_that_are_written_beside_it() -> None:
    message = PubSubTrigger("topic")

    result = said(job(message), {"overlap": "again", "timezone": "Asia/Tokyo", "schedule": "0 6 * * *"})

    assert "01-01 21:00" == first(clock(result))
    assert Overlap.again == clock(result).overlap
    assert ["pubsub", "cron"] == list(result.pipeline.source.named_triggers())


def test_the_one_clock_trigger_of_another_kind_gives_way_to_a_schedule_and_leaves_its_policies() -> None:
    class MonthlyTrigger(ClockTrigger):
        kind = "monthly"

    result = said(job(MonthlyTrigger(timezone="Asia/Tokyo", overlap="again")), {"schedule": "0 6 * * *"})

    assert ("01-01 21:00", Overlap.again) == (first(clock(result)), clock(result).overlap)
    assert {("schedule", "cron"): FILE} == result.origins


@pytest.mark.parametrize("word", [False, "false", "no", "OFF", "0"])
def test_a_job_that_is_not_enabled_has_no_triggers_and_can_still_be_run(word: bool | str) -> None:
    declared = job(CronTrigger("@daily"), PubSubTrigger("topic"), quiet_for="1d", finish_within="1h")

    result = said(declared, {"enabled": word, "batch_size": 5})

    assert () == result.served.source.triggers
    assert Limits(finish_within=timedelta(hours=1)) == result.served.limits, "nobody expects rows of it"
    assert isinstance(result.served.source, BatchProcessingSource)
    assert 5 == result.served.source.batch_size
    assert 2 == len(declared.source.triggers)


@pytest.mark.parametrize("word", [True, "true", "Yes", "on", "1"])
def test_a_job_may_be_enabled_again_by_a_place_that_wins(word: bool | str) -> None:
    result = said(job(CronTrigger("@daily")), {"enabled": False}, {"ETL_PIPELINE__FLIGHTS__ENABLED": str(word)})

    assert result.pipeline is result.served


def test_the_inert_definition_is_not_changed_by_any_key() -> None:
    shared = CronTrigger("@daily")
    declared = job(max_quarantined=1, source=table(shared, pending_since="created_at"))
    before = {**vars(declared), **vars(declared.source), **vars(shared)}

    result = said(
        declared,
        {
            "schedule": "0 1 * * *",
            "timezone": "Asia/Tokyo",
            "overlap": "again",
            "missed": "none",
            "start_deadline": 5,
            "batch_size": 5,
            "concurrency": 5,
            "max_quarantined": 5,
            "timeout": 5,
            "pool": "api",
            "overlap_key": "k",
            "finish_within": 5,
            "backlog_limit": 5,
            "quiet_for": 5,
            "redact": ["email"],
            "redact_patterns": ["x"],
            "enabled": "no",
        },
    )

    assert [] == result.faults
    assert set(KEYS) == {key if isinstance(key, str) else key[0] for key in result.origins}
    assert before == {**vars(declared), **vars(declared.source), **vars(shared)}
    assert declared.declared_at == result.served.declared_at


def test_a_trigger_that_stands_for_two_is_changed_where_it_is_named_only() -> None:
    shared = CronTrigger("0 1 * * *")

    result = said(job(shared, shared), {"schedule.cron-2": "0 2 * * *"})

    assert ("01-01 01:00", "01-01 02:00") == (first(clock(result)), first(clock(result, "cron-2")))


def test_a_copy_is_served_by_nobody_and_goes_on_with_no_search_of_the_definition() -> None:
    declared = CronTrigger("0 1 * * *")
    reached = next(declared.fire_times(NEW_YEAR))

    async def firing(arguments: Any, key: str | None) -> None:
        raise AssertionError

    declared.serve(firing)

    changed = clock(said(job(declared), {"timezone": "Asia/Tokyo"}))

    assert "_firings" not in vars(changed)
    expected = CronTrigger("0 1 * * *", timezone="Asia/Tokyo")
    assert next(expected.fire_times(reached)) == next(changed.fire_times(reached))


# Variables


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("flights", "ETL_PIPELINE__FLIGHTS__BATCH_SIZE"),
        ("flights", "etl_pipeline__flights__batch_size"),
        ("Flights-2.daily", "ETL_PIPELINE__FLIGHTS_2_DAILY__BATCH_SIZE"),
        ("a__b", "ETL_PIPELINE__A__B__BATCH_SIZE"),
    ],
)
def test_a_variable_names_job_and_key_in_capitals_and_wins_over_the_file(name: str, variable: str) -> None:
    result = said(job(name=name), {"batch_size": 5}, {variable: "7"})

    source = result.pipeline.source
    assert isinstance(source, BatchProcessingSource)
    assert (7, variable) == (source.batch_size, result.origins["batch_size"])


def test_a_variable_about_all_clock_triggers_wins_over_what_the_file_says_about_one() -> None:
    declared = job(CronTrigger("@daily"), CronTrigger("@hourly"))

    result = said(
        declared,
        {"timezone.cron-2": "Europe/Vienna", "missed.cron-2": "none"},
        {"ETL_PIPELINE__FLIGHTS__TIMEZONE": "Asia/Tokyo", "ETL_PIPELINE__FLIGHTS__OVERLAP__CRON_2": "again"},
    )

    cron, second = clock(result), clock(result, "cron-2")
    assert ["Asia/Tokyo", "Asia/Tokyo"] == [cron.zone.key, second.zone.key]
    assert (Overlap.skip, Overlap.again, Missed.none) == (cron.overlap, second.overlap, second.missed)


@pytest.mark.parametrize(
    ("variable", "problem"),
    [
        ("ETL_PIPELINE__FLIHGTS__BATCH_SIZE", "there is no job 'flihgts' (did you mean flights?)"),
        ("ETL_PIPELINE__FLIGHTS", "names no key (e.g. ETL_PIPELINE__FLIGHTS__BATCH_SIZE)"),
        ("ETL_PIPELINE__FLIGHTS_BATCH_SIZE", "names no job (did you mean ETL_PIPELINE__FLIGHTS__BATCH_SIZE?)"),
        ("ETL_PIPELINE__A_B__POOL", "may mean each of a-b, a.b (write a section in the settings file instead)"),
    ],
)
def test_a_variable_that_names_no_job_or_several_is_refused(variable: str, problem: str) -> None:
    entries, strangers = entries_by_job(WrittenOverrides((), {variable: "1"}), ["flights", "a.b", "a-b"])

    assert ({}, [f"{variable}: {problem}"]) == (entries, list(map(str, strangers)))


# What is refused


REFUSED: list[tuple[str, Any, list[str]]] = [
    ("batchsize", 5, ["there is no key 'batchsize'", "did you mean batch_size?"]),
    ("colour", 5, ["there is no key 'colour'", "schedule, timezone, overlap"]),
    ("batch_size.cron", 5, ["there is no key 'batch_size.cron'"]),
    ("batch_size", 0, ["0 is not a whole number from 1 to 100,000", "batch_size = 500"]),
    ("batch_size", "many", ["'many' is not a whole number"]),
    ("batch_size", 1.5, ["1.5 is not a whole number"]),
    ("batch_size", True, ["True is not a whole number"]),
    ("concurrency", 65, ["65 is not a whole number from 1 to 64"]),
    ("max_quarantined", "101%", ["'101%'", "use 50 or '2%'"]),
    ("timeout", "soon", ["'soon' is not a duration"]),
    ("timeout", 0, ["0 leaves no time"]),
    ("finish_within", "soon", ["'soon' is not a duration", "finish_within='2h'"]),
    ("quiet_for", "0s", ["'0s' leaves no time"]),
    ("backlog_limit", "1h", ["nothing says since when a row is pending", "pending_since='created_at'"]),
    ("pool", "apj", ["there is no pool 'apj'", "did you mean api?", "[pools] apj = 4"]),
    ("pool", 5, ["5 is not a name"]),
    ("overlap_key", "a b", ["'a b' is not a name"]),
    ("redact", "e mail", ["'e mail' is neither a key nor a path", "$.customer.phone"]),
    ("redact_patterns", ["("], ["'(' is not a regular expression", "position 0"]),
    ("enabled", "perhaps", ["'perhaps' is neither true nor false", "write true or false"]),
    ("enabled", 2, ["2 is neither"]),
    ("schedule", "61 * * * *", ["61", "minute"]),
    ("schedule", "0 0 30 2 *", ["never comes"]),
    ("schedule", 5, ["5 is not text", "*/5 * * * *"]),
    ("schedule", " ", ["' ' is not text"]),
    ("schedule.cron-3", "* * * * *", ["no clock trigger 'cron-3'", "cron"]),
    ("timezone", "Europe/Pragu", ["'Europe/Pragu'", "Europe/Prague"]),
    ("timezone", 1, ["1 is not text"]),
    ("overlap", "sometimes", ["'sometimes' is not a policy", "'again'"]),
    ("overlap", 5, ["5 is not a policy"]),
    ("missed", "within(soon)", ["'soon' is not a duration"]),
    ("missed", "most", ["'most' is not a policy", "'last'"]),
    ("start_deadline", -1, ["-1 is not a duration"]),
]


@pytest.mark.parametrize(("key", "value", "named"), REFUSED)
def test_what_cannot_be_right_names_file_section_key_and_remedy_and_changes_nothing(
    key: str, value: Any, named: list[str]
) -> None:
    declared = job(CronTrigger("@daily"))

    result = said(declared, {key: value})

    assert declared is result.served
    [fault] = result.faults
    assert str(fault).startswith(f"{FILE} {key}: "), str(fault)
    assert [] == [piece for piece in named if piece not in str(fault)], str(fault)
    assert fault.remedy


@pytest.mark.parametrize(
    ("declared", "key", "named"),
    [
        (
            job(CronTrigger("@daily"), CronTrigger("@hourly")),
            "schedule",
            ["2 clock triggers", "schedule.cron or schedule.cron-2"],
        ),
        (
            job(CronTrigger("@daily"), RunOnceTrigger()),
            "schedule.run-once",
            ["'run-once' is no CronTrigger", "override schedule.cron"],
        ),
        (job(), "schedule.cron", ["no clock trigger", "give it one: schedule = "]),
        (job(), "timezone", ["no clock trigger", "give it one"]),
        (job(source=Own()), "backlog_limit", ["Own, the job's source, has no pending rows", "quiet_for="]),
        (job(source=Own()), "batch_size", ["Own, the job's source, has none", "BatchProcessingSource"]),
    ],
)
def test_a_key_that_does_not_fit_the_job_is_refused(declared: Pipeline, key: str, named: list[str]) -> None:
    result = said(declared, {key: "* * * * *" if key != "backlog_limit" else "1h"})

    assert [[]] == [[piece for piece in named if piece not in str(fault)] for fault in result.faults], result.faults


def test_all_faults_of_all_places_are_told_at_once_and_the_variable_by_its_name() -> None:
    result = said(job(), {"pool": "b", "batch_size": 0}, {"ETL_PIPELINE__FLIGHTS__BATCH_SIZE": "x"})

    assert [f"{FILE} batch_size", "ETL_PIPELINE__FLIGHTS__BATCH_SIZE", f"{FILE} pool"] == [
        fault.setting for fault in result.faults
    ]


# Jobs that are found


def found(*pipelines: Pipeline) -> FoundJobs:
    return FoundJobs({each.name: each for each in pipelines}, {each.name: "jobs.work" for each in pipelines})


def test_a_section_about_no_job_is_a_fault_with_the_nearest_names() -> None:
    jobs = found(job())

    override(jobs, WrittenOverrides(in_file({"pool": "api", "timeout": 5}, "flihgts")), DECLARATIONS, ["api"], {})

    expected = "etl.toml [pipeline.flihgts]: there is no job 'flihgts' (did you mean flights?)"
    assert [expected] == list(map(str, jobs.misconfigured))


def test_a_section_about_a_job_that_may_be_in_a_broken_module_stops_no_other_job() -> None:
    jobs = found(job())
    jobs.broken.append(BrokenModule("jobs.lost", "it is broken"))

    override(jobs, WrittenOverrides(in_file({"pool": "api"}, "lost")), DECLARATIONS, ["api"], {})

    assert ([], 1) == (jobs.misconfigured, len(jobs.unplaced))


def test_jobs_are_found_as_settings_have_them_and_those_elsewhere_too() -> None:
    jobs = found(job())
    written = WrittenOverrides((*in_file({"enabled": False}), *in_file({"timeout": 5}, "demo")))

    override(jobs, written, DECLARATIONS, [], {"demo": job(name="demo"), "flights": job(timeout=9)})

    assert ([], {"flights": FILE}) == (jobs.misconfigured, jobs.disabled)
    assert (["flights"], ["demo"]) == (list(jobs.pipelines), list(jobs.elsewhere))
    assert timedelta(seconds=5) == jobs.elsewhere["demo"].timeout


# Where values come from


def test_each_value_is_told_with_the_place_it_comes_from() -> None:
    declared = job(CronTrigger("@daily", timezone="Asia/Tokyo"), timeout="90s", max_quarantined="2%")

    told = settings_of(
        said(declared, {"missed": "none", "batch_size": 5}, {"ETL_PIPELINE__FLIGHTS__START_DEADLINE": "0.5"}),
        DECLARATIONS,
    )

    module = declared.declared_at
    assert {
        "schedule": ("@daily", module),
        "timezone": ("Asia/Tokyo", module),
        "overlap": ("skip", "default"),
        "missed": ("none", FILE),
        "start_deadline": ("0.5s", "ETL_PIPELINE__FLIGHTS__START_DEADLINE"),
        "batch_size": (5, FILE),
        "concurrency": (1, "default"),
        "max_quarantined": ("2%", module),
        "timeout": ("90s", module),
        "finish_within": (None, "default"),
        "backlog_limit": (None, "default"),
        "quiet_for": (None, "default"),
        "pool": (None, "default"),
        "overlap_key": ("flights", "default"),
        "redact": ([], "default"),
        "redact_patterns": ([], "default"),
        "enabled": (True, "default"),
    } == {key: (each.value, each.origin) for key, each in told.items()}


def test_of_several_clock_triggers_each_has_its_own_keys_side_by_side() -> None:
    declared = job(CronTrigger("@daily"), CronTrigger("@hourly"), source=None)

    told = settings_of(said(declared, {"schedule.cron-2": "0 1 * * *"}), DECLARATIONS)

    assert ["schedule.cron", "schedule.cron-2", "timezone.cron", "timezone.cron-2"] == list(told)[:4]
    assert ("0 1 * * *", FILE) == (told["schedule.cron-2"].value, told["schedule.cron-2"].origin)


def test_a_source_of_ones_own_has_no_batches_to_tell_of() -> None:
    told = settings_of(said(job(source=Own())), DECLARATIONS)

    limits = ["finish_within", "backlog_limit", "quiet_for"]
    rules = ["redact", "redact_patterns"]
    assert ["max_quarantined", "timeout", *limits, "pool", "overlap_key", *rules, "enabled"] == list(told)


def test_what_is_told_can_be_written_back() -> None:
    declared = job(
        CronTrigger("0 1 * * *", overlap="queue(3)", missed="within(90m)", start_deadline="36h"), timeout=0.25
    )
    told = settings_of(said(declared), DECLARATIONS)

    result = said(declared, {key: "none" if each.value is None else each.value for key, each in told.items()
                             if key != "pool"})  # fmt: skip

    assert [] == result.faults
    assert [each.value for each in told.values()] == [each.value for each in settings_of(result, DECLARATIONS).values()]


def test_a_refusal_is_one_of_configuration() -> None:
    assert isinstance(said(job(), {"pool": "x"}).faults[0], ConfigurationError)
