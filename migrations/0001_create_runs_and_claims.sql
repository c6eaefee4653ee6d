-- What the framework remembers: schedules, ticks, runs, claimed batches and rows set aside.
-- Locks: creates new tables only. Runs beside any older program (there is none).

-- One row per clock trigger of a job: when it is due next. `spec` is the trigger's definition as text.
CREATE TABLE etl.schedule (
    job         text NOT NULL,
    trigger     text NOT NULL,
    spec        text NOT NULL,
    next_at     timestamptz,                       -- null: never again
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (job, trigger)
);
CREATE INDEX schedule_due ON etl.schedule (next_at) WHERE next_at IS NOT NULL;

-- One execution of a job. A final state is never left.
CREATE TABLE etl.run (
    run_id         uuid PRIMARY KEY,
    job            text NOT NULL,
    trigger        text NOT NULL,                  -- a trigger's name, or manual, replay, recovery, deferred, continuation
    scheduled_for  timestamptz,
    overlap_key    text NOT NULL,
    slot           integer NOT NULL DEFAULT 0,
    state          text NOT NULL,
    arguments      jsonb NOT NULL DEFAULT '{}',
    row_limit      bigint,
    parent_id      uuid,
    attempt        integer NOT NULL DEFAULT 1,
    worker_id      uuid,                           -- a fresh one per process
    host           text,
    pid            integer,
    queued_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at     timestamptz,
    lease_until    timestamptz,
    ended_at       timestamptz,
    trace_id       text,
    error_type     text,
    error          text,
    claimed        bigint,                         -- the counts are filled in at the end
    written        bigint,
    filtered       bigint,
    quarantined    bigint,
    deferred       bigint,
    released       bigint,
    vanished       bigint,
    retried        bigint,
    batches        bigint,
    CONSTRAINT run_state_known CHECK (state IN
        ('queued', 'running', 'succeeded', 'partial', 'failed', 'crashed', 'timed_out', 'cancelled')),
    CONSTRAINT run_ends_once CHECK ((state IN ('queued', 'running')) = (ended_at IS NULL)),
    CONSTRAINT run_running_has_lease CHECK (state <> 'running' OR (lease_until IS NOT NULL AND started_at IS NOT NULL))
);
-- The overlap guard.
CREATE UNIQUE INDEX run_overlap_guard ON etl.run (overlap_key, slot) WHERE state IN ('queued', 'running');
-- A tick starts one run, ever.
CREATE UNIQUE INDEX run_once_per_tick ON etl.run (job, trigger, scheduled_for)
    WHERE scheduled_for IS NOT NULL AND parent_id IS NULL;
CREATE INDEX run_active ON etl.run (lease_until) WHERE state IN ('queued', 'running');
CREATE INDEX run_history ON etl.run (job, queued_at DESC);
CREATE INDEX run_newest ON etl.run (queued_at DESC);

-- One firing of a trigger and what was decided about it. A long row of missed ones is one row with `missed_until`.
CREATE TABLE etl.tick (
    job            text NOT NULL,
    trigger        text NOT NULL,
    scheduled_for  timestamptz NOT NULL,
    decided_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    decision       text NOT NULL,
    reason         text,
    run_id         uuid,
    blocked_by     uuid,
    missed_until   timestamptz,
    missed_count   bigint,
    PRIMARY KEY (job, trigger, scheduled_for),
    CONSTRAINT tick_decision_known CHECK (decision IN
        ('ran', 'skipped_overlap', 'skipped_paused', 'coalesced', 'queued', 'missed'))
);

-- One row per source of claims. Claimants of a source take turns on it (for milliseconds); `positions` holds, by job,
-- where its last run ended, a hint that lets the next one begin behind the rows already done. `key` says what keys
-- and bounds of this source are made of; two jobs must not claim one table's rows by different keys at the same time.
CREATE TABLE etl.source_cursor (
    source     text PRIMARY KEY,
    key        text NOT NULL,
    positions  jsonb NOT NULL DEFAULT '{}'
);

-- A claimed batch: lease, fence and lock in one row. `lo` and `hi` are the first and the last key, as JSON arrays of
-- the key columns' text. A range is reserved while its batch is open, or expired (revoked, not yet retaken);
-- reserved ranges of a source are disjoint, always.
CREATE TABLE etl.batch (
    token        uuid PRIMARY KEY,                 -- made by the claimant before the claim
    run_id       uuid,                             -- null: the rest of a batch that was taken over in pieces
    job          text NOT NULL,
    source       text NOT NULL,
    number       integer NOT NULL,
    state        text NOT NULL,
    lo           jsonb,
    hi           jsonb,
    crashes      integer NOT NULL DEFAULT 0,       -- how often a holder of these rows vanished
    replay       boolean NOT NULL DEFAULT false,
    claimed      integer NOT NULL,
    written      integer NOT NULL DEFAULT 0,
    filtered     integer NOT NULL DEFAULT 0,
    quarantined  integer NOT NULL DEFAULT 0,
    deferred     integer NOT NULL DEFAULT 0,
    vanished     integer NOT NULL DEFAULT 0,
    retried      integer NOT NULL DEFAULT 0,
    stages       jsonb,
    opened_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at     timestamptz,
    CONSTRAINT batch_state_known CHECK (state IN ('open', 'done', 'released', 'expired', 'replaced')),
    CONSTRAINT batch_ends_once CHECK ((state IN ('open', 'expired')) = (ended_at IS NULL))
);
CREATE INDEX batch_reserved ON etl.batch (source) WHERE state IN ('open', 'expired');
CREATE INDEX batch_of_run ON etl.batch (run_id);

