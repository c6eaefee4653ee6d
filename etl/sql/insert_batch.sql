-- Record a claimed batch.
--   $1 token   $2 run (null: nobody's)   $3 job   $4 source   $5 number   $6 state   $7 lo   $8 hi
--   $9 crashes   $10 replay   $11 claimed
INSERT INTO etl.batch (token, run_id, job, source, number, state, lo, hi, crashes, replay, claimed)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
