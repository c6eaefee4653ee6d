-- A trigger that fires by itself. A known idempotency key changes nothing.
--   $1 job   $2 trigger   $3 topic   $4 data   $5 idempotency key   $6 W3C context of the sender
WITH sent AS (
    INSERT INTO etl.message (job, trigger, topic, data, idempotency_key, traceparent)
    VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (job, trigger, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
 RETURNING message_id
)
SELECT message_id, pg_notify('etl', '') FROM sent
