-- Whether nothing in two tables looks at what a statement does to the other one while it does it: no trigger, rule or
-- policy on them, their partitions or what they are partitions of, and no table in both.
--   $1 oid of the one   $2 oid of the other
WITH part AS (
    SELECT whole.oid AS whole, family.relid
      FROM unnest(ARRAY[$1::oid, $2::oid]) AS whole (oid),
           LATERAL (SELECT whole.oid AS relid
                     UNION SELECT relid FROM pg_catalog.pg_partition_tree(whole.oid)
                     UNION SELECT relid FROM pg_catalog.pg_partition_ancestors(whole.oid)) AS family
)
SELECT NOT EXISTS (SELECT 1
                     FROM part
                     JOIN pg_catalog.pg_class c ON c.oid = part.relid
                    WHERE c.relhasrules OR c.relrowsecurity
                       OR EXISTS (SELECT 1 FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal))
   AND NOT EXISTS (SELECT 1 FROM part one JOIN part other USING (relid) WHERE one.whole <> other.whole)
   AND $1::oid <> $2::oid
