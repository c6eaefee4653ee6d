"""What is secret is blanked, by key, by path and by pattern; what is not stays; rules that cannot work are refused."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl import Pipeline, PPrintSink
from etl.cli.session import settings_here
from etl.cli.talk import show_uncaught
from etl.core.redaction import (
    NO_MORE,
    WINDOW,
    Redaction,
    redact_everywhere,
    redacting,
    redaction_of,
    rules,
)
from etl.core.redaction_rules import parse_patterns
from etl.core.sanitise import PAYLOAD_LIMIT, describe_exception, redact, shown_payload
from etl.core.trace import clean
from etl.errors import ConfigurationError
from tests.kit import Idle

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    redact_everywhere(NO_MORE)


# Text


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("[redacted] and on", f"{KEY} and on"),
        ("[redacted]", KEY[:40]),
        ("got [redacted].", f"got {TOKEN}."),
        ("key [redacted]", "key AKIAIOSFODNN7EXAMPLE"),
        ("aws_secret_access_key=[redacted]", "aws_secret_access_key=wJalrXUtn/K7MDENG"),
        ("[redacted] pushed", "ghp_abcdefghijklmnopqrstuvwxyz0123456789 pushed"),
        ("passwordHash: [redacted]", "passwordHash: 5f4dcc"),
        ("Cookie: [redacted]\nAccept: all", "Cookie: a=b; c=d\nAccept: all"),
        ("authorization=[redacted]", "authorization=Token one two"),
        ("{'Authorization': '[redacted]', 'n': 1}", "{'Authorization': 'Digest a, b', 'n': 1}"),
        ("[('Authorization', '[redacted]')]", "[('Authorization', 'one two')]"),
        ('{\\"token\\": \\"[redacted]\\"}', '{\\"token\\": \\"one two\\"}'),
        ("token='[redacted]'", "token='cut in the middle"),
        ("Key (email)=(a@b) already exists.", "Key (email)=(a@b) already exists."),
        ("Failing row contains ([redacted]).", "Failing row contains (1, x, (y))."),
    ],
)
def test_secrets_in_text_are_blanked_whatever_form_they_have(expected: str, text: str) -> None:
    assert expected == redact(text)
    assert expected == redact(expected)


def test_the_value_of_a_secret_column_in_a_database_error_is_blanked() -> None:
    told = redact("Key (id, api_token)=(1, one (two) three) already exists.")

    assert "Key (id, api_token)=" in told
    assert "one" not in told
    assert "three" not in told


@pytest.mark.parametrize("text", ["secretary: Bob", "3 tokens: 1, 2, 3", "max_tokens=5", "the cookie jar", "a: b"])
def test_words_that_only_resemble_are_left_alone(text: str) -> None:
    assert text == redact(text)


# Values


@pytest.mark.parametrize(
    "key",
    ["password", "PASSWORD", "db_password", "PGPASSWORD", "accessToken", "X-Api-Key", "apikey", "set-cookie", "dsn"],
)
def test_a_key_is_known_by_its_words_however_it_is_spelled(key: str) -> None:
    assert {key: "[redacted]", "n": 1} == Redaction().value({key: "x", "n": 1})


@pytest.mark.parametrize("key", ["max_tokens", "tokenizer", "keyboard", "passage", "n"])
def test_other_keys_stay(key: str) -> None:
    value = {key: "x"}

    assert value is Redaction().value(value)


@pytest.mark.parametrize("value", [None, "", True, False])
def test_nothing_and_yes_and_no_are_no_secrets(value: Any) -> None:
    assert {"token": value} == Redaction().value({"token": value})


def test_a_secret_is_blanked_whole_at_any_depth_and_in_lists_of_pairs() -> None:
    value = {"a": [{"credentials": {"user": "me", "pin": 1}}], "headers": [["Cookie", "x"], ["Accept", "y"]]}

    told = Redaction().value(value)

    assert {"a": [{"credentials": "[redacted]"}], "headers": [["Cookie", "[redacted]"], ["Accept", "y"]]} == told


def test_own_rules_are_keys_and_paths_and_patterns() -> None:
    redaction = redaction_of(("email", "$.customer.phone", "$.items[*].code"), (r"\d{4}-\d{4}",))

    told = redaction.value(
        {
            "workEmail": "a@b",
            "phone": 5,
            "customer": {"phone": 77, "name": "n"},
            "items": [{"code": "c", "n": 1}],
            "note": "card 1234-5678, email=a@b",
        }
    )

    assert {
        "workEmail": "[redacted]",
        "phone": 5,
        "customer": {"phone": "[redacted]", "name": "n"},
        "items": [{"code": "[redacted]", "n": 1}],
        "note": "card [redacted], email=[redacted]",
    } == told


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["token", "a", "email"]), inner),
    max_leaves=15,
)


@given(json_values)
def test_blanking_a_value_is_done_once_and_leaves_its_keys(value: Any) -> None:
    redaction = redaction_of(("email", "$.a.*"), ("x+",))

    once = redaction.value(value)

    assert once == redaction.value(once)
    if isinstance(value, dict):
        assert value.keys() == once.keys()


def test_an_error_that_repeats_a_secret_of_its_row_does_not_tell_it() -> None:
    row = {"id": 1, "api_key": "s3cret-word", "customer": {"phone": 420777}}
    error = describe_exception(ValueError("no s3cret-word at 420777 for 1"))

    with redacting(redaction_of(("$.customer.phone",), ())):
        told = error.without_values_of(row)

    assert "no [redacted] at [redacted] for 1" == told.message
    assert "s3cret" not in told.traceback


@pytest.mark.parametrize("size", [10, 2 * PAYLOAD_LIMIT, 30 * PAYLOAD_LIMIT])
def test_a_payload_of_any_size_is_kept_bounded_and_without_secrets(size: int) -> None:
    payload = json.dumps({"pad": "x" * size, "password": "correct horse", "tail": "y" * 100})

    told = shown_payload(payload)

    assert told is not None
    assert "horse" not in told
    assert "[redacted]" in told
    assert len(told) <= 1.2 * PAYLOAD_LIMIT
    json.loads(told)


def test_a_payload_without_secrets_stays_as_the_server_wrote_it() -> None:
    assert '{"a":1.10}' == shown_payload('{"a":1.10}')
    assert shown_payload(None) is None


# In force


async def test_rules_of_a_job_hold_in_its_own_context_only() -> None:
    mail, phone = redaction_of(("email",), ()), redaction_of(("phone",), ())
    redact_everywhere(redaction_of(("street",), ()))

    async def told(redaction: Redaction) -> str:
        with redacting(redaction):
            await asyncio.sleep(0)
            return await asyncio.to_thread(redact, "email=1 phone=2 street=3")

    both = await asyncio.gather(told(mail), told(phone))

    assert "email=[redacted] phone=2 street=[redacted]" == both[0]
    assert "email=1 phone=[redacted] street=[redacted]" == both[1]
    assert "email=1 phone=2 street=[redacted]" == redact("email=1 phone=2 street=3")


def test_what_the_framework_names_itself_is_not_taken_for_a_key_of_the_user() -> None:
    with redacting(redaction_of(("name", "job"), ())):
        told = clean({"etl.job.name": "shop", "job": "shop", "name": "Bob", "http.header.authorization": "x"})

    assert {
        "etl.job.name": "shop",
        "job": "shop",
        "name": "[redacted]",
        "http.header.authorization": "[redacted]",
    } == told


def test_the_password_of_the_database_is_blanked_by_itself() -> None:
    redact_everywhere(redaction_of((), (), "postgresql://me:hunter2%2Fhunter2@host/db"))

    assert "is [redacted] or [redacted]?" == redact("is hunter2/hunter2 or hunter2%2Fhunter2?")


def test_a_password_that_may_be_any_word_is_not_looked_for() -> None:
    redact_everywhere(
        redaction_of((), (), "postgresql://postgres_user:postgres_user@host/db", "postgresql://me:db@h/x")
    )

    assert "postgres_user of db" == redact("postgres_user of db")
    assert () == rules().literals


# Rules that cannot work


@pytest.mark.parametrize(
    ("redact_", "patterns", "said"),
    [
        ("e mail", (), "job j: redact: 'e mail' is neither a key nor a path"),
        ("$", (), "job j: redact: '$' names nothing"),
        ("$.a..b", (), "job j: redact: '$.a..b' is not a path: '..b' cannot be read"),
        ("$.a[0]", (), "'[0]' cannot be read"),
        ([7], (), "job j: redact: 7 is not text"),
        (7, (), "job j: redact: 7 is not a list"),
        ((), ["("], "job j: redact_patterns: '(' is not a regular expression: missing )"),
        ((), ["x" * 501], "has 501 characters"),
        ((), ["a*"], "matches no text at all"),
        ((), [r"\b"], "matches no text at all"),
        ((), ["(a+)+b"], "itself repeats"),
        ((), ["(?:a|bc)*d"], "has alternatives"),
        ((), ["(?:x(?=(a+)))+b"], "itself repeats"),
        ((), [".*a.*b.*c"], "3 repetitions"),
        ((), ["(a+){3}b"], "3 repetitions"),
        ((), [r"\w{1,400}\w{1,400}\w{1,400}!"], "3 repetitions"),
        ((), [f"x{n}" for n in range(101)], "101 rules"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_where_it_is_declared(redact_: Any, patterns: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Pipeline("j", Idle(), PPrintSink(), redact=redact_, redact_patterns=patterns)

    assert said in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "pattern", [r"\d{3}-\d{2}-\d{4}", r"[\w.+-]+@[\w.-]+", r"(?:CZ|SK)\d{8,10}", r"(\d{4}[ -]?){3}\d{4}"]
)
def test_ordinary_patterns_are_taken(pattern: str) -> None:
    (compiled,) = parse_patterns((pattern,))

    assert re.compile(pattern) == compiled


def test_a_slow_pattern_on_long_text_takes_its_time_and_no_more() -> None:
    redaction = redaction_of((), (".*a.*b", r"\w+\w+!"))
    started = time.process_time()

    redaction.text("a" * 3_000)

    assert time.process_time() - started < 5


@pytest.mark.parametrize("at", [0, 1, WINDOW // 2 - 5, WINDOW - 5, WINDOW, 3 * WINDOW - 7])
def test_a_pattern_is_found_wherever_it_stands_in_long_text(at: int) -> None:
    text = "x" * at + "1234-5678" + "x" * 400

    assert "x" * at + "[redacted]" + "x" * 400 == redaction_of((), (r"\d{4}-\d{4}",)).text(text)


@pytest.mark.parametrize(
    ("file", "variables", "said"),
    [
        ('redact_patterns = ["("]', {}, "etl.toml redact_patterns: '(' is not a regular expression"),
        ('redact = ["e mail"]', {}, "etl.toml redact: 'e mail' is neither a key nor a path"),
        ("", {"ETL_REDACT": "a, $"}, "ETL_REDACT: '$' names nothing"),
        ("", {"ETL_REDACT_PATTERNS": "ok\n(x+)+"}, "ETL_REDACT_PATTERNS: '(x+)+' repeats something"),
    ],
)
def test_a_rule_in_settings_that_cannot_work_is_refused_with_its_place(
    file: str, variables: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etl.toml").write_text(file, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("etl.cli.session.set_up_logging", lambda: None)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as caught:
        settings_here()

    assert said in str(caught.value)


def test_rules_in_settings_hold_in_the_whole_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("etl.cli.session.set_up_logging", lambda: None)
    monkeypatch.setenv("ETL_REDACT", "email")

    settings_here()

    assert "email=[redacted]" == redact("email=a@b")


def test_the_traceback_of_a_bug_has_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    error = RuntimeError("no way to postgresql://me:hunter2@host/db")

    show_uncaught(RuntimeError, error, None)

    assert "RuntimeError: no way to postgresql://me:[redacted]@host/db" in capsys.readouterr().err.replace("\n", "")
