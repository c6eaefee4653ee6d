"""A private Postgres below a folder, started from pip-installed programs for as long as any process uses it.

server      what callers see: start, stop, the DSN, reaping a throw-away server
locks       who uses it, and who may start and stop it
home        where its things are
postmaster  the server process: found, started, stopped, believing no pid
pidfile     what a server says of itself
datadir     initdb, and the refusal of other versions
binaries    which Postgres programs
account     the OS account they run as
"""

from etl.postgres.embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer"]
