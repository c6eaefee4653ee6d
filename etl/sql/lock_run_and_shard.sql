-- First statement of a claim from a shard: the run must be running and ours, and claimants of one shard take turns.
--   $1 run   $2 worker   $3 source   $4 shard
-- Three locks in one statement, always in this order: the run and the source (shared), then the shard's row -> what the
-- source's keys are made of at this moment.
WITH own AS MATERIALIZED (
    SELECT run_id
      FROM etl.run
     WHERE run_id = $1 AND worker_id = $2 AND state = 'running'
       FOR SHARE
), source AS MATERIALIZED (
    SELECT c.key
      FROM own
     CROSS JOIN etl.source_cursor c
     WHERE c.source = $3
       FOR SHARE OF c
)
SELECT source.key
  FROM source
 CROSS JOIN etl.source_cursor shard
 WHERE shard.source = $4
   FOR UPDATE OF shard
