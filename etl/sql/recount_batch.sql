-- The last answer to a claim counts: its range may hold other rows than at the first answer.
--   $1 token   $2 claimed
UPDATE etl.batch SET claimed = $2 WHERE token = $1 AND state = 'open'
