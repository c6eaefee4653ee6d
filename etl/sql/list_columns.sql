-- The columns of a table; domains are followed down to their base type.
--   $1 oid of the table
WITH RECURSIVE resolved AS (
    SELECT a.attnum, a.atttypid AS type_oid, t.typnotnull AS not_null
      FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT r.attnum, t.typbasetype, r.not_null OR t.typnotnull
      FROM resolved r
      JOIN pg_catalog.pg_type t ON t.oid = r.type_oid AND t.typtype = 'd'
)
SELECT a.attname AS name,
       format('%I.%I', n.nspname, t.typname) AS type,
       t.typname::text AS base,
       t.typcategory::text AS category,
       t.typtype::text AS kind,
       (SELECT format('%I.%I', cn.nspname, co.collname)
          FROM pg_catalog.pg_collation co
          JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
         WHERE co.oid = a.attcollation) AS collation,
       a.attnotnull OR r.not_null AS not_null,
       a.attgenerated <> '' AS generated,
       (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid)
          FROM pg_catalog.pg_attrdef d
         WHERE d.adrelid = $1 AND d.adnum = a.attnum) AS "default",
       a.attidentity = 'a' AS always,
       pg_catalog.has_column_privilege($1, a.attnum, 'UPDATE') AS may_update,
       pg_catalog.has_column_privilege($1, a.attnum, 'INSERT') AS may_insert
  FROM resolved r
  JOIN pg_catalog.pg_type t ON t.oid = r.type_oid
  JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = $1 AND a.attnum = r.attnum
 WHERE t.typtype <> 'd'
 ORDER BY a.attnum
