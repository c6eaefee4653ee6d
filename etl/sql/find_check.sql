-- What a CHECK constraint demands of rows, as SQL over the columns of its table, to find rows that it refuses before
-- they are written. No row where that cannot be said by columns alone: a reference to the row as a whole, or to a column
-- of the system; or what calls a function that is not immutable, for that may look at the clock, or at rows that the
-- batch before is just writing, and may think otherwise when this one has its turn.
--   $1 the table's name in SQL   $2, $3 schema and name of the table that refused a row: this one or a part of it
--   $4 the constraint
SELECT pg_catalog.pg_get_expr(r.conbin, r.conrelid) AS demand,
       array_agg(a.attname::text ORDER BY a.attnum) AS columns,
       -- with length or precision: what is written is cut to it, or padded, before anybody looks at it
       array_agg(CASE WHEN a.atttypmod >= 0 AND t.typtype <> 'd' THEN pg_catalog.format_type(t.oid, a.atttypmod) END
                 ORDER BY a.attnum) AS types
  FROM pg_catalog.pg_constraint r
  JOIN pg_catalog.pg_attribute a ON a.attrelid = r.conrelid AND a.attnum > 0 AND a.attnum = ANY (r.conkey)
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
 CROSS JOIN LATERAL (SELECT to_regclass(format('%I.%I', $2::text, $3::text)) AS oid) AS refusing
 WHERE r.contype = 'c' AND r.conname = $4::text AND r.conrelid = $1::text::regclass
   AND (refusing.oid = r.conrelid OR refusing.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(r.conrelid)))
   AND r.conbin::text !~ '[{]SQLVALUEFUNCTION'
   AND NOT EXISTS (SELECT FROM regexp_matches(r.conbin::text, ':(?:op)?funcid (\d+)', 'g') AS called (oids)
                     JOIN pg_catalog.pg_proc f ON f.oid = called.oids[1]::oid
                    WHERE f.provolatile <> 'i')
 GROUP BY r.oid, r.conbin, r.conrelid, r.conkey
HAVING count(*) = cardinality(r.conkey)
