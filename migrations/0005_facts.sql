-- What a run found before and left after it, what it took, by which code; errors told apart by where they were raised;
-- and views for people with tools of their own.
-- Locks: adds columns without defaults (a moment's exclusive lock on etl.run); holds up writers of etl.row_issue while an
-- index is built on it. Older programs refuse the newer schema, so stop their workers first.

-- Rows of the source that were pending: counted when the first rows were found, and when the run was about to end.
ALTER TABLE etl.run ADD COLUMN backlog_before bigint;
ALTER TABLE etl.run ADD COLUMN backlog_before_exact boolean;               -- false: estimated
ALTER TABLE etl.run ADD COLUMN oldest_before timestamptz;                  -- of these, by the column that rows are ordered by
ALTER TABLE etl.run ADD COLUMN backlog_after bigint;
ALTER TABLE etl.run ADD COLUMN backlog_after_exact boolean;
ALTER TABLE etl.run ADD COLUMN oldest_after timestamptz;
ALTER TABLE etl.run ADD COLUMN code_version text;                          -- of the module that declares the job
ALTER TABLE etl.run ADD COLUMN peak_memory_bytes bigint;                   -- the most its process ever had, at the end
ALTER TABLE etl.run ADD COLUMN database_s float8;                          -- in transactions, those side by side added up

-- Why a row was set aside: the innermost line of the user's own code, as `jobs/flights.py:41 in to_utc`, and what is the
-- same for all rows that were set aside for this reason (stage, type, file and function, message with its variable parts
-- masked). Null for rows of before this migration.
ALTER TABLE etl.row_issue ADD COLUMN frame text;
ALTER TABLE etl.row_issue ADD COLUMN fingerprint text COLLATE "C";
-- From one reason of a run to the next, however many rows each has.
CREATE INDEX row_issue_reason ON etl.row_issue (run_id, fingerprint);
DROP INDEX etl.row_issue_of_run;

-- Runs as people should see them, with these facts.
CREATE OR REPLACE VIEW etl.run_view AS
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
       extract(epoch FROM coalesce(r.ended_at, clock_timestamp()) - r.started_at)::float8 AS duration_s,
       r.places, r.pool, r.start_by, r.serves_messages, r.cancel_reason, r.replaced_by, r.idle_since, r.idle_runs,
       r.backlog_before, r.backlog_before_exact, r.oldest_before, r.backlog_after, r.backlog_after_exact, r.oldest_after,
       r.code_version, r.peak_memory_bytes, r.database_s
  FROM etl.run r
  LEFT JOIN LATERAL (
      SELECT sum(claimed)::bigint AS claimed, sum(written)::bigint AS written, sum(filtered)::bigint AS filtered,
             sum(quarantined)::bigint AS quarantined, sum(deferred)::bigint AS deferred,
             sum(claimed) FILTER (WHERE state IN ('released', 'expired', 'replaced'))::bigint AS released,
             sum(vanished)::bigint AS vanished, sum(retried)::bigint AS retried, count(*) AS batches
        FROM etl.batch
       WHERE batch.run_id = r.run_id
  ) b ON r.claimed IS NULL AND r.started_at IS NOT NULL;
