-- What became of an attempt to tell something; nothing if somebody else has taken it since.
--   $1 episode   $2 its end?   $3 number of the attempt   $4 told?   $5 error (or null)   $6 seconds until the next
--   attempt (null: there is none)
UPDATE etl.notice
   SET told = $4, error = $5,
       settled_at = CASE WHEN $6::float8 IS NULL THEN clock_timestamp() END,
       due_at = clock_timestamp() + coalesce($6, 0) * interval '1 second'
 WHERE episode_id = $1 AND recovered = $2 AND attempts = $3 AND settled_at IS NULL
