-- First statement of a run's end: whoever wants to end a run locks its row and looks at its state.
--   $1 run
SELECT job, state, worker_id, replaced_by FROM etl.run WHERE run_id = $1 FOR UPDATE
