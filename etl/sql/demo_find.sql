-- Relations that bear the names of the demonstration's tables, and whether it made them.
SELECT c.relname AS name, pg_catalog.obj_description(c.oid, 'pg_class') IS NOT DISTINCT FROM 'made by etl demo' AS ours
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'public' AND c.relname IN ('airport', 'flights_inbox', 'flight')
