-- Who has the transaction that is the oldest one still running: a session, or a prepared transaction without one.
-- pg_locks shows everybody's; the start is hidden from users without pg_read_all_stats.
--   $1 its id, as text of an xid8
SELECT l.pid, a.datname AS database, a.usename AS user, coalesce(a.xact_start, p.prepared) AS since, p.gid
  FROM pg_catalog.pg_locks l
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = l.transactionid
 WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
   AND l.transactionid = $1::text::xid8::xid
   AND l.pid IS DISTINCT FROM pg_backend_pid()
