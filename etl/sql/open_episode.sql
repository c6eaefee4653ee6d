-- An episode begins, unless it is open, or was closed after whoever opens it had looked; who is to be told of it is.
--   $1 job   $2 kind   $3 subject   $4 run (or null)   $5 text   $6 facts   $7 when that was looked at (null: just now)
WITH opened AS (
    INSERT INTO etl.episode (job, kind, subject, run_id, text, facts)
    SELECT $1, $2, $3, $4, $5, $6
     WHERE NOT EXISTS (SELECT 1
                         FROM etl.episode e
                        WHERE e.job = $1 AND e.kind = $2 AND e.subject = $3 AND e.closed_at > $7::timestamptz)
        ON CONFLICT (job, kind, subject) WHERE closed_at IS NULL DO NOTHING
 RETURNING *
), told AS (
    INSERT INTO etl.notice (episode_id, recovered, at, run_id, text, facts)
    SELECT o.episode_id, false, o.opened_at, o.run_id, o.text, o.facts
      FROM opened o
      JOIN etl.job j ON j.job = o.job
     WHERE j.tells
)
SELECT * FROM opened
