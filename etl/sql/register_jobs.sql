-- Make jobs known.
--   $1 jobs
INSERT INTO etl.job (job)
SELECT DISTINCT job FROM unnest($1::text[]) AS q (job) ORDER BY job
    ON CONFLICT DO NOTHING
