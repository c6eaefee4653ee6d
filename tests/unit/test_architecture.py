"""The rules of the house, where a machine can see them: shape, names, statements, and imports without effect."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import etl

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "etl"
MODULES = sorted(PACKAGE.rglob("*.py"))
STATEMENTS = sorted((PACKAGE / "sql").glob("*.sql"))
# What sets up tables may hold several commands.
OURS = [path for path in STATEMENTS if not path.name.startswith(("demo_", "create_"))]
MIGRATIONS = sorted((ROOT / "migrations").glob("*.sql"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def bare(sql: str) -> str:
    """A statement without its comments and strings."""
    return re.sub(r"--[^\n]*|'[^']*'", "", sql)


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    """What was read is kept for these tests, and not for those of other modules."""
    yield
    nodes.cache_clear()
    code.cache_clear()


@cache
def nodes() -> list[tuple[str, ast.AST]]:
    """All that the package says, with the module that says it."""
    return [(name(path), node) for path in MODULES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


@cache
def code() -> str:
    return "\n".join(module.read_text(encoding="utf-8") for module in MODULES)


def definitions(kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[tuple[str, ast.AST]]:
    return ((where, node) for where, node in nodes() if isinstance(node, kind))


# Shape


def test_no_module_is_longer_than_one_can_read() -> None:
    long = {name(path): lines for path in MODULES if (lines := len(path.read_text().splitlines())) > 400}

    assert {} == long


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{where}: {node.name}": lines
        for where, node in definitions((ast.FunctionDef, ast.AsyncFunctionDef))
        if isinstance(node, Function) and (lines := (node.end_lineno or 0) - node.lineno + 1) >= 60
    }

    assert {} == long


def test_no_class_has_more_public_methods_than_one_can_remember() -> None:
    """Values with a dozen properties (what a processor is told) are no such class."""
    wide = {}
    for where, node in definitions(ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        methods = [
            each.name
            for each in node.body
            if isinstance(each, Function) and not each.name.startswith("_") and not each.decorator_list
        ]
        if len(methods) > 12:
            wide[f"{where}: {node.name}"] = len(methods)

    assert {} == wide


@pytest.mark.parametrize("word", ["utils", "helpers", "manager", "base", "common", "misc"])
def test_nothing_is_named_after_nothing(word: str) -> None:
    names = [name(path) for path in PACKAGE.rglob("*") if word in path.stem.lower().split("_")]
    classes = [node.name for _, node in definitions(ast.ClassDef) if isinstance(node, ast.ClassDef)]

    assert [] == names
    assert [] == [each for each in classes if word in re.sub(r"(?<!^)([A-Z])", r"_\1", each).lower().split("_")]


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        name(path)
        for path in MODULES
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert [] == silent


def test_what_job_modules_use_says_what_it_does() -> None:
    assert sorted(etl.__all__) == etl.__all__
    assert [] == [each for each in etl.__all__ if not (getattr(etl, each).__doc__ or "").strip()]


# Rules of time: the decisions get it as an argument, and what is due is the server's to say


@pytest.mark.parametrize("layer", ["core", "triggers"])
def test_decisions_look_at_no_clock(layer: str) -> None:
    clocks = {"now", "utcnow", "today", "time", "monotonic", "perf_counter", "sleep"}
    calls = [
        f"{where}:{node.lineno}"
        for where, node in definitions(ast.Call)
        if where.startswith(f"etl/{layer}/")
        and isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in clocks
    ]

    assert [] == calls


@pytest.mark.parametrize("path", [*STATEMENTS, *MIGRATIONS], ids=lambda path: path.stem)
def test_statements_ask_one_clock_that_goes_on_within_a_transaction(path: Path) -> None:
    """`now()` stands still from BEGIN on: a lease judged by it would be judged by when the judge began."""
    other = re.findall(r"(?<!_)\bnow\s*\(|current_timestamp|localtimestamp|transaction_timestamp|statement_timestamp",
                       bare(path.read_text()), re.IGNORECASE)  # fmt: skip

    assert [] == other


# Statements


@pytest.mark.parametrize("path", STATEMENTS, ids=lambda path: path.stem)
def test_a_statement_begins_with_what_it_does_and_explains_its_parameters(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    header = "\n".join(line for line in text.splitlines() if line.startswith("--"))

    assert text.startswith("-- ")
    used = {int(number) for number in re.findall(r"\$(\d+)", bare(text))}
    explained = {int(number) for number in re.findall(r"\$(\d+)", header)}
    assert used == explained
    assert used == set(range(1, len(used) + 1)), "parameters are numbered without a gap"


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_a_file_holds_one_statement(path: Path) -> None:
    """What a prepared statement can be; several would be one step to whoever cuts connections between them."""
    assert ";" not in bare(path.read_text()).strip().rstrip(";")


@pytest.mark.parametrize("path", STATEMENTS, ids=lambda path: path.stem)
def test_no_statement_is_left_over(path: Path) -> None:
    assert re.search(rf"""["']{path.stem}["']""", code())


def test_every_statement_that_is_asked_for_exists() -> None:
    asked = {
        node.args[0].value
        for _, node in definitions(ast.Call)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "statement"
        and isinstance(node.args[0], ast.Constant)
    }

    assert set() == asked - {path.stem for path in STATEMENTS}
    assert len(asked) > 30


@pytest.mark.parametrize(
    "path", [path for path in OURS if "SKIP LOCKED" in path.read_text()], ids=lambda path: path.stem
)
def test_rows_chosen_by_skipping_locks_are_chosen_before_they_are_changed(path: Path) -> None:
    """In a plain sub-select the choice may be made again for each row: 2,000 rows were updated where 5 were meant."""
    sql = bare(path.read_text())
    if re.search(r"\b(UPDATE|DELETE)\s+(FROM\s+)?etl\.", sql):
        chosen = sql[: sql.index("SKIP LOCKED")]
        assert "AS (" not in chosen[chosen.rindex("AS MATERIALIZED (") :]


def test_statements_with_names_of_the_users_are_composed_in_a_few_modules() -> None:
    """Anywhere else an f-string with SQL in it would be a way in for whoever names a table."""
    composed = {
        where
        for where, node in definitions(ast.JoinedStr)
        if isinstance(node, ast.JoinedStr)
        and re.match(
            r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM)\b",
            next((str(part.value) for part in node.values if isinstance(part, ast.Constant)), ""),
        )
    }

    # The last two read a claimed table again, row by row, and ask a query for its columns.
    allowed = {"user_table", "held_rows", "ledger", "cursor_table", "waiting", "composing", "claims", "check"}
    assert allowed == {Path(where).stem for where in composed}


