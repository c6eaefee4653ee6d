-- The batch of a holder that vanished, about to be taken over.
--   $1 token
SELECT lo, hi, crashes
  FROM etl.batch
 WHERE token = $1 AND state = 'expired'
   FOR UPDATE SKIP LOCKED
