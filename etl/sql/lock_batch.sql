-- First statement of a completion: whoever wants to change a batch's fate locks its row and looks at its state.
--   $1 token
SELECT state, lo, hi, claimed, written, filtered, quarantined, deferred, vanished, retried, stages
  FROM etl.batch
 WHERE token = $1
   FOR UPDATE
