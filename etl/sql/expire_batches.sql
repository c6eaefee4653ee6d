-- Revoke what a vanished holder held; its rows stay reserved until they are taken over. A replayed batch needs no
-- reservation: its rows are open issues, which remember the death.
--   $1 run
WITH revoked AS (
    UPDATE etl.batch
       SET state = CASE WHEN replay THEN 'replaced' ELSE 'expired' END,
           ended_at = CASE WHEN replay THEN clock_timestamp() END,
           crashes = crashes + 1
     WHERE run_id = $1 AND state = 'open'
 RETURNING token, replay
), remembered AS (
    UPDATE etl.row_issue i
       SET replay_crashes = replay_crashes + 1
      FROM revoked
     WHERE revoked.replay AND i.replay_token = revoked.token AND i.state = 'open'
)
SELECT count(*) AS revoked, coalesce(bool_or(replay), false) AS replay FROM revoked
