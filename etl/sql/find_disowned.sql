-- Is a trigger of this process defined differently (or not at all) by a worker that is gone?
--   $1, $2, $3 jobs, triggers and definitions this process knows   $4 this worker
SELECT EXISTS (
    SELECT 1
      FROM unnest($1::text[], $2::text[], $3::text[]) AS k (job, trigger, spec)
      LEFT JOIN etl.schedule s ON s.job = k.job AND s.trigger = k.trigger
     WHERE s.spec IS DISTINCT FROM k.spec
       AND NOT EXISTS (SELECT 1
                         FROM etl.worker w
                        WHERE w.worker_id <> $4 AND w.stopped_at IS NULL AND w.seen_at > clock_timestamp() - w.lease
                          AND k.job = ANY (w.jobs) AND w.started_at > (SELECT started_at FROM etl.worker WHERE worker_id = $4))
)
