-- Last statement of a completion; the row is locked and was seen open.
--   $1 token   $2 claimed   $3 written   $4 filtered   $5 quarantined   $6 deferred   $7 vanished   $8 retried   $9 stages
UPDATE etl.batch
   SET state = 'done', claimed = $2, written = $3, filtered = $4, quarantined = $5, deferred = $6, vanished = $7,
       retried = $8, stages = $9, ended_at = clock_timestamp()
 WHERE token = $1 AND state = 'open'
