-- Where the job's last sweep of a source ended, and by which key the source is claimed.
--   $1 source   $2 job
SELECT key, positions -> $2 AS position, clock_timestamp() AS now,
       EXISTS (SELECT 1 FROM etl.batch b WHERE b.source = c.source AND b.state IN ('open', 'expired')) AS reserved
  FROM etl.source_cursor c
 WHERE source = $1
