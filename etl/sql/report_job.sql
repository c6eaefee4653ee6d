-- How a job stands now: is it paused, how many of its rows are kept apart although they look pending, and the newest
-- run of it. One row, whatever is known.
--   $1 job
SELECT j.paused_at, j.paused_by,
       (SELECT count(*) FROM etl.row_issue i WHERE i.job = $1 AND i.held AND i.state IN ('open', 'deferred')) AS held,
       (SELECT r.run_id FROM etl.run r WHERE r.job = $1 ORDER BY r.queued_at DESC, r.run_id DESC LIMIT 1) AS newest
  FROM (VALUES (1)) AS one
  LEFT JOIN etl.job j ON j.job = $1
