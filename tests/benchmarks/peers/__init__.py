"""Other ways to get the same work done with Postgres: one job per row, each in its library's documented best setting.

Every job carries its row, transforms it, and inserts one row into the sink through a pool of ten connections. Only the
working off is timed, until the last result is there: neither the enqueueing nor the start of the process nor its
shutdown. The framework's set-up and end are in its time.

These modules run in a venv of their own, which has the libraries and not the framework:
`python -m tests.benchmarks.peers NAME DSN`.
"""
