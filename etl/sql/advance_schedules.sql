-- Move triggers to their next fire times; the rows are locked, and the comparison would catch it if they were not.
--   $1 jobs   $2 triggers   $3 former   $4 next
UPDATE etl.schedule s
   SET next_at = n.next_at
  FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[]) AS n (job, trigger, former, next_at)
 WHERE s.job = n.job AND s.trigger = n.trigger AND s.next_at = n.former
RETURNING s.job, s.trigger
