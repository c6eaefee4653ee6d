-- Drop runs that ended long ago, with their batches and closed issues; never one that open issues point to.
--   $1 how long history is kept
WITH old AS MATERIALIZED (
    SELECT r.run_id
      FROM etl.run r
     WHERE r.ended_at < clock_timestamp() - $1::interval
       AND NOT EXISTS (SELECT 1 FROM etl.row_issue i WHERE i.run_id = r.run_id AND i.state IN ('open', 'deferred'))
       AND NOT EXISTS (SELECT 1 FROM etl.batch b WHERE b.run_id = r.run_id AND b.state IN ('open', 'expired'))
     ORDER BY r.queued_at
     LIMIT 1000
       FOR UPDATE SKIP LOCKED
), batches AS (
    DELETE FROM etl.batch b USING old WHERE b.run_id = old.run_id
), issues AS (
    DELETE FROM etl.row_issue i USING old WHERE i.run_id = old.run_id
), messages AS (
    DELETE FROM etl.message m USING old WHERE m.run_id = old.run_id
), gone AS (
    DELETE FROM etl.run r USING old WHERE r.run_id = old.run_id RETURNING r.run_id
)
SELECT count(*) >= 1000 FROM gone
