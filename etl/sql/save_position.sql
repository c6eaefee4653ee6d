-- Remember where a job's sweep of a source ended.
--   $1 source   $2 job   $3 position
UPDATE etl.source_cursor SET positions = positions || jsonb_build_object($2::text, $3::jsonb) WHERE source = $1
