"""Finding jobs: which modules are read, what a broken one costs, and what is said about it."""

from __future__ import annotations

import importlib
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl.jobs import FoundJobs, find_jobs

JOB = """
from etl import BatchProcessingSource, CronTrigger, Pipeline, PPrintSink

def job(name):
    source = BatchProcessingSource("src", pending="waiting", done="waiting = false")
    return Pipeline(name, source.on(CronTrigger("* * * * *")), PPrintSink())

"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to stand in; what the test imports from it is forgotten afterwards."""
    modules, path = dict(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("jobs", None)
    yield tmp_path
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)
    sys.path[:] = path
    importlib.invalidate_caches()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    importlib.invalidate_caches()
    return path


def found(folder: Path, *packages: str) -> FoundJobs:
    return find_jobs(packages or ("jobs",), folder)


def problem(jobs: FoundJobs, module: str) -> str:
    """What is said about one broken module."""
    return next(each.problem for each in jobs.broken if each.module == module)


def test_jobs_are_the_pipelines_among_the_attributes_of_all_modules_of_the_package(folder: Path) -> None:
    write(folder / "jobs/one.py", JOB + "a = job('first')\nb = job('second')\nnot_a_job = 5\n")
    write(folder / "jobs/deep/__init__.py", JOB + "c = job('third')\n")
    write(folder / "jobs/deep/er/__init__.py", "")
    write(folder / "jobs/deep/er/est.py", JOB + "d = job('fourth')\n")

    jobs = found(folder)

    expected = {"first": "jobs.one", "second": "jobs.one", "third": "jobs.deep", "fourth": "jobs.deep.er.est"}
    assert expected == jobs.modules
    assert set(expected) == set(jobs.pipelines)
    assert ([], [], {}) == (jobs.broken, jobs.missing, jobs.clashes)


def test_each_package_that_is_named_is_read_be_it_a_module_or_a_package_below_another(folder: Path) -> None:
    write(folder / "single.py", JOB + "a = job('a')\n")
    write(folder / "outer/__init__.py", "raise RuntimeError('never asked for by itself')\n")
    write(folder / "plain/inner/work.py", JOB + "b = job('b')\n")

    jobs = found(folder, "single", "plain.inner")

    assert {"a": "single", "b": "plain.inner.work"} == jobs.modules


def test_the_package_in_the_folder_is_meant_whatever_else_bears_its_name(folder: Path) -> None:
    """The checkout of the framework has a `jobs` of its own; another project's must never be merged into it."""
    elsewhere = folder / "elsewhere"
    write(elsewhere / "jobs/flights.py", JOB + "x = job('flights')\n")
    here = folder / "here"
    write(here / "jobs/mine.py", JOB + "y = job('mine')\n")
    sys.path.insert(0, str(elsewhere))

    jobs = found(here)

    assert {"mine": "jobs.mine"} == jobs.modules


def test_a_folder_without_jobs_has_none_and_that_is_no_fault(folder: Path) -> None:
    write(folder / "elsewhere/jobs/flights.py", JOB + "x = job('flights')\n")
    sys.path.insert(0, str(folder / "elsewhere"))

    jobs = found(folder)

    assert ({}, [], ["jobs"], []) == (jobs.pipelines, jobs.broken, jobs.missing, jobs.faults)


def test_a_package_that_is_named_and_is_nowhere_is_a_fault(folder: Path) -> None:
    jobs = found(folder, "nowhere")

    assert ["nowhere"] == jobs.missing
    assert [True] == ["'nowhere'" in str(fault) and str(folder) in str(fault) for fault in jobs.faults]


@pytest.mark.parametrize("name", ["../elsewhere", "jo bs", "", "a..b", "1st"])
def test_what_cannot_be_the_name_of_a_package_is_said_to_be_none(folder: Path, name: str) -> None:
    jobs = found(folder, name)

    assert "is not the name of a package" in problem(jobs, name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("def f(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys\nsys.exit('bye')", "SystemExit: bye"),
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
        ("def f():\n    f()\nf()", "RecursionError"),
        ("raise BaseException('odd')", "BaseException: odd"),
        ("class Rude(Exception):\n    def __str__(self):\n        raise ValueError\nraise Rude", "Rude"),
    ],
)
@pytest.mark.parametrize("where", ["jobs/broken.py", "jobs/broken/__init__.py", "jobs/below/broken.py"])
def test_a_module_that_cannot_be_imported_disables_its_own_jobs_only_with_its_traceback(
    folder: Path, text: str, shown: str, where: str
) -> None:
    write(folder / where, JOB + "own = job('own')\n" + text + "\n")
    write(folder / "jobs/below/__init__.py", "")
    write(folder / "jobs/after.py", JOB + "x = job('after')\n")
    write(folder / "jobs/zzz.py", JOB + "x = job('zzz')\n")
    module = where.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")

    jobs = found(folder)

    assert {"after", "zzz"} == set(jobs.pipelines)
    assert [module] == [each.module for each in jobs.broken]
    assert shown in problem(jobs, module)
    assert Path(where).name in problem(jobs, module)
    assert "/etl/jobs.py" not in problem(jobs, module), "frames of ours are noise"


@pytest.mark.parametrize("content", [b"\x00", b"x = '\xff'\n", b"# coding: nonsense\n"])
def test_a_file_that_is_no_python_text_is_told_like_any_other_broken_module(folder: Path, content: bytes) -> None:
    write(folder / "jobs/binary.py", "").write_bytes(content)
    write(folder / "jobs/fine.py", JOB + "x = job('fine')\n")

    jobs = found(folder)

    assert ({"fine"}, ["jobs.binary"]) == (set(jobs.pipelines), [each.module for each in jobs.broken])
    assert "Error: " in problem(jobs, "jobs.binary")


