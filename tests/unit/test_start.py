"""What starts fast imports little: names of modules, since a time on a busy machine says nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from etl.late import late

# What a job module imports, and what a command is that needs no part of the framework.
DECLARING = "import etl"
VERSION = "import sys; sys.argv[1:] = ['--version']; from etl.cli import main; main()"

HEAVY = ("asyncpg", "croniter", "dateutil", "jinja2", "opentelemetry", "psutil", "pydantic_settings", "tenacity")


def imported(code: str, folder: Path) -> list[str]:
    """The modules of a process that ran this code."""
    told = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
    command = [sys.executable, "-c", told + code]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    return finished.stderr.split()


@pytest.mark.parametrize(
    ("code", "too_much"),
    [
        pytest.param(DECLARING, (*HEAVY, "typer", "rich", "pydantic"), id="import etl"),
        pytest.param(VERSION, (*HEAVY, "etl.app", "etl.config", "rich"), id="etl --version"),
    ],
)
def test_what_needs_little_of_the_framework_imports_little(
    code: str, too_much: tuple[str, ...], tmp_path: Path
) -> None:
    modules = imported(code, tmp_path)

    assert "etl.core.pipeline" in modules
    assert [] == [name for name in too_much if name in modules]


def test_a_late_module_is_imported_for_the_first_of_its_attributes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_late.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = late("imported_late")

    assert "imported_late" not in sys.modules
    assert "late('imported_late')" == repr(module)
    assert 42 == module.answer
    assert "imported_late" in sys.modules
    del sys.modules["imported_late"]


def test_a_late_module_that_is_not_there_is_told_where_it_is_used() -> None:
    module = late("imported_never")

    with pytest.raises(ModuleNotFoundError, match="imported_never"):
        _ = module.answer
