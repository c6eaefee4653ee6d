-- Unique indexes of a table over plain columns.
--   $1 oid of the table
-- whole: not partial.  immediate: not deferrable.  plain: all columns in one direction, with their own collation and
-- the default operator class, so that reading in key order is reading the index.
SELECT i.indisprimary AS primary, i.indisvalid AND i.indisready AS valid, i.indimmediate AS immediate,
       i.indpred IS NULL AS whole,
       array_agg(a.attname::text ORDER BY k.position) AS columns,
       bool_and(o.opcdefault)
           AND bool_and(coll.oid IS NOT DISTINCT FROM a.attcollation)
           AND count(DISTINCT opt.option & 1) = 1 AS plain
  FROM pg_catalog.pg_index i
 CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
  JOIN LATERAL (SELECT (i.indclass::oid[])[k.position - 1] AS oid) class ON true
  JOIN pg_catalog.pg_opclass o ON o.oid = class.oid
  JOIN LATERAL (SELECT (i.indcollation::oid[])[k.position - 1] AS oid) coll ON true
  JOIN LATERAL (SELECT (i.indoption::int2[])[k.position - 1] AS option) opt ON true
 WHERE i.indrelid = $1
   AND i.indisunique
   AND i.indexprs IS NULL
   AND k.position <= i.indnkeyatts
 GROUP BY i.indexrelid, i.indisprimary, i.indisvalid, i.indisready, i.indimmediate, i.indpred
 ORDER BY i.indisprimary DESC, i.indexrelid
