-- A run whose lease ran out. A run that is being claimed for, renewed or ended is locked and left alone.
--   $1 only these runs (null: any)   $2 except these
SELECT run_id
  FROM etl.run
 WHERE state = 'running' AND lease_until < clock_timestamp()
   AND ($1::text[]::uuid[] IS NULL OR run_id = ANY ($1::text[]::uuid[]))
   AND run_id <> ALL ($2::text[]::uuid[])
 ORDER BY lease_until
 LIMIT 1
   FOR UPDATE SKIP LOCKED
