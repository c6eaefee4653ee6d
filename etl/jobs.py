"""Finds the jobs of a project: pipelines that are module attributes in the packages its settings name."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, TracebackType

from etl.config import WrittenOverrides
from etl.core.origins import Setting, settings_of
from etl.core.overrides import Declarations, entries_by_job, overridden
from etl.core.pipeline import Pipeline
from etl.core.sanitise import redact
from etl.errors import ConfigurationError

DEFAULT_PACKAGE = "jobs"

_PACKAGE = str(Path(__file__).parent) + os.sep
_IMPORTING = ("<frozen importlib", importlib.__file__)


@dataclass(frozen=True, slots=True)
class BrokenModule:
    """A module whose jobs are out of service, and why: a refused declaration as one line, else a traceback."""

    module: str
    problem: str


@dataclass(slots=True)
class FoundJobs:
    """The jobs by name, where each came from, and the modules that could not be read.

    `missing` are packages that are nowhere; `clashes` are names that several jobs bear, with the places: none of those
    jobs is among `pipelines`.

    After `override`: `pipelines` are as settings have them, `settings` says where each value comes from, `disabled`
    what put a job out of service, `misconfigured` what is written and cannot be right, `unplaced` what is about a job
    that may be in a broken module, `elsewhere` the jobs that are no part of the project.
    """

    pipelines: dict[str, Pipeline] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    broken: list[BrokenModule] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    clashes: dict[str, list[str]] = field(default_factory=dict)
    settings: dict[str, dict[str, Setting]] = field(default_factory=dict)
    disabled: dict[str, str] = field(default_factory=dict)
    misconfigured: list[ConfigurationError] = field(default_factory=list)
    unplaced: list[ConfigurationError] = field(default_factory=list)
    elsewhere: dict[str, Pipeline] = field(default_factory=dict)

    @property
    def faults(self) -> list[ConfigurationError]:
        """What is wrong with the project as a whole. That the default package is not there is no fault."""
        absent = [
            ConfigurationError(f"no package {name!r}", setting="jobs", remedy=f"looked in {Path.cwd()} and in sys.path")
            for name in self.missing
            if name != DEFAULT_PACKAGE
        ]
        return [*absent, *(self.clash(name) for name in self.clashes)]

    def clash(self, name: str) -> ConfigurationError:
        """Several jobs have this name."""
        places = self.clashes[name]
        problem = f"{len(places)} jobs have this name: {', '.join(places)}"
        return ConfigurationError(problem, job=name, remedy="give each its own; until then none of them runs")


def find_jobs(packages: Iterable[str], folder: Path) -> FoundJobs:
    """Import every module of the packages (found in `folder` first) and collect their pipelines.

    A module that fails disables its own jobs only, whatever it raises, `sys.exit()` included. Different pipelines of
    one name disable that name. What modules print while they are imported goes to standard error.
    """
    found = FoundJobs()
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    with contextlib.redirect_stdout(sys.stderr):
        for package in packages:
            _collect_from(package, partial(_import_root, package, folder), found)
    return found


def override(
    found: FoundJobs,
    written: WrittenOverrides,
    declarations: Declarations,
    pools: Iterable[str],
    elsewhere: Mapping[str, Pipeline],
) -> None:
    """Put what settings say about jobs into effect; faults are collected.

    `elsewhere`  jobs that are no part of the project, and that settings may name all the same.
    """
    found.elsewhere = {name: job for name, job in elsewhere.items() if name not in {*found.pipelines, *found.clashes}}
    known = found.pipelines | found.elsewhere
    entries, strangers = entries_by_job(written, [*found.pipelines, *found.clashes], found.elsewhere)
    (found.unplaced if found.broken else found.misconfigured).extend(strangers)
    for name, pipeline in known.items():
        job = overridden(pipeline, entries.get(name, ()), declarations, pools)
        found.misconfigured += job.faults
        found.settings[name] = settings_of(job, declarations)
        if not job.enabled:
            found.disabled[name] = job.origins["enabled"]
        (found.pipelines if name in found.pipelines else found.elsewhere)[name] = job.served


def _collect_from(name: str, load: Callable[[], ModuleType | None], found: FoundJobs) -> None:
    """Collect the pipelines of a module and of all modules below it."""
    try:
        module = load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        found.broken.append(BrokenModule(name, _problem(error, name)))
        return
    if module is None:
        found.missing.append(name)
        return
    _collect(module, found)
    for _, below, _ in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}."):
        _collect_from(below, partial(importlib.import_module, below), found)


def _import_root(package: str, folder: Path) -> ModuleType | None:
    """The package, from the folder if it is there, never merged with one of the same name elsewhere."""
    if package in sys.modules and _is_inside(sys.modules[package], folder):
        return sys.modules[package]
    if not all(part.isidentifier() for part in package.split(".")):
        raise ConfigurationError(
            f"{package!r} is not the name of a package", setting="jobs", remedy="name it as in an import"
        )
    place = folder.joinpath(*package.split("."))
    if place.is_dir() and "." not in package:
        return _import_folder(package, place)
    if place.is_dir() or place.with_suffix(".py").is_file():
        return importlib.import_module(package)
    spec = importlib.util.find_spec(package) if package != DEFAULT_PACKAGE else None
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


def _collect(module: ModuleType, found: FoundJobs) -> None:
    for value in list(vars(module).values()):
        if not isinstance(value, Pipeline):
            continue
        known = found.pipelines.get(value.name)
        if (places := found.clashes.get(value.name)) is not None:
            if value.declared_at not in places:
                places.append(value.declared_at)
        elif known is None:
            found.pipelines[value.name] = value
            found.modules[value.name] = module.__name__
        elif known is not value:
            found.clashes[value.name] = [known.declared_at, value.declared_at]
            del found.pipelines[value.name], found.modules[value.name]


def _problem(error: BaseException, module: str) -> str:
    if isinstance(error, ConfigurationError):
        place = _declared_at(error)
        return redact(f"{place}: {error}" if place is not None else str(error))
    shown = "".join(traceback.format_exception(type(error), error, _from_module(error)))
    return redact(shown.rstrip())


def _declared_at(error: BaseException) -> str | None:
    """`file:line` of the line in a job module that made a declaration we refuse."""
    place = None
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith((_PACKAGE, *_IMPORTING)):
            place = f"{frame.filename}:{frame.lineno}"
        elif place is not None and frame.filename.startswith(_PACKAGE):
            break
    return place


def _from_module(error: BaseException) -> TracebackType | None:
    """The traceback from the module's own first line on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith((__file__, *_IMPORTING)):
        frames = frames.tb_next
    return frames
