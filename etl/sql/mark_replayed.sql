-- Remember in which batch issues are being replayed, so that a process that dies with them is held against them.
--   $1 replay run   $2 token   $3 keys (JSON arrays as text)
UPDATE etl.row_issue
   SET replay_token = $2
 WHERE replay_id = $1 AND state = 'open' AND key = ANY ($3::text[]::jsonb[])
