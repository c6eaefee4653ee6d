"""By what code a job is, as it can be read from the disk around its module."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from etl.runtime.code_version import code_version

COMMIT = "3f9c2ab1d2e4" + "0" * 28
SOURCE = "copy = 1\n"
DIGEST = f"file:{hashlib.sha256(SOURCE.encode()).hexdigest()[:12]}"


def module(folder: Path) -> Path:
    """`jobs/work.py` in a folder."""
    path = folder / "jobs" / "work.py"
    path.parent.mkdir(parents=True)
    path.write_text(SOURCE)
    return path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("kept", ["loose", "packed", "detached", "worktree"])
def test_the_commit_that_is_checked_out_is_named_wherever_git_keeps_it(tmp_path: Path, kept: str) -> None:
    path = module(tmp_path / "shop")
    git = tmp_path / "shop" / ".git"
    if kept == "worktree":
        write(git, f"gitdir: {tmp_path / 'main.git' / 'worktrees' / 'shop'}\n")
        git = tmp_path / "main.git" / "worktrees" / "shop"
        write(git / "commondir", "../..\n")
        write(tmp_path / "main.git" / "refs" / "heads" / "main", f"{COMMIT}\n")
    elif kept == "loose":
        write(git / "refs" / "heads" / "main", f"{COMMIT}\n")
    elif kept == "packed":
        write(git / "packed-refs", f"# pack-refs with: peeled\n{COMMIT} refs/heads/main\n^{'0' * 40}\n")
    write(git / "HEAD", f"{COMMIT}\n" if kept == "detached" else "ref: refs/heads/main\n")

    told = code_version(f"{path}:12")

    assert f"git:3f9c2ab1d2e4 {DIGEST}" == told


def test_a_module_of_an_installed_package_has_that_ones_version(tmp_path: Path) -> None:
    path = tmp_path / "site-packages" / "hypothesis" / "jobs.py"
    write(path, SOURCE)
    unknown = tmp_path / "site-packages" / "no_such_package" / "jobs.py"
    write(unknown, SOURCE)

    told, other = code_version(f"{path}:1"), code_version(f"{unknown}:1")

    assert told is not None
    assert told.startswith("hypothesis:6.")
    assert told.endswith(f" {DIGEST}")
    assert DIGEST == other


def test_what_cannot_be_told_is_left_out(tmp_path: Path) -> None:
    plain, broken = module(tmp_path / "plain"), module(tmp_path / "broken")
    write(tmp_path / "broken" / ".git" / "HEAD", "ref: refs/heads/gone\n")

    assert [DIGEST, DIGEST, None, None] == [
        code_version(f"{plain}:1"), code_version(f"{broken}:1"), code_version(f"{tmp_path}/no.py:1"), code_version("?"),
    ]  # fmt: skip
