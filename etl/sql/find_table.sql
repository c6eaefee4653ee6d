-- A relation by name: as a whole through the search path, else split into schema and name at any of its dots.
--   $1 schemas ('' = through the search path)   $2 names
SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
       c.relkind = 'r' AND c.relhassubclass
           AND EXISTS (SELECT 1 FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid) AS has_children,
       EXISTS (SELECT 1 FROM pg_catalog.pg_constraint x WHERE x.conrelid = c.oid AND x.condeferrable) AS deferrable,
       pg_catalog.has_table_privilege(c.oid, 'SELECT') AS may_select
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (schema, name, preference)
  JOIN pg_catalog.pg_class c ON c.relname = wanted.name
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE CASE WHEN wanted.schema = '' THEN pg_catalog.pg_table_is_visible(c.oid) ELSE n.nspname = wanted.schema END
 ORDER BY wanted.preference
 LIMIT 1
