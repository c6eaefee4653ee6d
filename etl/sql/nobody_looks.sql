-- Whether nothing in two tables looks at what a statement does to the other one while it does it: no trigger, rule or
-- policy on them, their partitions or what they are partitions of, no table in both, and no reference from the source to
-- the sink: a transaction marks first, so that what depends on the order would come out one way or the other.
--   $1 oid of the sink   $2 oid of the source
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
   AND NOT EXISTS (SELECT 1
                     FROM pg_catalog.pg_constraint r
                     JOIN part one ON one.relid = r.conrelid AND one.whole = $2::oid
                     JOIN part other ON other.relid = r.confrelid AND other.whole = $1::oid
                    WHERE r.contype = 'f')
   AND $1::oid <> $2::oid
