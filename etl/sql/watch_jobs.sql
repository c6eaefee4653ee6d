-- How jobs stand that promise something of themselves: runs that go on for too long, when a row was written last, what
-- is open, and whether somebody is to be told of something. The end of a run with rows is looked for among the job's
-- last 2,000 runs, and the look ends with twenty of them.
--   $1 jobs   $2 longest time of a run, in seconds (or null)   $3 whether silence matters   $4 whether the job tells
SELECT j.job, clock_timestamp() AS now, coalesce(k.paused_at IS NOT NULL, false) AS paused,
       CASE WHEN j.quiet THEN greatest(k.first_seen_at, (
           SELECT max(s.ended_at)
             FROM (SELECT r.ended_at
                     FROM (SELECT * FROM etl.run n WHERE n.job = j.job ORDER BY n.queued_at DESC LIMIT 2000) AS r
                    WHERE r.state IN ('succeeded', 'partial') AND r.written > 0
                    LIMIT 20) AS s), (
           SELECT max(b.ended_at)
             FROM etl.run r
             JOIN etl.batch b ON b.run_id = r.run_id
            WHERE r.job = j.job AND r.state = 'running' AND b.state = 'done' AND b.written > 0)) END AS last_sign,
       (SELECT coalesce(jsonb_agg(jsonb_build_array(
                   r.run_id, extract(epoch FROM clock_timestamp() - r.started_at))), '[]')
          FROM etl.run r
         WHERE r.job = j.job AND r.state = 'running'
           AND r.started_at < clock_timestamp() - j.longest * interval '1 second') AS late,
       (SELECT coalesce(jsonb_agg(jsonb_build_array(e.episode_id, e.kind, e.subject, e.run_id, e.kind = 'late'
                   AND NOT EXISTS (SELECT 1
                                     FROM etl.run r
                                    WHERE r.run_id = e.run_id AND r.state = 'running'))), '[]')
          FROM etl.episode e
         WHERE e.job = j.job AND e.closed_at IS NULL) AS open,
       j.tells AND EXISTS (SELECT 1
                             FROM etl.notice n
                             JOIN etl.episode e ON e.episode_id = n.episode_id
                            WHERE n.settled_at IS NULL AND n.due_at <= clock_timestamp() AND e.job = j.job) AS notices
  FROM unnest($1::text[], $2::float8[], $3::boolean[], $4::boolean[]) AS j (job, longest, quiet, tells)
  LEFT JOIN etl.job k ON k.job = j.job
