-- A run's own span, the spans right beneath it (kept ones and folded ones), and all that is beneath its batches, or
-- where there are more than $4 of them beneath the $5 slowest and some with trouble. Of events and texts the beginning.
--   $1 run   $2 its start   $3 its own span   $4 most batches   $5 how many of more   $6 most spans
WITH RECURSIVE top AS (
    SELECT * FROM etl.span WHERE run_at = $2 AND run_id = $1 AND (span_id = $3 OR parent_id = $3)
), ranked AS (
    SELECT span_id, row_number() OVER (ORDER BY duration_s DESC, span_id) AS place, count(*) OVER () AS total,
           row_number() OVER (ORDER BY failed DESC, jsonb_array_length(events) DESC, duration_s DESC, span_id) AS worst,
           failed OR events <> '[]' AS trouble
      FROM top
     WHERE name = 'etl.batch' AND folded = 0
), beneath AS (
    SELECT s.*, 1 AS depth
      FROM ranked r
      JOIN etl.span s ON s.run_at = $2 AND s.run_id = $1 AND s.parent_id = r.span_id
     WHERE r.total <= $4::bigint OR r.place <= $5::bigint OR (r.trouble AND r.worst <= $5::bigint / 2)
     UNION ALL
    SELECT s.*, b.depth + 1
      FROM beneath b
      JOIN etl.span s ON s.run_at = $2 AND s.run_id = $1 AND s.parent_id = b.span_id
     WHERE b.depth < 20
), found AS (
    SELECT *, 0 AS depth FROM top
     UNION ALL
    SELECT * FROM beneath
)
SELECT span_id, parent_id, left(name, 200) AS name, failed, left(status, 1000) AS status, started_at, duration_s, folded,
       left(coalesce(attributes ->> 'etl.stage.name', attributes ->> 'etl.sink.name'), 200) AS label,
       CASE WHEN jsonb_typeof(attributes -> 'etl.batch.number') = 'number' THEN (attributes ->> 'etl.batch.number')::float8 END AS number,
       CASE WHEN jsonb_typeof(attributes -> 'etl.rows') = 'number' THEN (attributes ->> 'etl.rows')::float8 END AS rows,
       CASE WHEN jsonb_typeof(attributes -> 'etl.folded.total_s') = 'number' THEN (attributes ->> 'etl.folded.total_s')::float8 END AS total_s,
       CASE WHEN jsonb_typeof(attributes -> 'etl.folded.max_s') = 'number' THEN (attributes ->> 'etl.folded.max_s')::float8 END AS longest_s,
       CASE WHEN jsonb_typeof(attributes -> 'etl.folded.failed') = 'number' THEN (attributes ->> 'etl.folded.failed')::float8 END AS failures,
       CASE WHEN jsonb_typeof(attributes -> 'etl.events.left_out') = 'number' THEN (attributes ->> 'etl.events.left_out')::float8 END AS left_out,
       (SELECT jsonb_agg(jsonb_build_array(
                   left(e ->> 'name', 200), e ->> 'at', left(e -> 'attributes' ->> 'etl.row.key', 200),
                   left(e -> 'attributes' ->> 'etl.stage.name', 200),
                   left(e -> 'attributes' ->> 'exception.type', 200),
                   left(e -> 'attributes' ->> 'exception.message', 600)) ORDER BY n)
          FROM jsonb_array_elements(events) WITH ORDINALITY AS listed (e, n)
         WHERE n <= 20) AS events
  FROM found
 ORDER BY depth, span_id <> $3, folded > 0, failed DESC, duration_s DESC, span_id
 LIMIT $6
