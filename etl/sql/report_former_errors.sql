-- Why the former runs of a job set rows aside; `in_last`: the newest of them that had rows and was no replay had it.
-- Jumps from one reason of a run to the next in the index, however many rows each has.
--   $1 former runs, newest first   $2 the newest of them that had rows and was no replay
-- Index: row_issue_reason (run_id, fingerprint)
WITH RECURSIVE former AS (
    SELECT * FROM unnest($1::uuid[]) WITH ORDINALITY AS f (run_id, place)
), found AS (
    SELECT f.run_id, f.place, (SELECT min(i.fingerprint) FROM etl.row_issue i WHERE i.run_id = f.run_id) AS fingerprint
      FROM former f
     UNION ALL
    SELECT f.run_id, f.place, (SELECT min(i.fingerprint)
                                 FROM etl.row_issue i
                                WHERE i.run_id = f.run_id AND i.fingerprint > f.fingerprint)
      FROM found f
     WHERE f.fingerprint IS NOT NULL
), reason AS (
    SELECT fingerprint, count(*) AS runs, (array_agg(run_id ORDER BY place))[1] AS run_id,
           bool_or(run_id IS NOT DISTINCT FROM $2::uuid) AS in_last
      FROM found
     WHERE fingerprint IS NOT NULL
     GROUP BY fingerprint
)
SELECT one.stage, one.error_type, r.fingerprint, one.message AS example, r.runs, one.opened_at AS last_seen, r.in_last
  FROM reason r
 CROSS JOIN LATERAL (
       SELECT i.stage, i.error_type, i.message, i.opened_at
         FROM etl.row_issue i
        WHERE i.run_id = r.run_id AND i.fingerprint = r.fingerprint
        LIMIT 1) AS one
 ORDER BY last_seen DESC, error_type, fingerprint
