"""The commands. Data goes to standard output, talk to standard error.

Exit codes: 0 done, 2 misuse or configuration, 3 partial, 4 failed or crashed, 5 timed out, 6 cancelled, 7 skipped.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etl.cli.collector import rest_collector
from etl.cli.talk import handled, say, show, show_uncaught
from etl.core.backfill import Only
from etl.core.run import EXIT_DONE, EXIT_MISUSE
from etl.late import late
from etl.runtime.threads import leave_without_threads
from etl.telemetry.version import package_version

if TYPE_CHECKING:
    from etl.cli import psql as client
    from etl.cli import reporting, running, scheduling, session, tidying, viewing
    from etl.postgres import migrator
else:  # each command needs a part of the framework, and `--help` none
    client, migrator = late("etl.cli.psql"), late("etl.postgres.migrator")
    reporting, running, scheduling = late("etl.cli.reporting"), late("etl.cli.running"), late("etl.cli.scheduling")
    session, tidying, viewing = late("etl.cli.session"), late("etl.cli.tidying"), late("etl.cli.viewing")

app = typer.Typer(
    name="etl",
    help="Scheduled batches over a Postgres table you already have.",
    epilog="Exit codes: 0 done, 2 misuse or configuration, 3 partial, 4 failed or crashed, 5 timed out, 6 cancelled, "
    "7 skipped because a run was active.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Job = Annotated[str, typer.Argument(metavar="JOB", help="Name of the job.")]
AnyJob = Annotated[str | None, typer.Argument(metavar="JOB", help="Name of the job; default: all.")]


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        show([f"pg-etl {package_version()}"])
        raise typer.Exit


@app.command()
@handled
def demo(
    flights: Annotated[Path | None, typer.Option(metavar="FILE", help="A CSV file with the same header.")] = None,
    add_airports: Annotated[bool, typer.Option("--add-airports", help="Add the airports the list lacks.")] = False,
    json: Json = False,
) -> None:
    """Load real flights and run the job `flights` over them.

    Example: etl demo
    """
    if add_airports:
        running.add_airports(session.settings_here())
    else:
        raise typer.Exit(running.demonstrate(session.settings_here(), flights, json))


@app.command()
@handled
def migrate(sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead of applying it.")] = False) -> None:
    """Bring the schema `etl` in the database up to date.

    Example: etl migrate
    """
    known = migrator.known_migrations()
    if sql:
        typer.echo(migrator.as_sql(known), nl=False)
        return
    applied = session.with_application(
        session.settings_here(),
        lambda application: migrator.apply(application.database, known),
        migrate=False,
        schema=False,
    )
    for migration in applied:
        say(f"applied {migration.version:04d} {migration.name}")
    say(f"the schema etl is at version {known[-1].version}")


@app.command()
@handled
def check(job: AnyJob = None, json: Json = False) -> None:
    """Check jobs against the database without running anything.

    All faults of all jobs are reported at once; exit code 2 if there are any.

    Example: etl check
    """
    raise typer.Exit(viewing.check(session.settings_here(), job, json))


@app.command()
@handled
def jobs(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also show every setting and where its value comes from.")
    ] = False,
    json: Json = False,
) -> None:
    """List the jobs here, their triggers and next fire times.

    Example: etl jobs --verbose
    """
    raise typer.Exit(viewing.jobs(session.settings_here(), verbose, json))


@app.command()
@handled
def run(
    job: Job,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Claim at most so many rows.")] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Give the cycle an argument; may be given several times."),
    ] = None,
    json: Json = False,
) -> None:
    """Run a job here and now, unless a run of it is active.

    Example: etl run flights --limit 1000
    """
    raise typer.Exit(running.run(session.settings_here(), job, limit, session.arguments_of(arg or []), json))


@app.command()
@handled
def worker() -> None:
    """Fire triggers and run jobs until told to stop.

    SIGTERM or Ctrl-C finishes what is in hand, a second one gives it back at once.

    Example: etl worker
    """
    raise typer.Exit(running.work(session.settings_here()))


@app.command()
@handled
def runs(
    job: AnyJob = None,
    status: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help="Only runs in this state; may be given several times.")
    ] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=1, help="How many.")] = 20,
    json: Json = False,
) -> None:
    """List runs, newest first.

    Example: etl runs flights -n 5
    """
    viewing.runs(session.settings_here(), job, status, limit, json)


@app.command()
@handled
def report(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", help="A run id or its beginning, or a job for its newest run; default: the newest."
        ),
    ] = None,
    compare: Annotated[str | None, typer.Option(metavar="RUN", help="Set it beside another run of its job.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page that can be mailed.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    json: Json = False,
) -> None:
    """Show what a run did: on one screen, or on a page.

    Example: etl report flights --html flights.html --open
    """
    reporting.report(session.settings_here(), run, compare, html, open_, json)


@app.command()
@handled
def quarantine(
    job: AnyJob = None,
    error: Annotated[str | None, typer.Option(metavar="TYPE", help="Only this error type.")] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Only rows of this run.")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=1, help="How many.")] = 20,
    json: Json = False,
) -> None:
    """List rows that were set aside, newest first.

    Example: etl quarantine flights --error UnknownAirport
    """
    viewing.quarantine(session.settings_here(), job, error, run, limit, json)


@app.command()
@handled
def replay(
    job: Job,
    error: Annotated[str | None, typer.Option(metavar="TYPE", help="Only rows with this error type.")] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Only rows that this run set aside.")] = None,
    json: Json = False,
) -> None:
    """Process rows in quarantine again; returns when that is done.

    Example: etl replay flights --error UnknownAirport
    """
    raise typer.Exit(running.replay(session.settings_here(), job, error, run, json))


@app.command()
@handled
def tidy(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="A job with ledger=; without: history.")] = None,
    json: Json = False,
) -> None:
    """Drop history that is older than it is kept, as workers do by themselves each hour.

    With a job: drop what its ledger remembers of rows that do not exist any more. Should such a row come back, it is
    processed again.

    Example: etl tidy
    """
    tidying.tidy(session.settings_here(), job, json)


@app.command("next")
@handled
def next_(
    job: AnyJob = None,
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=1, max=10_000, help="How many.")] = 10,
    json: Json = False,
) -> None:
    """List the next fire times, in local time and UTC.

    Example: etl next flights -n 50
    """
    scheduling.next_times(session.settings_here(), job, limit, json)


@app.command()
@handled
def ticks(
    job: AnyJob = None,
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=1, help="How many.")] = 20,
    json: Json = False,
) -> None:
    """List what was decided about fire times, newest first.

    Example: etl ticks flights
    """
    scheduling.ticks(session.settings_here(), job, limit, json)


@app.command()
@handled
def why(
    job: Job,
    time: Annotated[str, typer.Argument(metavar="TIME", help="2026-03-29T02:30+01:00; UTC if no offset is given.")],
    json: Json = False,
) -> None:
    """Say why a job ran, or did not, at a time.

    Example: etl why flights 02:40
    """
    scheduling.why(session.settings_here(), job, time, json)


@app.command()
@handled
def pause(job: Job) -> None:
    """Stop a job's triggers until it is resumed.

    A run that is active goes on, and `etl run` still works.

    Example: etl pause flights
    """
    scheduling.pause(session.settings_here(), job)


@app.command()
@handled
def resume(job: Job) -> None:
    """Let a paused job's triggers fire again.

    Example: etl resume flights
    """
    scheduling.resume(session.settings_here(), job)


@app.command()
@handled
def cancel(run: Annotated[str, typer.Argument(metavar="RUN", help="A run id or its beginning.")]) -> None:
    """Ask a run to stop at its next batch edge.

    Example: etl cancel 7f3a9c21
    """
    scheduling.cancel(session.settings_here(), run)


@app.command()
@handled
def backfill(
    job: Job,
    window: Annotated[str, typer.Argument(metavar="FROM..TO", help="Both included; UTC if no offset is given.")],
    only: Annotated[Only | None, typer.Option(help="Only fire times without a run, or whose run failed.")] = None,
    json: Json = False,
) -> None:
    """Run a job for the fire times of a window that have no run, or a failed one.

    One run for each, one after the other, beside the job's schedule.

    Example: etl backfill flights 2026-03-01..2026-03-07 --only missing
    """
    raise typer.Exit(scheduling.backfill(session.settings_here(), job, window, only, json))


@app.command()
@handled
def publish(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="What a PubSubTrigger names.")],
    data: Annotated[str | None, typer.Option(metavar="JSON", help="A JSON object for the cycle.")] = None,
) -> None:
    """Send a message to the jobs that want it.

    Example: etl publish orders.arrived --data '{"shop": 7}'
    """
    scheduling.publish(session.settings_here(), topic, data)


sql = typer.Typer(
    help="Print SQL for your own database.\n\nExample: etl sql watch orders orders.arrived",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(sql, name="sql")


@sql.command()
@handled
def watch(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="As the catalog has it.")],
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="What a PubSubTrigger names.")],
) -> None:
    """Print a trigger that sends a message when rows are inserted.

    Example: etl sql watch orders orders.arrived | etl psql
    """
    scheduling.watch(session.settings_here(), table, topic)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["-h"]})
@handled
def psql(context: typer.Context) -> None:
    """Open psql on the project's database, the embedded one too.

    All arguments go to psql.

    Example: etl psql -c "SELECT * FROM etl.run_view"
    """
    raise typer.Exit(client.psql(session.settings_here(), context.args))


def main() -> None:
    """Entry point of the command `etl`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal's encoding lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = show_uncaught
    try:
        app()
    except SystemExit as end:
        rest_collector()
        leave_without_threads(end.code if isinstance(end.code, int) else EXIT_DONE)
        raise
    except KeyboardInterrupt:
        say("interrupted")
        raise SystemExit(EXIT_MISUSE) from None
