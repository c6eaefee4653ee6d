-- Runs, newest first.
--   $1 job (null: all)   $2 states (null: all)   $3 limit
SELECT *
  FROM etl.run_view
 WHERE ($1::text IS NULL OR job = $1)
   AND ($2::text[] IS NULL OR state = ANY ($2))
 ORDER BY queued_at DESC, run_id DESC
 LIMIT $3
