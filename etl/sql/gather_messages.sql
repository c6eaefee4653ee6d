-- All messages that wait for a trigger go to a run, equal ones (topic and data) once -> these, in no order.
--   $1 run   $2 job   $3 trigger   $4 how many at most
WITH waiting AS MATERIALIZED (
    SELECT m.message_id,
           min(m.message_id) OVER same AS kept,
           count(*) OVER same - 1 AS repeats,
           left(string_agg(m.traceparent, ' ') OVER same, 7167) AS traceparent  -- 128 of them
      FROM (SELECT message_id, topic, data, traceparent
              FROM etl.message
             WHERE job = $2 AND trigger = $3 AND run_id IS NULL
             ORDER BY message_id
             LIMIT $4) AS m
    WINDOW same AS (PARTITION BY m.topic, m.data)
), folded AS (
    DELETE FROM etl.message m USING waiting w WHERE m.message_id = w.message_id AND w.message_id <> w.kept
)
UPDATE etl.message m
   SET run_id = $1, repeats = m.repeats + w.repeats, traceparent = w.traceparent
  FROM waiting w
 WHERE m.message_id = w.message_id AND w.message_id = w.kept
RETURNING m.message_id, m.topic, m.data, m.published_at, m.repeats, m.traceparent
