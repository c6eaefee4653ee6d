-- How long (seconds) until something is due for this process, and does something wait now: a run, deferred rows,
-- messages, a run that could not start in time?
--   $1, $2, $3 jobs, triggers and definitions this process knows   $4 jobs
SELECT extract(epoch FROM least(
           (SELECT min(s.next_at)
              FROM etl.schedule s
              JOIN unnest($1::text[], $2::text[], $3::text[]) AS k (job, trigger, spec)
                ON k.job = s.job AND k.trigger = s.trigger AND k.spec = s.spec),
           (SELECT min(r.start_by) FROM etl.run r WHERE r.state = 'queued' AND r.start_by IS NOT NULL)
       ) - clock_timestamp())::float8 AS due_in,
       EXISTS (SELECT 1 FROM etl.run r WHERE r.state = 'queued' AND r.job = ANY ($4::text[])) AS queued,
       EXISTS (SELECT 1 FROM etl.row_issue i
                WHERE i.state = 'deferred' AND i.due_at <= clock_timestamp() AND i.job = ANY ($4::text[])) AS deferred,
       EXISTS (SELECT 1 FROM etl.message m WHERE m.run_id IS NULL AND m.job = ANY ($4::text[])) AS messages
