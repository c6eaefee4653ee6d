-- How long (seconds) until something is due for this process: a trigger, a deferred row; and is a run waiting?
--   $1, $2, $3 jobs, triggers and definitions this process knows   $4 jobs
SELECT (SELECT extract(epoch FROM min(s.next_at) - clock_timestamp())::float8
          FROM etl.schedule s
          JOIN unnest($1::text[], $2::text[], $3::text[]) AS k (job, trigger, spec)
            ON k.job = s.job AND k.trigger = s.trigger AND k.spec = s.spec) AS due_in,
       EXISTS (SELECT 1 FROM etl.run r WHERE r.state = 'queued' AND r.job = ANY ($4::text[])) AS queued,
       EXISTS (SELECT 1 FROM etl.row_issue i
                WHERE i.state = 'deferred' AND i.due_at <= clock_timestamp() AND i.job = ANY ($4::text[])) AS deferred
