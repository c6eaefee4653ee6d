-- Move a trigger's next fire time; the row is locked, and the comparison would catch it if it were not.
--   $1 job   $2 trigger   $3 former   $4 next
UPDATE etl.schedule SET next_at = $4 WHERE job = $1 AND trigger = $2 AND next_at = $3
RETURNING job