@pytest.mark.parametrize("name", ["jobs/__init__.py", "jobs.py"])
def test_a_root_that_leaves_the_program_takes_nobody_with_it(folder: Path, name: str) -> None:
    write(folder / name, "import sys\nsys.exit(3)\n")
    write(folder / "more/work.py", JOB + "x = job('works')\n")

    jobs = found(folder, "jobs", "more")

    assert {"works"} == set(jobs.pipelines)
    assert "SystemExit: 3" in problem(jobs, "jobs")


@pytest.mark.parametrize(
    ("declaration", "said"),
    [
        ("CronTrigger('61 * * * *')", "CronTrigger: "),
        ("CronTrigger('* * * * *', timezone='Europe/Pargue')", "CronTrigger timezone: no time zone 'Europe/Pargue'"),
        ("Pipeline('no good', None)", "Pipeline: 'no good' is not a job name"),
        ("Pipeline('x', None, PPrintSink())", "job x: source: None is not a source"),
        ("BatchProcessingSource('t', pending='a\\x00b', done='c')", "BatchProcessingSource pending: contains a NUL"),
        ("BatchProcessingSource('t\\udc80', pending='a', done='c')", "BatchProcessingSource table: contains half a"),
        ("BatchProcessingSource('t', pending='a', done='b', batch_size=0)", "BatchProcessingSource batch_size: 0 is"),
    ],
)
def test_a_declaration_we_refuse_is_told_by_file_line_and_remedy_without_a_traceback(
    folder: Path, declaration: str, said: str
) -> None:
    """However the user's folders are called: here like the inside of the framework."""
    here = folder / "etl" / "core"
    path = write(here / "jobs/refused.py", JOB + f"ok = job('ok')\nbad = (\n    {declaration}\n)\n")
    line = path.read_text().splitlines().index(f"    {declaration}") + 1

    jobs = found(here)

    text = problem(jobs, "jobs.refused")
    assert text.startswith(f"{path}:{line}: {said}"), text
    assert text.endswith(")"), "the remedy stands at the end"
    assert "Traceback" not in text
    assert {} == jobs.pipelines


def test_jobs_of_one_name_are_all_out_of_service_and_every_place_is_told(folder: Path) -> None:
    for module in ("a", "b", "c"):
        write(folder / f"jobs/{module}.py", JOB + f"twin = Pipeline('twin', job('{module}').source, PPrintSink())\n")

    jobs = found(folder)

    assert set() == set(jobs.pipelines)
    assert [str(folder / f"jobs/{module}.py") for module in "abc"] == [
        place.rsplit(":", 1)[0] for place in jobs.clashes["twin"]
    ]
    assert [True] == [str(fault).startswith("job twin: 3 jobs have this name: /") for fault in jobs.faults]
    assert [] == jobs.broken


def test_one_job_that_several_modules_import_is_one_job(folder: Path) -> None:
    write(folder / "jobs/a.py", JOB + "x = job('x')\ny = x\n")
    write(folder / "jobs/b.py", "from jobs.a import x\n")

    jobs = found(folder)

    assert ({"x"}, {}, []) == (set(jobs.pipelines), jobs.clashes, jobs.broken)


def test_what_modules_print_while_they_are_imported_does_not_get_among_the_data(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder / "jobs/talks.py", "print('good morning')\n" + JOB + "x = job('x')\n")

    found(folder)

    out, err = capsys.readouterr()
    assert ("", "good morning\n") == (out, err)


def test_secrets_in_what_a_broken_module_says_are_blanked(folder: Path) -> None:
    write(folder / "jobs/leaks.py", "raise RuntimeError('no way to postgresql://me:S3cret@db/x, password=S3cret')\n")

    text = problem(found(folder), "jobs.leaks")

    assert "RuntimeError: no way to postgresql://me:[redacted]@db/x, password=[redacted]" in text
    assert "S3cret" not in text


def test_importing_a_job_module_has_no_effect(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: no connection, no thread, no file, whatever is declared."""
    opened: list[str] = []
    watched = ("open", "socket.connect", "socket.bind", "os.mkdir", "os.remove", "os.rename", "subprocess.Popen")
    armed = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if armed and event in watched:
            reads = event == "open" and (arguments[1] in ("r", "rb", None)) and not (int(str(arguments[2])) & 0o3)
            if not reads:
                opened.append(f"{event} {arguments[0]}")

    write(
        folder / "jobs/full.py",
        JOB
        + "from etl import PostgresSink, Processor, Retry, Sink, TriggerSource, processor\n"
        + "@processor(retry=Retry(attempts=5, on=(TimeoutError,)), batch=True)\n"
        + "def act(context, rows): return rows\n"
        + "class Own(Processor):\n    def process(self, context, event): return event\n"
        + "class Ticks(TriggerSource):\n    async def cycle(self): ...\n"
        + "class Out(Sink):\n    def write(self, context, rows): ...\n"
        + "def never(): raise AssertionError('opened at import')\n"
        + "a = Pipeline('a', job('b').source, act, Own(), PostgresSink('dst', key='id'), resources={'x': never})\n"
        + "c = Pipeline('c', Ticks(), Out(), timeout='5s', max_quarantined='2%')\n",
    )
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("ETL_DATABASE_URL", "postgresql://nobody@nowhere.invalid/x")
    threads = threading.active_count()
    sys.addaudithook(watch)

    jobs = found(folder)
    armed = False

    assert ({"a", "c"}, []) == (set(jobs.pipelines), jobs.broken)
    assert [] == opened
    assert threads == threading.active_count()
    assert socket.getdefaulttimeout() is None
    assert {"jobs"} == {path.name for path in folder.iterdir()}
