-- Under the lock of the trigger: the messages that wait, and whether a queued run will take them all.
--   $1 job   $2 trigger   $3 limit
SELECT m.message_id, m.data, m.scheduled_for, clock_timestamp() AS now,
       EXISTS (SELECT 1 FROM etl.run r
                WHERE r.job = $1 AND r.trigger = $2 AND r.state = 'queued' AND r.serves_messages) AS expected
  FROM etl.message m
 WHERE m.job = $1 AND m.trigger = $2 AND m.run_id IS NULL
 ORDER BY m.message_id
 LIMIT $3