-- A row that was set aside: open (in quarantine) or deferred (comes back at `due_at`), later resolved (handled after
-- all), superseded (failed again: a newer issue speaks for it) or gone (the row does not exist any more).
-- `version` is the row's xmin at that moment; `held` says that the row still looks pending and is kept apart by this.
CREATE TABLE etl.row_issue (
    issue_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job             text NOT NULL,
    source          text NOT NULL,
    key             jsonb NOT NULL,
    version         text,
    state           text NOT NULL,
    held            boolean NOT NULL DEFAULT false,
    run_id          uuid NOT NULL,
    token           uuid NOT NULL,
    stage           text NOT NULL,
    error_type      text NOT NULL,
    message         text NOT NULL,
    traceback       text,
    attempts        integer NOT NULL,
    payload         jsonb,
    exact           boolean NOT NULL DEFAULT true, -- whether the payload reads back as the value it was
    opened_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at          timestamptz,
    closed_at       timestamptz,
    closed_by       uuid,                          -- the run that handled it
    replay_id       uuid,                          -- the replay run that was asked to take it
    replay_token    uuid,                          -- the batch it was last replayed in
    replay_crashes  integer NOT NULL DEFAULT 0,
    CONSTRAINT row_issue_state_known CHECK (state IN ('open', 'deferred', 'resolved', 'superseded', 'gone')),
    CONSTRAINT row_issue_deferred_is_due CHECK (state <> 'deferred' OR due_at IS NOT NULL)
);
-- A row is set aside once at a time.
CREATE UNIQUE INDEX row_issue_open ON etl.row_issue (job, source, key) WHERE state IN ('open', 'deferred');
CREATE INDEX row_issue_due ON etl.row_issue (due_at) WHERE state = 'deferred';
CREATE INDEX row_issue_of_run ON etl.row_issue (run_id);
CREATE INDEX row_issue_replayed ON etl.row_issue (replay_id) WHERE replay_id IS NOT NULL;
CREATE INDEX row_issue_replay_token ON etl.row_issue (replay_token) WHERE state = 'open' AND replay_token IS NOT NULL;

COMMENT ON SCHEMA etl IS 'pg-etl: schedules, ticks, runs, claims and rows set aside';

-- Runs as people should see them: with the counts so far while they are running, and with a run whose lease is over
-- shown as what it is, even when no process is alive to say so.
CREATE VIEW etl.run_view AS
SELECT r.run_id, r.job, r.trigger, r.scheduled_for, r.overlap_key, r.slot, r.state, r.arguments, r.row_limit,
       r.parent_id, r.attempt, r.worker_id, r.host, r.pid, r.queued_at, r.started_at, r.lease_until, r.ended_at,
       r.trace_id, r.error_type, r.error,
       coalesce(r.claimed, b.claimed, 0) AS claimed,
       coalesce(r.written, b.written, 0) AS written,
       coalesce(r.filtered, b.filtered, 0) AS filtered,
       coalesce(r.quarantined, b.quarantined, 0) AS quarantined,
       coalesce(r.deferred, b.deferred, 0) AS deferred,
       coalesce(r.released, b.released, 0) AS released,
       coalesce(r.vanished, b.vanished, 0) AS vanished,
       coalesce(r.retried, b.retried, 0) AS retried,
       coalesce(r.batches, b.batches, 0) AS batches,
       r.state = 'running' AND r.lease_until < clock_timestamp() AS lost,
       extract(epoch FROM coalesce(r.ended_at, clock_timestamp()) - r.started_at)::float8 AS duration_s
  FROM etl.run r
  LEFT JOIN LATERAL (
      SELECT sum(claimed)::bigint AS claimed, sum(written)::bigint AS written, sum(filtered)::bigint AS filtered,
             sum(quarantined)::bigint AS quarantined, sum(deferred)::bigint AS deferred,
             sum(claimed) FILTER (WHERE state IN ('released', 'expired', 'replaced'))::bigint AS released,
             sum(vanished)::bigint AS vanished, sum(retried)::bigint AS retried, count(*) AS batches
        FROM etl.batch
       WHERE batch.run_id = r.run_id
  ) b ON r.claimed IS NULL;
