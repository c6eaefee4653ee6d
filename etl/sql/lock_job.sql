-- Whoever judges a job takes turns: what comes after this sees what the others did.
--   $1 job
SELECT job FROM etl.job WHERE job = $1 FOR UPDATE
