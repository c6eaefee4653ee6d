-- What a run found before and left after it, what it took, by which code; errors told apart by where they were raised;
-- and views for people with tools of their own.
-- Locks: adds columns without defaults (a moment's exclusive lock on etl.run); holds up writers of etl.row_issue while an
-- index is built on it. Older programs refuse the newer schema, so stop their workers first.

-- Rows of the source that were pending: counted when the first rows were found, and when the run was about to end.
ALTER TABLE etl.run ADD COLUMN backlog_before bigint;
ALTER TABLE etl.run ADD COLUMN backlog_before_exact boolean;               -- false: estimated
ALTER TABLE etl.run ADD COLUMN oldest_before timestamptz;                  -- of these, the first in line
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

-- Views for people with tools of their own. Names, types and meaning of their columns stay: docs/reference/views.md.

CREATE VIEW etl.run_report AS
SELECT r.run_id, r.job, r.state, r.lost, r.trigger, r.attempt, r.parent_id,
       r.scheduled_for, r.queued_at, r.started_at, r.ended_at, r.duration_s,
       extract(epoch FROM r.started_at - r.scheduled_for)::float8 AS lateness_s,
       r.claimed, r.written, r.filtered, r.quarantined, r.deferred, r.released, r.vanished, r.retried, r.batches,
       CASE WHEN r.ended_at IS NOT NULL THEN
           r.claimed = r.written + r.filtered + r.quarantined + r.deferred + r.released + r.vanished END AS balanced,
       CASE WHEN r.duration_s > 0 THEN r.claimed / r.duration_s END AS rows_per_s,
       r.backlog_before, r.backlog_before_exact, r.oldest_before, r.backlog_after, r.backlog_after_exact, r.oldest_after,
       r.database_s, r.peak_memory_bytes, r.code_version, r.host, r.pid, r.trace_id, r.idle_since, r.idle_runs,
       r.error_type, r.error
  FROM etl.run_view r;
COMMENT ON VIEW etl.run_report IS 'One row per run; stable, see docs/reference/views.md';

CREATE VIEW etl.job_health AS
WITH RECURSIVE found AS (                          -- jumps from one job to the next in the index
    SELECT min(job) AS job FROM etl.run
     UNION ALL
    SELECT (SELECT min(r.job) FROM etl.run r WHERE r.job > f.job) FROM found f WHERE f.job IS NOT NULL
), known AS (
    SELECT job FROM found WHERE job IS NOT NULL UNION SELECT job FROM etl.job
)
SELECT k.job, j.paused_at, j.paused_by,
       (SELECT min(s.next_at) FROM etl.schedule s WHERE s.job = k.job) AS next_at,
       active.running, active.queued,
       last.run_id AS last_run_id, last.state AS last_state, last.started_at AS last_started_at,
       last.ended_at AS last_ended_at,
       (SELECT r.ended_at
          FROM etl.run r
         WHERE r.job = k.job AND r.state IN ('succeeded', 'partial')
         ORDER BY r.queued_at DESC
         LIMIT 1) AS last_good_at,
       recent.ended_24h, recent.bad_24h, recent.rows_24h,
       usual.runs AS usual_runs, usual.duration_s AS usual_duration_s, usual.rows_per_s AS usual_rows_per_s,
       backlog.backlog_after AS backlog, backlog.backlog_after_exact AS backlog_exact, backlog.ended_at AS backlog_at,
       set_aside.quarantined, set_aside.oldest_quarantined_at, set_aside.deferred
  FROM known k
  LEFT JOIN etl.job j ON j.job = k.job
  LEFT JOIN LATERAL (
       SELECT r.run_id, r.state, r.started_at, r.ended_at
         FROM etl.run r
        WHERE r.job = k.job
        ORDER BY r.queued_at DESC, r.run_id DESC
        LIMIT 1) AS last ON true
 CROSS JOIN LATERAL (
       SELECT count(*) FILTER (WHERE r.state = 'running') AS running,
              count(*) FILTER (WHERE r.state = 'queued') AS queued
         FROM etl.run r
        WHERE r.job = k.job AND r.state IN ('queued', 'running')) AS active
 CROSS JOIN LATERAL (
       SELECT count(*) AS ended_24h,
              count(*) FILTER (WHERE r.state IN ('failed', 'crashed', 'timed_out')) AS bad_24h,
              coalesce(sum(r.claimed), 0)::bigint AS rows_24h
         FROM etl.run r
        WHERE r.job = k.job AND r.queued_at > (SELECT clock_timestamp() - interval '24 hours') AND r.ended_at IS NOT NULL) AS recent
 CROSS JOIN LATERAL (
       SELECT count(*) AS runs, percentile_cont(0.5) WITHIN GROUP (ORDER BY f.seconds) AS duration_s,
              percentile_cont(0.5) WITHIN GROUP (ORDER BY f.claimed / nullif(f.seconds, 0)) AS rows_per_s
         FROM (SELECT r.claimed, extract(epoch FROM r.ended_at - r.started_at)::float8 AS seconds
                 FROM (SELECT * FROM etl.run o WHERE o.job = k.job ORDER BY o.queued_at DESC LIMIT 200) AS r
                WHERE r.state IN ('succeeded', 'partial') AND r.claimed > 0 AND r.trigger <> 'replay'
                ORDER BY r.queued_at DESC
                LIMIT 30) AS f) AS usual
  LEFT JOIN LATERAL (
       SELECT r.backlog_after, r.backlog_after_exact, r.ended_at
         FROM (SELECT * FROM etl.run o WHERE o.job = k.job ORDER BY o.queued_at DESC LIMIT 200) AS r
        WHERE r.backlog_after IS NOT NULL
        ORDER BY r.queued_at DESC
        LIMIT 1) AS backlog ON true
 CROSS JOIN LATERAL (
       SELECT count(*) FILTER (WHERE i.state = 'open') AS quarantined,
              min(i.opened_at) FILTER (WHERE i.state = 'open') AS oldest_quarantined_at,
              count(*) FILTER (WHERE i.state = 'deferred') AS deferred
         FROM etl.row_issue i
        WHERE i.job = k.job AND i.state IN ('open', 'deferred')) AS set_aside;
COMMENT ON VIEW etl.job_health IS 'One row per job, as it stands now; stable, see docs/reference/views.md';

CREATE VIEW etl.open_quarantine AS
SELECT i.issue_id, i.job, i.source, i.key,
       CASE WHEN jsonb_array_length(i.key) = 1 THEN i.key ->> 0 ELSE i.key::text END AS key_text,
       i.stage, i.error_type, i.message, i.frame, i.fingerprint, i.attempts, i.run_id, i.opened_at,
       extract(epoch FROM clock_timestamp() - i.opened_at)::float8 AS age_s,
       i.payload, i.traceback
  FROM etl.row_issue i
 WHERE i.state = 'open';
COMMENT ON VIEW etl.open_quarantine IS 'One row per row in quarantine; stable, see docs/reference/views.md';
