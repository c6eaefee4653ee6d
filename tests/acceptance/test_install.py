"""What is installed: the wheel in an empty folder, as whoever runs it, and the checkout itself."""

from __future__ import annotations

import compileall
import configparser
import json
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import etl
from tests.places import fast_place

CHECKOUT = Path(etl.__file__).parent.parent
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"


class Installed(NamedTuple):
    """The wheel in an environment of its own."""

    wheel: Path
    command: Path
    site: Path


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    """Build the wheel and unpack it as an installer does; its dependencies are those of this environment.

    In a folder that every account can enter, with an interpreter that every account can run.
    """
    with tempfile.TemporaryDirectory(prefix="etl-wheel-", dir=fast_place()) as made:
        home = Path(made)
        home.chmod(0o755)
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(home)]
        built = subprocess.run(build, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr
        (wheel,) = home.glob("*.whl")
        venv.EnvBuilder(symlinks=True, with_pip=False).create(home / "env")
        site = home / "env/lib" / VERSION / "site-packages"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        compileall.compile_dir(site / "etl", quiet=2)
        # The editable install of this environment is not among them: a .pth file inside such a folder is not read.
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        yield Installed(wheel, _console_script(site, _python_for_all(home)), site)


def _python_for_all(home: Path) -> str:
    """The environment's Python; where its base cannot be reached by others, a copy of the base."""
    anybody = pwd.getpwnam("nobody")
    python = home / "env/bin/python"
    try:
        user = anybody.pw_uid if os.geteuid() == 0 else None
        subprocess.run([python, "-c", ""], user=user, check=True, capture_output=True)
        return str(python)
    except (PermissionError, subprocess.CalledProcessError):
        base = Path(sys.base_prefix)
        copy = home / "base"
        skipped = shutil.ignore_patterns("site-packages", "test", "tests", "idlelib", "tkinter", "config-*", "*.a")
        shutil.copytree(base / "lib" / VERSION, copy / "lib" / VERSION, ignore=skipped, symlinks=True)
        for library in (base / "lib").glob("libpython*.so*"):
            shutil.copy2(library, copy / "lib", follow_symlinks=False)
        (copy / "bin").mkdir()
        shutil.copy2(Path(sys.executable).resolve(), copy / "bin" / VERSION)
        for name in ("python", "python3", VERSION):
            (home / "env/bin" / name).unlink(missing_ok=True)
            (home / "env/bin" / name).symlink_to(copy / "bin" / VERSION)
        configuration = home / "env/pyvenv.cfg"
        configuration.write_text(f"home = {copy / 'bin'}\ninclude-system-site-packages = false\n")
        return f"/usr/bin/env LD_LIBRARY_PATH={copy / 'lib'} {python}"


def _console_script(site: Path, python: str) -> Path:
    """The command, as an installer makes it from the wheel's entry points."""
    entry_points = configparser.ConfigParser()
    entry_points.read(next(site.glob("pg_etl-*.dist-info/entry_points.txt")))
    module, function = entry_points["console_scripts"]["etl"].split(":")
    script = site.parents[2] / "bin/etl"
    script.write_text(
        f"#!/bin/sh\nexec {python} -c \"import sys; sys.argv[0] = '$0'; from {module} import {function}; {function}()\""
        ' "$@"\n'
    )
    script.chmod(0o755)
    return script


def run(
    installed: Installed, folder: Path, *arguments: str, account: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Call the installed command in a folder, as somebody."""
    environment = {
        name: os.environ[name] for name in ("PATH", "TMPDIR", "ETL_PG_BIN", "ETL_PG_OS_USER") if name in os.environ
    }
    user = pwd.getpwnam(account) if account is not None else None
    return subprocess.run(
        [str(installed.command), *arguments],
        cwd=folder,
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)},
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_has_one_top_level_package_and_brings_migrations_and_the_demo_along(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        names = archive.namelist()

    tops = {name.split("/")[0] for name in names}
    assert {"etl"} == {top for top in tops if not top.endswith(".dist-info")}
    carried = {path.name for path in (CHECKOUT / "migrations").glob("*.sql")}
    assert carried
    assert carried == {
        Path(name).name for name in names if name.startswith("etl/_migrations/") and name.endswith(".sql")
    }
    statements = {path.name for path in (CHECKOUT / "etl/sql").iterdir()}
    assert statements == {Path(name).name for name in names if name.startswith("etl/sql/")}
    demo = {"flights.py", "airports.csv", "flights-2013-01.csv.gz"}
    assert demo <= {Path(name).name for name in names if name.startswith("etl/_jobs/")}
    assert "etl/py.typed" in names
    assert not [name for name in names if name.endswith(".pyc") or "/tests/" in name]


@contextmanager
def empty_folder(account: str | None = None) -> Iterator[Path]:
    """A folder that its owner may use and others may enter."""
    with tempfile.TemporaryDirectory(prefix="etl-empty-", dir=fast_place()) as made:
        Path(made).chmod(0o755)  # or root's server would keep its data outside, where nobody deletes it
        if account is not None:
            shutil.chown(made, account)
        yield Path(made)


def test_the_installed_wheel_runs_the_whole_demo_on_an_embedded_server_in_an_empty_folder(installed: Installed) -> None:
    with empty_folder() as folder:
        first = run(installed, folder, "runs", "--json")
        demo = run(installed, folder, "demo")
        steps = [line.split()[1:] for line in demo.stdout.splitlines() if line.startswith("   ")][-2:]
        results = [run(installed, folder, *step) for step in steps]
        jobs = run(installed, folder, "jobs", "--json")
        left = [path.name for path in folder.iterdir()]

    assert (0, "[]\n") == (first.returncode, first.stdout), first.stderr
    assert f"no ETL_DATABASE_URL: making an embedded Postgres in {folder / '.etl'}\n" == first.stderr
    assert 0 == demo.returncode, demo.stderr
    assert "books balance: 27,004 claimed = 25,804 written + 521 filtered + 679 quarantined" in demo.stdout
    assert "embedded" not in demo.stderr, "said once"
    assert [["demo", "--add-airports"], ["replay", "flights", "--error", "UnknownAirport"]] == steps
    assert [0, 0] == [result.returncode for result in results], [result.stderr for result in results]
    assert "books balance: 679 claimed = 679 written" in results[1].stdout
    assert (0, []) == (jobs.returncode, json.loads(jobs.stdout)), "flights is the demo's, not this project's"
    assert [".etl"] == left


def test_the_demo_works_as_another_user_of_the_operating_system_as_well(installed: Installed) -> None:
    """The tests mostly run as root or mostly do not; root can be somebody else, others stay who they are."""
    account = "nobody" if os.geteuid() == 0 else None
    with empty_folder(account) as folder:
        demo = run(installed, folder, "demo", "--json", account=account)
        owners = {path.owner() for path in folder.rglob("*")}

    assert 0 == demo.returncode, demo.stderr
    books = {name: json.loads(demo.stdout)[name] for name in ("claimed", "written", "filtered", "quarantined")}
    assert {"claimed": 27_004, "written": 25_804, "filtered": 521, "quarantined": 679} == books
    assert {account or pwd.getpwuid(os.geteuid()).pw_name} == owners


def test_the_installed_wheel_is_what_answers_and_not_the_checkout(installed: Installed, tmp_path: Path) -> None:
    """Otherwise the tests above would prove nothing."""
    script = "import etl, importlib.metadata as m; print(etl.__file__); print(m.version('pg-etl'))"
    python = installed.command.read_text().split("exec ")[1].split(" -c ")[0].split()

    told = subprocess.run([*python, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    version = run(installed, tmp_path, "--version")

    place, number = told.stdout.split()
    assert str(installed.site / "etl/__init__.py") == place
    assert f"pg-etl {number}\n" == version.stdout
    assert number in installed.wheel.name


def test_the_checkout_finds_its_migrations_and_its_demo_without_being_built(tmp_path: Path) -> None:
    """The editable install, from any folder."""
    printed = subprocess.run(
        [sys.executable, "-m", "etl", "migrate", "--sql"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    listed = subprocess.run(
        [sys.executable, "-m", "etl", "jobs", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert 0 == printed.returncode, printed.stderr
    assert all(path.read_text().strip() in printed.stdout for path in (CHECKOUT / "migrations").glob("*.sql"))
    assert (0, []) == (listed.returncode, json.loads(listed.stdout)), "the checkout's own jobs stay where they are"
