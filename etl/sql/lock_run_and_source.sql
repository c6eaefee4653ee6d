-- First statement of a claim: the run must be running and ours, and claimants of one source take turns.
--   $1 run   $2 worker   $3 source
-- Two locks in one statement, always in this order: the run (shared: a run that is being ended gives no new batch),
-- then the source's cursor row -> what the source's keys are made of at this moment.
WITH own AS MATERIALIZED (
    SELECT run_id
      FROM etl.run
     WHERE run_id = $1 AND worker_id = $2 AND state = 'running'
       FOR SHARE
)
SELECT c.key
  FROM own
 CROSS JOIN etl.source_cursor c
 WHERE c.source = $3
   FOR UPDATE OF c
