-- Episodes: what is wrong with a job, from when it began to when it was over, and whom a job tells of that.
-- Locks: adds a column with a constant default (a moment's exclusive lock on etl.job) and creates new tables. Programs
-- of before this migration refuse the newer schema, so stop their workers first.

-- Whether the job has a function that is told of its events.
ALTER TABLE etl.job ADD COLUMN tells boolean NOT NULL DEFAULT false;

-- `subject` tells episodes of one kind apart that may be open side by side: of a late run it is the run. `run_id` is
-- the run that it began with, `closed_by` the one that ended it, where there is one.
CREATE TABLE etl.episode (
    episode_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job         text NOT NULL,
    kind        text NOT NULL,
    subject     text NOT NULL DEFAULT '',
    run_id      uuid,
    opened_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    closed_at   timestamptz,
    closed_by   uuid,
    text        text NOT NULL,
    facts       jsonb NOT NULL,
    CONSTRAINT episode_kind_known CHECK (kind IN ('failed', 'crashed', 'quarantined', 'late', 'backlog', 'quiet'))
);
-- Whoever sees it first opens it, in the whole cluster.
CREATE UNIQUE INDEX episode_open ON etl.episode (job, kind, subject) WHERE closed_at IS NULL;
CREATE INDEX episode_history ON etl.episode (job, opened_at DESC);
CREATE INDEX episode_closed ON etl.episode (closed_at);

-- What a job's function is to be told, once of the beginning of an episode and once of its end. A worker that is about
-- to tell it moves `due_at` on, so that another one may do it should that worker be gone by then; `attempts` is its
-- fence. Only the workers of jobs that tell look at them.
CREATE TABLE etl.notice (
    episode_id  bigint NOT NULL REFERENCES etl.episode ON DELETE CASCADE,
    recovered   boolean NOT NULL,
    at          timestamptz NOT NULL,
    run_id      uuid,
    text        text NOT NULL,
    facts       jsonb NOT NULL,
    attempts    integer NOT NULL DEFAULT 0,
    due_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at  timestamptz,                       -- null: not told yet
    told        boolean NOT NULL DEFAULT false,    -- false and settled: given up
    error       text,                              -- of the last attempt
    PRIMARY KEY (episode_id, recovered)
);
CREATE INDEX notice_untold ON etl.notice (due_at) WHERE settled_at IS NULL;
