-- Runs that hold rows of a source although their lease is over.
--   $1 sources
SELECT DISTINCT r.run_id
  FROM etl.batch b
  JOIN etl.run r USING (run_id)
 WHERE b.source = ANY ($1::text[]) AND b.state = 'open' AND r.state = 'running' AND r.lease_until < clock_timestamp()
