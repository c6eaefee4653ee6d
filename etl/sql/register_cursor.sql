-- Make sure that a cursor has its first row, on which those who move it take turns.
--   $1 source
INSERT INTO etl.covered (source)
VALUES ($1)
ON CONFLICT DO NOTHING
