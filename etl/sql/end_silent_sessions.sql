-- Sessions of this framework whose client fell silent between preparing a statement and running it, with locks in hand.
-- The server counts such a session as active, so its idle_in_transaction_session_timeout does not end it.
--   $1 seconds of silence
SELECT pg_catalog.pg_terminate_backend(a.pid)
  FROM pg_catalog.pg_stat_activity a
 WHERE a.datname = current_database() AND a.usename = current_user
   AND a.state = 'active' AND a.wait_event = 'ClientRead'
   AND a.state_change < clock_timestamp() - $1::float8 * interval '1 second'
   AND EXISTS (SELECT 1
                 FROM pg_catalog.pg_locks l
                WHERE l.pid = a.pid
                  AND l.relation IN ('etl.schedule'::regclass, 'etl.run'::regclass, 'etl.source_cursor'::regclass,
                                     'etl.batch'::regclass))
