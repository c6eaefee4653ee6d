-- Drop runs that ended long ago, with their batches and settled issues; never one that open issues point to, nor one whose
-- issues were settled lately. Some at a time: by how many rows go with them, but one run at least.
--   $1 how long history is kept   $2 how many rows at a time
-- Index: run_newest (queued_at), from its old end as far as runs may be old enough
WITH old AS MATERIALIZED (
    SELECT r.run_id, r.queued_at, 1 + coalesce(r.batches, 0) + coalesce(r.quarantined, 0) AS rows
      FROM etl.run r
     WHERE r.queued_at < (SELECT clock_timestamp() - $1::interval)
       AND r.ended_at < clock_timestamp() - $1::interval
       AND NOT EXISTS (SELECT 1
                         FROM etl.row_issue i
                        WHERE i.run_id = r.run_id
                          AND (i.state IN ('open', 'deferred') OR i.closed_at > clock_timestamp() - $1::interval))
       AND NOT EXISTS (SELECT 1 FROM etl.batch b WHERE b.run_id = r.run_id AND b.state IN ('open', 'expired'))
     ORDER BY r.queued_at
     LIMIT 1000
       FOR UPDATE SKIP LOCKED
), piece AS MATERIALIZED (
    SELECT run_id
      FROM (SELECT run_id, rows, sum(rows) OVER (ORDER BY queued_at, run_id) AS upto FROM old) AS o
     WHERE upto <= $2::bigint OR upto = rows
), batches AS (
    DELETE FROM etl.batch b USING piece WHERE b.run_id = piece.run_id
), issues AS (
    DELETE FROM etl.row_issue i USING piece WHERE i.run_id = piece.run_id
), messages AS (
    DELETE FROM etl.message m USING piece WHERE m.run_id = piece.run_id
), gone AS (
    DELETE FROM etl.run r USING piece WHERE r.run_id = piece.run_id RETURNING r.run_id
)
SELECT (SELECT count(*) FROM gone) AS dropped,
       (SELECT count(*) FROM old) >= 1000 OR (SELECT count(*) FROM old) > (SELECT count(*) FROM gone) AS more
