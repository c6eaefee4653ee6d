-- Write spans and log lines of runs; a known one is written over. Spans that are folded by now go.
--   $1 spans   $2 spans that go: [{run_at, run_id, span_id}]   $3 lines   $4 [{run_id, spans_lost, lines_lost}]
WITH gone AS (
    DELETE FROM etl.span s
     USING jsonb_to_recordset($2::jsonb) AS g (run_at timestamptz, run_id uuid, span_id text)
     WHERE s.run_at = g.run_at AND s.run_id = g.run_id AND s.span_id = g.span_id
), spans AS (
    INSERT INTO etl.span AS s (run_at, run_id, span_id, trace_id, parent_id, name, kind, failed, status, started_at,
                               duration_s, folded, attributes, events, links)
    SELECT * FROM jsonb_to_recordset($1::jsonb)
        AS n (run_at timestamptz, run_id uuid, span_id text, trace_id text, parent_id text, name text, kind text,
              failed boolean, status text, started_at timestamptz, duration_s float8, folded integer,
              attributes jsonb, events jsonb, links jsonb)
        ON CONFLICT (run_id, span_id, run_at) DO UPDATE
       SET failed = excluded.failed, status = excluded.status, started_at = excluded.started_at,
           duration_s = excluded.duration_s, folded = excluded.folded, attributes = excluded.attributes,
           events = excluded.events
), lines AS (
    INSERT INTO etl.run_log (run_at, run_id, slot, number, at, level, logger, message, exception, trace_id, span_id,
                             attributes)
    SELECT * FROM jsonb_to_recordset($3::jsonb)
        AS n (run_at timestamptz, run_id uuid, slot integer, number integer, at timestamptz, level text, logger text,
              message text, exception text, trace_id text, span_id text, attributes jsonb)
        ON CONFLICT (run_id, slot, run_at) DO UPDATE
       SET number = excluded.number, at = excluded.at, level = excluded.level, logger = excluded.logger,
           message = excluded.message, exception = excluded.exception, trace_id = excluded.trace_id,
           span_id = excluded.span_id, attributes = excluded.attributes
)
UPDATE etl.run r
   SET spans_lost = nullif(l.spans_lost, 0), lines_lost = nullif(l.lines_lost, 0)
  FROM jsonb_to_recordset($4::jsonb) AS l (run_id uuid, spans_lost integer, lines_lost integer)
 WHERE r.run_id = l.run_id
