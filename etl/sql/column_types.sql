-- The types of some columns of a table, in the order in which they are named.
--   $1 the table's name in SQL   $2 columns
SELECT array_agg(a.atttypid::int8 ORDER BY w.place)
  FROM unnest($2::text[]) WITH ORDINALITY AS w (name, place)
  JOIN pg_catalog.pg_attribute a ON a.attname = w.name
 WHERE a.attrelid = $1::text::regclass
