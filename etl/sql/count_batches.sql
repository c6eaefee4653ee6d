-- The books of a run, from its batches. A batch given back or taken over counts as released in the run that lost it.
--   $1 run
SELECT coalesce(sum(claimed), 0)::bigint AS claimed,
       coalesce(sum(written), 0)::bigint AS written,
       coalesce(sum(filtered), 0)::bigint AS filtered,
       coalesce(sum(quarantined), 0)::bigint AS quarantined,
       coalesce(sum(deferred), 0)::bigint AS deferred,
       coalesce(sum(claimed) FILTER (WHERE state IN ('released', 'expired', 'replaced')), 0)::bigint AS released,
       coalesce(sum(vanished), 0)::bigint AS vanished,
       coalesce(sum(retried), 0)::bigint AS retried,
       count(*) AS batches,
       count(*) FILTER (WHERE state = 'open') AS open
  FROM etl.batch
 WHERE run_id = $1
