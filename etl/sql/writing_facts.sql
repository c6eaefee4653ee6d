-- What decides how rows may be written into a table.
--   $1 oid of the table
-- COPY is refused under row-level security and passes rules by. A trigger on UPDATE could tell an update that changes
-- nothing from none.
SELECT pg_catalog.row_security_active(c.oid) AS row_security,
       c.relhasrules AS rules,
       EXISTS (SELECT 1
                 FROM pg_catalog.pg_trigger t
                WHERE NOT t.tgisinternal
                  AND t.tgtype & 16 <> 0
                  AND (t.tgrelid = c.oid
                       OR t.tgrelid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(c.oid) p))) AS update_triggers,
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMP') AS may_make_temporary
  FROM pg_catalog.pg_class c
 WHERE c.oid = $1
