-- What sessions wait for, and who holds the lock that one of them waits for.
--   $1 process ids
SELECT a.pid, a.state, a.wait_event_type AS kind, a.wait_event AS event,
       held.pid AS blocker_pid, b.application_name AS blocker_name, b.state AS blocker_state
  FROM pg_catalog.pg_stat_activity a
  LEFT JOIN LATERAL (
      SELECT pid FROM unnest(CASE WHEN a.wait_event_type = 'Lock' THEN pg_blocking_pids(a.pid) END) AS pid LIMIT 1
  ) held ON true
  LEFT JOIN pg_catalog.pg_stat_activity b ON b.pid = held.pid
 WHERE a.pid = ANY ($1::integer[])
