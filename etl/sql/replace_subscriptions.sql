-- The topics that the triggers of these jobs want.
--   $1 jobs   $2, $3, $4 jobs, triggers and topics
WITH wanted AS (
    SELECT DISTINCT q.job, q.trigger, q.topic
      FROM unnest($2::text[], $3::text[], $4::text[]) AS q (job, trigger, topic)
), gone AS (
    DELETE FROM etl.subscription s
     WHERE s.job = ANY ($1::text[])
       AND NOT EXISTS (SELECT 1 FROM wanted w WHERE w.job = s.job AND w.trigger = s.trigger AND w.topic = s.topic)
)
INSERT INTO etl.subscription (job, trigger, topic)
SELECT job, trigger, topic FROM wanted ORDER BY job, trigger, topic
    ON CONFLICT DO NOTHING
