-- Ranges of another job's vanished holders on a shared source, given back when that job has no run that could take
-- them over (a queued run that nobody has started for a minute does not count). The source is locked.
--   $1 source   $2 own job
UPDATE etl.batch b
   SET state = 'released', ended_at = clock_timestamp()
 WHERE b.source = $1 AND b.job <> $2 AND b.state = 'expired'
   AND NOT EXISTS (SELECT 1
                     FROM etl.run r
                    WHERE r.job = b.job
                      AND (r.state = 'running'
                           OR r.state = 'queued' AND r.queued_at > clock_timestamp() - interval '1 minute'))
RETURNING token
