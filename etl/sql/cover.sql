-- A stretch of keys is done with; it merges with its neighbours. The cursor is locked.
--   $1 source   $2 after (null: from the beginning)   $3 up to and including
WITH behind AS (
    DELETE FROM etl.covered WHERE source = $1 AND after = $3 RETURNING upto
), reached AS (
    SELECT coalesce((SELECT upto FROM behind), $3) AS upto
), grown AS (
    UPDATE etl.covered c
       SET upto = reached.upto
      FROM reached
     WHERE c.source = $1 AND c.upto IS NOT DISTINCT FROM $2
 RETURNING 1
)
INSERT INTO etl.covered (source, after, upto)
SELECT $1, $2, reached.upto
  FROM reached
 WHERE NOT EXISTS (SELECT 1 FROM grown)
