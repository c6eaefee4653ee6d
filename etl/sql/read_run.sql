-- One run.
--   $1 run
SELECT * FROM etl.run_view WHERE run_id = $1
