"""The venv of the peers and of the profiler, apart from the project's own: made once, under build/."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.bench import tell

ROOT = Path(__file__).parents[2]
_FOLDER = ROOT / "build" / "bench" / "venv"
_REQUIREMENTS = Path(__file__).parent / "peers" / "requirements.txt"


def program(name: str) -> Path:
    """A program of the venv, which is made if need be. Raises `CalledProcessError` where it cannot be."""
    made = _FOLDER / "made-of.txt"
    wanted = _REQUIREMENTS.read_text()
    if not made.exists() or made.read_text() != wanted:
        tell(f"making {_FOLDER}, once")
        shutil.rmtree(_FOLDER, ignore_errors=True)
        _make()
        made.write_text(wanted)
    return _FOLDER / "bin" / name


def _make() -> None:
    if uv := shutil.which("uv"):
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(_FOLDER))
        _run(uv, "pip", "install", "--quiet", "--python", str(_FOLDER / "bin" / "python"), "-r", str(_REQUIREMENTS))
        return
    # Debian without python3-venv has no ensurepip; the pip of the Python that made .venv fills a bare environment.
    python = Path(sys.base_prefix, "bin", "python3")
    _run(str(python), "-m", "venv", "--without-pip", str(_FOLDER))
    pip = [str(python), "-m", "pip", "--python", str(_FOLDER / "bin" / "python"), "--disable-pip-version-check"]
    _run(*pip, "install", "-qq", "-r", str(_REQUIREMENTS))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)
