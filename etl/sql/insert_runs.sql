-- Ask for many runs of fire times at once; those whose overlap key is free get their place, the others no row.
--   $1 runs   $2 jobs   $3 triggers   $4 scheduled for   $5 overlap keys   $6 active at once   $7 pools
--   $8 seconds to start within
INSERT INTO etl.run (run_id, job, trigger, scheduled_for, overlap_key, places, state, queued_at, pool, start_by)
SELECT q.run_id, q.job, q.trigger, q.scheduled_for, q.overlap_key, q.places, 'queued', clock_timestamp(), q.pool,
       clock_timestamp() + q.start_within * interval '1 second'
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::integer[], $7::text[],
              $8::float8[]) AS q (run_id, job, trigger, scheduled_for, overlap_key, places, pool, start_within)
 WHERE NOT EXISTS (SELECT 1 FROM etl.run a WHERE a.overlap_key = q.overlap_key AND a.state IN ('queued', 'running'))
 ORDER BY q.scheduled_for
    ON CONFLICT DO NOTHING
RETURNING run_id
