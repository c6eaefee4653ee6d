-- Set rows aside.
--   $1 job   $2 source   $3 run   $4 token   $5 state   $6 seconds until due (null: never by itself)
--   then one array entry per row: $7 key   $8 version   $9 held   $10 stage   $11 error type   $12 message
--   $13 traceback   $14 attempts   $15 payload as JSON text   $16 whether that is exact   $17 place in the user's code
--   $18 what is the same for all rows with this reason (null: not an error)
--   $19 the whole event as JSON text, where the payload is blanked and nothing else could be replayed
INSERT INTO etl.row_issue (job, source, run_id, token, state, due_at,
                           key, version, held, stage, error_type, message, traceback, attempts, payload, exact,
                           frame, fingerprint, event)
SELECT $1, $2, $3, $4, $5, clock_timestamp() + $6 * interval '1 second',
       r.key::jsonb, r.version, r.held, r.stage, r.error_type, r.message, r.traceback, r.attempts, r.payload::jsonb, r.exact,
       r.frame, r.fingerprint, r.event::jsonb
  FROM unnest($7::text[], $8::text[], $9::boolean[], $10::text[], $11::text[], $12::text[], $13::text[], $14::integer[],
              $15::text[], $16::boolean[], $17::text[], $18::text[], $19::text[])
    AS r (key, version, held, stage, error_type, message, traceback, attempts, payload, exact, frame, fingerprint, event)
