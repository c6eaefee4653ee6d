-- Events in quarantine that a replay was asked to take.
--   $1 replay run
SELECT key, coalesce(event, payload) AS event FROM etl.row_issue WHERE replay_id = $1 AND state = 'open' ORDER BY issue_id
