-- Set rows aside.
--   $1 job   $2 source   $3 run   $4 token   $5 state   $6 seconds until due (null: never by itself)
--   $7 rows, one JSON object each: key (array of texts), version (null, and not held: what this statement's transaction
--      makes of the row), held, stage, error_type, message, traceback, attempts,
--      payload (JSON as text), exact: whether that reads back as the same, frame: place in the user's code,
--      fingerprint: what is the same for all rows with this reason (null: not an error),
--      event: the whole event (JSON as text), where the payload is blanked and nothing else could be replayed
INSERT INTO etl.row_issue (job, source, run_id, token, state, due_at,
                           key, version, held, stage, error_type, message, traceback, attempts, payload, exact,
                           frame, fingerprint, event)
SELECT $1, $2, $3, $4, $5, clock_timestamp() + $6 * interval '1 second',
       r.key, coalesce(r.version, CASE WHEN NOT r.held THEN pg_current_xact_id()::xid::text END), r.held,
       r.stage, r.error_type, r.message, r.traceback, r.attempts, r.payload::jsonb, r.exact,
       r.frame, r.fingerprint, r.event::jsonb
  FROM json_to_recordset($7::json)
    AS r (key jsonb, version text, held boolean, stage text, error_type text, message text, traceback text,
          attempts integer, payload text, exact boolean, frame text, fingerprint text, event text)
