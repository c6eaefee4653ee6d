-- Tables a person may have meant.
SELECT n.nspname AS schema, c.relname AS name, pg_catalog.pg_table_is_visible(c.oid) AS visible
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p')
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'etl')
   AND n.nspname NOT LIKE 'pg\_toast%'
 ORDER BY 1, 2
 LIMIT 5000
