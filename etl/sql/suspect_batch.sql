-- A row under suspicion is about to be handled with nothing else in flight: from now on a death is held against it.
--   $1 token   $2 how often its process will have died then
WITH alone AS (
    UPDATE etl.batch SET crashes = $2 WHERE token = $1 AND state = 'open' RETURNING token, replay
), remembered AS (
    UPDATE etl.row_issue i
       SET replay_crashes = $2
      FROM alone
     WHERE alone.replay AND i.replay_token = alone.token AND i.state = 'open'
)
SELECT token FROM alone
