"""Finds the jobs of a project: pipelines that are module attributes in the packages its settings name."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from etl.core.pipeline import Pipeline
from etl.core.sanitise import redact
from etl.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class BrokenModule:
    """A module whose jobs are out of service, and why: a refused declaration as one line, else a traceback."""

    module: str
    problem: str


@dataclass(slots=True)
class FoundJobs:
    """The jobs by name, where each came from, and the modules that could not be read."""

    pipelines: dict[str, Pipeline] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    broken: list[BrokenModule] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def find_jobs(packages: Iterable[str], folder: Path) -> FoundJobs:
    """Import every module of the packages (found in `folder` first) and collect their pipelines.

    A module that fails disables its own jobs only. Two different pipelines of one name disable that name: both places
    are reported.
    """
    found = FoundJobs()
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    for package in packages:
        try:
            root = _import_root(package, folder)
        except Exception as error:
            found.broken.append(BrokenModule(package, _problem(error, package)))
            continue
        if root is None:
            found.missing.append(package)
            continue
        _collect(root, found)
        for module_name in _submodules(root):
            try:
                module = importlib.import_module(module_name)
            except (Exception, SystemExit) as error:
                found.broken.append(BrokenModule(module_name, _problem(error, module_name)))
            else:
                _collect(module, found)
    return found


def _import_root(package: str, folder: Path) -> ModuleType | None:
    """The package, from the folder if it is there, never merged with one of the same name elsewhere."""
    if package in sys.modules and _is_inside(sys.modules[package], folder):
        return sys.modules[package]
    place = folder.joinpath(*package.split("."))
    if place.is_dir() and "." not in package:
        return _import_folder(package, place)
    if place.is_dir() or place.with_suffix(".py").is_file():
        return importlib.import_module(package)
    spec = importlib.util.find_spec(package) if package != "jobs" else None
    return importlib.import_module(package) if spec is not None else None


def _import_folder(package: str, place: Path) -> ModuleType:
    init = place / "__init__.py"
    if init.is_file():
        spec = importlib.util.spec_from_file_location(package, init, submodule_search_locations=[str(place)])
    else:
        spec = ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(place)]
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[package] = module
    if spec.loader is not None:
        spec.loader.exec_module(module)
    return module


def _is_inside(module: ModuleType, folder: Path) -> bool:
    return any(Path(place).resolve().is_relative_to(folder.resolve()) for place in getattr(module, "__path__", ()))


def _submodules(root: ModuleType) -> list[str]:
    paths = getattr(root, "__path__", None)
    if paths is None:
        return []
    return [name for _, name, _ in pkgutil.walk_packages(paths, f"{root.__name__}.", onerror=lambda name: None)]


def _collect(module: ModuleType, found: FoundJobs) -> None:
    for value in list(vars(module).values()):
        if not isinstance(value, Pipeline):
            continue
        known = found.pipelines.get(value.name)
        if known is None and value.name not in found.modules:
            found.pipelines[value.name] = value
            found.modules[value.name] = module.__name__
        elif known is not None and known is not value:
            del found.pipelines[value.name]
            places = f"{known.declared_at} and {value.declared_at}"
            problem = f"two jobs are named {value.name!r}: {places} (rename one; neither runs)"
            found.broken.append(BrokenModule(module.__name__, problem))


def _problem(error: BaseException, module: str) -> str:
    if isinstance(error, ConfigurationError):
        return redact(f"{_declared_at(error, module)}: {error}")
    shown = "".join(traceback.format_exception(type(error), error, _from_module(error)))
    return redact(shown.rstrip())


def _declared_at(error: BaseException, module: str) -> str:
    """`file:line` of the line in a job module that made a declaration we refuse."""
    place = module
    for frame in traceback.extract_tb(error.__traceback__):
        if "/etl/core/" in frame.filename or "/etl/sources/" in frame.filename or "/etl/triggers/" in frame.filename:
            break
        if (
            not frame.filename.startswith("<")
            and "/etl/jobs.py" not in frame.filename
            and "importlib" not in frame.filename
        ):
            place = f"{frame.filename}:{frame.lineno}"
    return place


def _from_module(error: BaseException):  # type: ignore[no-untyped-def]
    """The traceback from the module's own first line on."""
    frames = error.__traceback__
    while frames is not None and (
        "importlib" in frames.tb_frame.f_code.co_filename or frames.tb_frame.f_code.co_filename == __file__
    ):
        frames = frames.tb_next
    return frames
