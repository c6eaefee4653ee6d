-- The place for receipts -> what there is of it: the schema, both tables; what this user may: write there, make it.
SELECT n.oid IS NOT NULL AS begun,
       count(c.oid) = 2 AS made,
       coalesce(has_schema_privilege(n.oid, 'USAGE') AND count(c.oid) FILTER (WHERE
           has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
           AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')) = 2, false) AS may_write,
       has_database_privilege(current_database(), 'CREATE') AS may_make
  FROM (SELECT pg_catalog.to_regnamespace('etl_sink')::oid AS oid) AS n
  LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname IN ('stream', 'receipt')
 GROUP BY n.oid
