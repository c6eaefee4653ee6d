-- Triggers that the code of these jobs does not have any more.
--   $1 jobs   $2, $3 jobs and triggers that exist
DELETE FROM etl.schedule s
 WHERE s.job = ANY ($1::text[])
   AND NOT EXISTS (SELECT 1 FROM unnest($2::text[], $3::text[]) AS k (job, trigger) WHERE k.job = s.job AND k.trigger = s.trigger)
