"""The docs are run: the tutorial word for word, the README's job and output, and every command and setting is described."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from etl.cli.commands import app
from etl.config import Settings
from etl.jobs import find_jobs
from tests.kit import Project

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what stands behind it (`title="file"`, `exit=3`), its text."""

    language: str
    options: dict[str, str]
    text: str


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for language, options, text in BLOCK.findall(path.read_text(encoding="utf-8")):
        pairs = re.findall(r'(\w+)="?([^"\s]+)"?', options)
        found.append(Block(language, dict(pairs), text))
    return found


def shown(expected: str) -> re.Pattern[str]:
    """A pattern for output as the docs show it: `...` stands for anything, spaces are flexible."""
    lines = []
    for line in expected.strip().splitlines():
        if line.strip() == "...":
            lines.append(r"(?:.*\n)*?")
        else:
            words = [re.escape(word).replace(re.escape("..."), ".*") for word in line.split()]
            lines.append(r"[^\S\n]*" + r"[^\S\n]+".join(words) + r"[^\S\n]*\n")
    return re.compile("".join(lines), re.MULTILINE)


def shell(project: Project, script: str) -> subprocess.CompletedProcess[str]:
    """Run a block of shell as a reader would, with `etl` on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=project.folder,
        env={**project.environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_tutorial_works_word_for_word(project: Project) -> None:
    """Every file is written, every command run, every output compared."""
    output = ""
    commands = 0
    for block in blocks(ROOT / "docs/tutorial.md"):
        if "title" in block.options:
            target = project.folder / block.options["title"]
            target.parent.mkdir(exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        elif "replace" in block.options:
            target = project.folder / block.options["replace"]
            name = block.text.split("=")[0]
            text = target.read_text(encoding="utf-8")
            target.write_text(re.sub(rf"^{name}=.*\n", block.text, text, flags=re.MULTILINE), encoding="utf-8")
        elif "append" in block.options:
            target = project.folder / block.options["append"]
            target.write_text(target.read_text(encoding="utf-8") + block.text, encoding="utf-8")
        elif block.language == "sh":
            done = shell(project, block.text)
            assert int(block.options.get("exit", 0)) == done.returncode, (block.text, done.stdout, done.stderr)
            output = done.stdout
            commands += 1
        elif block.language == "text":
            assert shown(block.text).search(output), f"expected:\n{block.text}\ngot:\n{output}"

    assert 8 == commands


def test_the_readme_shows_what_the_demo_prints(project: Project) -> None:
    """The first block of output in the README is that of the first command."""
    expected = next(block.text for block in blocks(ROOT / "README.md") if block.language == "text")

    done = project.etl("demo")

    assert 0 == done.code, done.err
    assert shown(expected).search(done.out), done.out


def test_the_readme_job_can_be_declared(project: Project) -> None:
    """It names what exists, and is found as a job."""
    text = next(block.text for block in blocks(ROOT / "README.md") if block.language == "python")
    project.write_job(text, module="readme_invoices")

    found = find_jobs(["jobs"], project.folder)

    assert ["invoices"] == list(found.pipelines)
    assert [] == found.broken


def _commands() -> dict[str, Any]:
    group = typer.main.get_command(app)
    return dict(group.commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(_commands()))
def test_every_command_and_option_is_described(name: str) -> None:
    """On the page of the command line, with each of its options; and its help ends with an example."""
    page = (ROOT / "docs/reference/command-line.md").read_text(encoding="utf-8")
    line = next((line for line in page.splitlines() if line.startswith(f"| `etl {name}")), "")
    options = [option for parameter in _commands()[name].params for option in parameter.opts if option.startswith("-")]

    assert line, f"etl {name} is not on the page"
    for option in options:
        assert option in ("--json", "--limit", "-n", "--help") or option in line, f"{option} is not described"
    assert "Example: etl" in (_commands()[name].help or "")


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_described(name: str) -> None:
    """With its variable."""
    page = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")

    assert f"| `{name}` | `ETL_{name.upper()}` |" in page


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("docs/**/*.md")) + sorted(ROOT.glob("*.md")), ids=lambda path: path.name
)
def test_links_lead_somewhere(path: Path) -> None:
    """Relative links name files that exist."""
    text = path.read_text(encoding="utf-8")
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]

    missing = [target for target in targets if target and not (path.parent / target).exists()]

    assert [] == missing