def test_migrations_are_numbered_from_one_without_a_gap() -> None:
    numbers = [int(path.name.split("_")[0]) for path in MIGRATIONS]

    assert list(range(1, len(MIGRATIONS) + 1)) == numbers
    assert all("Locks:" in path.read_text() for path in MIGRATIONS), "each says what it locks"


# What travels with the project


def test_the_lock_file_names_no_host_and_every_hash() -> None:
    text = (ROOT / "requirements.lock").read_text()
    pinned = re.findall(r"^[a-z0-9].*==", text, re.MULTILINE | re.IGNORECASE)

    assert "://" not in text
    assert len(pinned) > 20
    assert len(pinned) == len(
        re.findall(r"^[a-z0-9].*== ?.*\\\n    --hash=sha256:", text, re.MULTILINE | re.IGNORECASE)
    )


# P12

LOOKOUT = """
    import sys, threading
    seen = []
    def look(event, arguments):
        if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.mkdir",
                             "os.remove", "os.rename", "signal.")):
            seen.append(event)
        elif event == "open" and isinstance(arguments[1], str) and set("wax+") & set(arguments[1]):
            seen.append(f"open {arguments[0]} {arguments[1]}")
    sys.path.insert(0, sys.argv[1])
    sys.dont_write_bytecode = True
    sys.addaudithook(look)
    import jobs.flights
    assert jobs.flights.flights.name == "flights"
    loops = [name for name in ("asyncpg", "croniter", "opentelemetry.sdk", "tenacity") if name in sys.modules]
    print(seen, threading.active_count(), loops)
"""


def test_importing_a_job_module_touches_nothing() -> None:
    """No connection, no file, no process, no thread; nor the driver, which a declaration has no use for."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOOKOUT), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert ("[] 1 []\n", "") == (result.stdout, result.stderr)
