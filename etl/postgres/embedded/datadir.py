"""Make the data directory of an embedded server, and refuse one that the programs at hand cannot serve.

initdb writes PG_VERSION early, so a directory gets its real name only when it is finished, and each attempt works in a
folder of its own: the initdb of a killed process may go on writing for a moment.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from etl.errors import ConfigurationError
from etl.postgres.embedded.account import OWN_SERVER_REMEDY, ServerAccount
from etl.postgres.embedded.binaries import Binaries

SUPERUSER = "postgres"

_BUILTIN_LOCALES_SINCE = 17
_INITDB_LIMIT = timedelta(minutes=2)
_SETTINGS = """
# Appended by pg-etl when it made this directory; edit, or ALTER SYSTEM, as you like.
max_connections = 200
log_checkpoints = off
"""
# Whoever may become the account that owns the files could change them anyway: it and root, nobody else.
_HBA = "local all all peer map=owner\n"
_OWNERS = ("root",)


def prepare(data: Path, binaries: Binaries, account: ServerAccount, *, durable: bool) -> None:
    """Make `data` unless it is there; raises ConfigurationError when these programs cannot make or serve it."""
    for unfinished in data.parent.glob(f"{data.name}.new-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    if not os.path.lexists(data):  # a link to a disk that is not mounted is no invitation to begin anew
        _make(data, binaries, account, durable=durable)
    try:
        major = (data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        raise ConfigurationError(
            f"{data} is no Postgres data directory", remedy="move it away, or choose another folder"
        ) from None
    if major != str(binaries.major):
        raise ConfigurationError(
            f"{data} was made by Postgres {major}, the programs in {binaries.folder} are Postgres {binaries.version}",
            remedy=f"set ETL_PG_BIN to the folder of a Postgres {major}, or dump the data with that and restore",
        )


def write_out(data: Path, binaries: Binaries, account: ServerAccount) -> None:
    """Bring to disk what a server without fsync, not running now, left to the kernel."""
    result = account.run([binaries.initdb, "--sync-only", "-D", str(data)], _INITDB_LIMIT)
    if result.returncode != 0:
        raise ConfigurationError(f"{data} cannot be written to disk: {result.stdout.strip()}")


def _make(data: Path, binaries: Binaries, account: ServerAccount, *, durable: bool) -> None:
    new = Path(tempfile.mkdtemp(prefix=f"{data.name}.new-", dir=data.parent))
    account.own_folder(new)
    _run_initdb(new, binaries, account, durable=durable)
    owners = dict.fromkeys((account.name, *_OWNERS))
    _write(new / "pg_hba.conf", "w", _HBA)
    _write(new / "pg_ident.conf", "w", "".join(f'owner "{owner}" {SUPERUSER}\n' for owner in owners))
    _write(new / "postgresql.conf", "a", _SETTINGS)
    new.rename(data)
    if durable:
        sync_folder(data.parent)


def _run_initdb(new: Path, binaries: Binaries, account: ServerAccount, *, durable: bool) -> None:
    command = [binaries.initdb, "-D", str(new), "-U", SUPERUSER, "--auth=peer", "--encoding=UTF8", "--data-checksums"]
    command += [] if durable else ["--no-sync"]
    for locale in _locales(binaries.major):
        result = account.run([*command, *locale], _INITDB_LIMIT)
        if result.returncode == 0:
            return
    said = " | ".join(result.stdout.strip().splitlines()[-10:])
    raise ConfigurationError(f"initdb failed in {new}: {said}", remedy=OWN_SERVER_REMEDY)


def _locales(major: int) -> Iterable[list[str]]:
    """Of the best kind first; Postgres' own provider cannot change under an index when the system is updated."""
    if major >= _BUILTIN_LOCALES_SINCE:
        return [["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]]
    return [["--locale=C.UTF-8"], ["--locale=C"]]


def _write(file: Path, mode: str, text: str) -> None:
    with file.open(mode, encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
