-- Log lines of a run: the first $3 that were kept, the last $3, and so many warnings and errors between them. `logged`
-- counts all that there were.
--   $1 run   $2 its start   $3 how many
WITH kept AS (
    SELECT number, at, level, left(logger, 200) AS logger, left(message, 2000) AS message,
           left(exception, 8000) AS exception, max(number) OVER () + 1 AS logged,
           row_number() OVER (ORDER BY number) AS first, row_number() OVER (ORDER BY number DESC) AS last,
           level IN ('warning', 'error', 'critical') AS trouble
      FROM etl.run_log
     WHERE run_at = $2 AND run_id = $1
), ranked AS (
    SELECT *, sum(CASE WHEN trouble AND first > $3::bigint AND last > $3::bigint THEN 1 ELSE 0 END)
                  OVER (ORDER BY number) AS place
      FROM kept
)
SELECT number, at, level, logger, message, exception, logged
  FROM ranked
 WHERE first <= $3::bigint OR last <= $3::bigint OR (trouble AND place <= $3::bigint)
 ORDER BY number
