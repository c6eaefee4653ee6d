"""Start, find and stop the server of one data directory, believing no pid.

A pid file outlives a killed server and then names nobody, a zombie or a stranger, so a recorded pid counts only when
that process shows by its command line (readable to all) or its working directory that it serves this directory.
The pid file itself is Postgres' interlock against a second server beside leftover backends: it is never edited or
deleted here while any could live. A recorded pid that is a stranger's is told to the new server as PG_GRANDPARENT_PID:
pg_ctl's way to say "no rival of yours", which leaves every other check of Postgres in force.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil

from etl.errors import ConfigurationError, DatabaseUnavailableError
from etl.postgres.embedded.account import OWN_SERVER_REMEDY, Deadline, ServerAccount
from etl.postgres.embedded.binaries import Binaries
from etl.postgres.embedded.pidfile import PORT, PidFile, leading_number

_READY_LIMIT = timedelta(minutes=1)
_STOP_LIMITS = {
    signal.SIGINT: timedelta(minutes=1),  # writes back all that is dirty
    signal.SIGQUIT: timedelta(seconds=10),
    signal.SIGKILL: timedelta(seconds=10),
}
_PATIENCE = timedelta(seconds=2)  # for processes of a killed server to leave by themselves
_LONGEST_SOCKET = 100  # bytes; the kernel's limit is 104 on macOS, 108 on Linux
_LARGEST_LOG = 4 * 1024 * 1024
_LITTLE_SPACE = 32 * 1024 * 1024
# Not $TMPDIR, which can be long, differ between processes, and be closed to the server's account.
_SHORT_RUN_PARENT = Path("/tmp")  # noqa: S108 - the name in it is random
_SHORT_RUN_PREFIX = "etl-run-"

logger = logging.getLogger("etl.postgres.embedded")


@dataclass(frozen=True, slots=True)
class Postmaster:
    """The server of one data directory: at most one, whoever started it."""

    data: Path
    run: Path
    log: Path
    account: ServerAccount

    @property
    def name(self) -> str:
        """The cluster name, which Postgres puts into the title of each process: they are told apart by it."""
        return "etl-" + hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]

    def running(self) -> PidFile | None:
        """The pid file, provided that the process it names serves this data directory."""
        record = PidFile.read(self.data)
        return record if record and self._is_served_by(record.pid) else None

    def reach(self) -> PidFile | None:
        """The running server, once it is ready; None where none runs.

        Raises DatabaseUnavailableError when it runs but does not become ready within a minute.
        """
        deadline = Deadline(_READY_LIMIT)
        while record := self.running():
            if record.answers():
                return record
            if not deadline.pause():
                raise DatabaseUnavailableError(
                    f"the server of {self.data} (pid {record.pid}) is {record.status or 'starting'} and does not answer"
                    f" on {record.socket}; see {self.log}"
                )
        return None

    def launch(self, binaries: Binaries, *, durable: bool) -> PidFile:
        """Start a server and wait until it is ready; where another one got ahead, that.

        Raises ConfigurationError with the server's last words when it ends instead, DatabaseUnavailableError when it
        needs longer than a minute: then it goes on, a long recovery perhaps, and may be ready for the next start.
        """
        settled = Deadline(_PATIENCE)
        while True:
            said_before = self._rotate_log()
            child = self._spawn(binaries, durable=durable)
            if record := self._wait_for(child) or self.reach():
                return record
            if self._see_off_orphans():
                settled = Deadline(_PATIENCE)  # their memory may outlive their names by a moment
            elif settled.passed or PidFile.read(self.data) is None:
                raise self._start_failure(binaries, said_before)
            settled.pause()

    def stop(self, *signals: signal.Signals) -> None:
        """Shut the server down, in a minute or so at most; no committed row is lost, however hard it has to be done."""
        record = self.running()
        if record is None:
            return
        with contextlib.suppress(psutil.Error):
            server = psutil.Process(record.pid)
            for sign in signals or _STOP_LIMITS:
                server.send_signal(sign)
                if _ends(server, Deadline(_STOP_LIMITS[sign])):
                    break
                logger.warning("Postgres in %s (pid %d) did not stop on %s", self.data, server.pid, sign.name)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(record.pid, os.WNOHANG)  # a zombie, if it was our child
        self._remove_short_run(record)

    def destroy(self) -> None:
        """Stop the server and whatever is left of a killed one, for data about to be deleted."""
        self.stop(signal.SIGQUIT, signal.SIGKILL)
        self._see_off_orphans()
        if abandoned := PidFile.read(self.data):
            self._remove_short_run(abandoned)

    def processes(self) -> list[psutil.Process]:
        """Every live process of this data directory's server, the postmaster or left behind by it."""
        return [process for process in psutil.process_iter() if self._serves(process)]

    def _is_served_by(self, pid: int) -> bool:
        try:
            return pid > 0 and self._serves(psutil.Process(pid))
        except psutil.Error:
            return False

    def _serves(self, process: psutil.Process) -> bool:
        try:
            if process.uids().real != self.account.uid:
                return False
            command = process.cmdline()
        except psutil.Error:  # ended, or a zombie
            return False
        if not command or "postgres" not in Path(command[0]).name:
            return False
        line = " ".join(command) + " "
        if line.startswith(f"postgres: {self.name}: ") or f" -D {self.data} " in line:
            return True
        with contextlib.suppress(psutil.Error, OSError):  # without CAP_SYS_PTRACE even root may not look
            return Path(process.cwd()).samefile(self.data)  # started by hand, perhaps
        return False

    def _spawn(self, binaries: Binaries, *, durable: bool) -> subprocess.Popen[bytes]:
        abandoned = PidFile.read(self.data)
        if abandoned and abandoned.pid == 0 and not self.processes():
            (self.data / "postmaster.pid").unlink()  # empty after a power cut; Postgres would refuse it for ever
        run = self._run_folder()
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": '"' + str(run).replace('"', '""') + '"',
            "unix_socket_permissions": "0700",
            "port": str(PORT),
            "cluster_name": self.name,
        }
        if not durable:
            # A killed server still loses nothing, for the kernel has its writes; a machine that goes down may.
            # full_page_writes stays on: SIGKILL can cut the write of a page in two. mmap keeps within the data what
            # would stay in /dev/shm for ever after a kill.
            settings |= {"fsync": "off", "dynamic_shared_memory_type": "mmap"}
        command = [binaries.postgres, "-D", str(self.data)]
        for setting, value in settings.items():
            command += ["-c", f"{setting}={value}"]
        stranger = {"PG_GRANDPARENT_PID": str(abandoned.pid)} if abandoned and not self.running() else {}
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            self.account.adopt(log)
            return self.account.spawn(command, log, stranger)
        finally:
            os.close(log)

    def _wait_for(self, child: subprocess.Popen[bytes]) -> PidFile | None:
        """The child's pid file once it is ready; None when it ended instead."""
        deadline = Deadline(_READY_LIMIT)
        try:
            while child.poll() is None:
                record = PidFile.read(self.data)
                if record and record.pid == child.pid and record.answers():
                    return record
                if not deadline.pause():
                    raise DatabaseUnavailableError(f"the server of {self.data} is not ready yet; see {self.log}")
            return None
        finally:
            if child.returncode is None:
                child.returncode = 0  # it is to outlive us, so nothing that subprocess should warn of

    def _see_off_orphans(self) -> bool:
        """Wait until no process of a killed server is left; False when there was none.

        They hold its shared memory, and Postgres rightly refuses to start beside them. Most leave at once by
        themselves; one that is busy computing does not notice and is killed after a while, which harms no data.
        """
        found = orphans = self.processes()
        patience, deadline = Deadline(_PATIENCE), Deadline(_READY_LIMIT)
        while orphans := [process for process in orphans if _lives(process)]:
            if patience.passed and not _has_parent_within(orphans):
                logger.warning("killing what a killed server left in %s: %s", self.data, _pids(orphans))
                for process in orphans:
                    with contextlib.suppress(psutil.Error):
                        process.kill()
            if not deadline.pause():
                raise DatabaseUnavailableError(f"server processes {_pids(orphans)} hold {self.data}; stop them")
        return bool(found)

    def _run_folder(self) -> Path:
        """The folder for the socket, 0700: ours, or one with a short path where ours is too long or has a comma."""
        path = os.fsencode(self.run / f".s.PGSQL.{PORT}")
        if len(path) > _LONGEST_SOCKET or b"," in path:
            if (abandoned := PidFile.read(self.data)) and not self.running():
                self._remove_short_run(abandoned)
            run = Path(tempfile.mkdtemp(prefix=_SHORT_RUN_PREFIX, dir=_SHORT_RUN_PARENT))  # nobody can foresee it
            self.account.own_folder(run)
            return run
        self.account.own_folder(self.run)
        lock = self.run / f".s.PGSQL.{PORT}.lock"
        if lock.exists() and not self._is_served_by(leading_number(lock.read_text(errors="replace"))):
            for left_behind in (lock, self.run / f".s.PGSQL.{PORT}"):
                left_behind.unlink(missing_ok=True)
        return self.run

    def _remove_short_run(self, record: PidFile) -> None:
        run = record.run
        if run.parent == _SHORT_RUN_PARENT and run.name.startswith(_SHORT_RUN_PREFIX):
            with contextlib.suppress(FileNotFoundError):
                if run.lstat().st_uid == self.account.uid:
                    shutil.rmtree(run, ignore_errors=True)

    def _rotate_log(self) -> int:
        """Keep the log bounded; the size it has now."""
        try:
            size = self.log.stat().st_size
        except FileNotFoundError:
            return 0
        if size <= _LARGEST_LOG:
            return size
        self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        return 0

    def _start_failure(self, binaries: Binaries, said_before: int) -> ConfigurationError:
        with self.log.open("rb") as log:
            log.seek(said_before)
            said = log.read(64 * 1024).decode(errors="replace").strip().splitlines()
        free = shutil.disk_usage(self.data).free
        if free < _LITTLE_SPACE:
            said.append(f"only {free // 1024} kB are free there")
        return ConfigurationError(
            f"Postgres {binaries.version} did not start in {self.data}: {' | '.join(said[-10:])}",
            remedy=f"see {self.log}, or {OWN_SERVER_REMEDY}",
        )


def _lives(process: psutil.Process) -> bool:
    """Whether it still is that process, and may hold something: one that is ending has no command line any more."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _ends(process: psutil.Process, deadline: Deadline) -> bool:
    while _lives(process):
        if not deadline.pause():
            return False
    return True


def _has_parent_within(processes: list[psutil.Process]) -> bool:
    """Whether one of them is a parent of another: a live postmaster, not an orphan."""
    pids = set(_pids(processes))
    with contextlib.suppress(psutil.Error):
        return any(process.ppid() in pids for process in processes)
    return True


def _pids(processes: list[psutil.Process]) -> list[int]:
    return [process.pid for process in processes]
