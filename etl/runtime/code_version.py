"""By what code a job is: the version of what its module belongs to, and a digest of the module itself."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_PACKED = re.compile(r"^([0-9a-f]{40,64}) (\S+)$", re.MULTILINE)


@lru_cache(maxsize=256)
def code_version(declared_at: str) -> str | None:
    """`git:3f9c2ab1d2e4 file:5d41402abc4b` of the module that declares a job (`file:line`), as it is found on disk.

    `git` is the commit that is checked out around it, which says nothing of changes since; those to the module show in
    `file`, the beginning of its SHA-256. Of a module in an installed package the first part is the package's name and
    version (`shop-jobs:1.4.2`). What cannot be told is left out; None: nothing can. Looked up once per process.
    """
    path = Path(declared_at.rpartition(":")[0])
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError:
        return None
    belongs = _package(path) or _git(path)
    return " ".join(part for part in (belongs, f"file:{digest}") if part)


def _package(path: Path) -> str | None:
    """Name and version of the package that is installed there under the name of its top folder (or file)."""
    for place, child in zip(path.parents, (path, *path.parents), strict=False):
        if place.name in ("site-packages", "dist-packages"):
            try:
                return f"{child.stem}:{version(child.stem)}"
            except PackageNotFoundError:
                return None
    return None


def _git(path: Path) -> str | None:
    """The commit that is checked out, read from git's own files."""
    for folder in path.resolve().parents:
        marker = folder / ".git"
        if not marker.exists():
            continue
        try:
            commit = _head(_git_folder(marker))
        except (OSError, UnicodeDecodeError):
            return None
        return f"git:{commit[:12]}" if commit else None
    return None


def _git_folder(marker: Path) -> Path:
    """A worktree has a file in place of the folder, which says where that is."""
    if marker.is_dir():
        return marker
    return marker.parent / marker.read_text(encoding="utf-8").removeprefix("gitdir:").strip()


def _head(folder: Path) -> str | None:
    head = (folder / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref: "):
        return head if _COMMIT.fullmatch(head) else None
    name = head.removeprefix("ref: ")
    common = folder / "commondir"
    folders = [folder, folder / common.read_text(encoding="utf-8").strip()] if common.exists() else [folder]
    for each in folders:
        if (loose := each / name).is_file():
            return loose.read_text(encoding="utf-8").strip()
    for each in folders:
        if (packed := each / "packed-refs").is_file():
            found: dict[str, str] = {ref: commit for commit, ref in _PACKED.findall(packed.read_text(encoding="utf-8"))}
            if name in found:
                return found[name]
    return None
