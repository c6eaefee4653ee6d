-- What tells this database from every other one, copies of it in other clusters included.
SELECT c.system_identifier || '/' || d.oid
  FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d
 WHERE d.datname = pg_catalog.current_database()
