-- Runs whose id begins so.
--   $1 first id that does   $2 last one
-- Index: run_pkey (run_id)
SELECT run_id FROM etl.run WHERE run_id BETWEEN $1 AND $2 ORDER BY queued_at DESC LIMIT 3
