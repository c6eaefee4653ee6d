-- Revoke what a vanished holder held; its rows stay reserved until they are taken over. A replayed batch needs no
-- reservation: its rows are open issues, which remember the death. Many batches may have been open when the process
-- died, so a death alone never makes the last one of those a row is set aside for: that was noted before it was called.
--   $1 run   $2 crashes until a row has to be handled alone
WITH revoked AS (
    UPDATE etl.batch
       SET state = CASE WHEN replay THEN 'replaced' ELSE 'expired' END,
           ended_at = CASE WHEN replay THEN clock_timestamp() END,
           crashes = greatest(crashes, least(crashes + 1, $2))
     WHERE run_id = $1 AND state = 'open'
 RETURNING token, replay
), remembered AS (
    UPDATE etl.row_issue i
       SET replay_crashes = greatest(replay_crashes, least(replay_crashes + 1, $2))
      FROM revoked
     WHERE revoked.replay AND i.replay_token = revoked.token AND i.state = 'open'
)
SELECT count(*) AS revoked, coalesce(bool_or(replay), false) AS replay FROM revoked
