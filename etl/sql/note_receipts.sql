-- Note source rows as written, in the order of their keys; answers with those that were noted in this version already.
--   $1 stream   $2 keys, each once   $3 versions
-- A row that somebody else is just writing in the same version is waited for, and is then noted already.
WITH noted AS (
    INSERT INTO etl_sink.receipt AS old (stream_id, key, version, written_at)
    SELECT $1::int, r.key, r.version, clock_timestamp()
      FROM unnest($2::text[], $3::bigint[]) AS r (key, version)
     ORDER BY r.key COLLATE "C"
        ON CONFLICT (stream_id, key) DO UPDATE SET version = EXCLUDED.version, written_at = EXCLUDED.written_at
     WHERE old.version <> EXCLUDED.version
 RETURNING key
)
SELECT r.key FROM unnest($2::text[]) AS r (key) WHERE r.key NOT IN (SELECT key FROM noted)
