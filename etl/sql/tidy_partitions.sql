-- See to the partitions of spans and log lines: this week's and the next's are there, old ones are dropped.
--   $1 how long history is kept
SELECT etl.make_partitions(clock_timestamp()), etl.make_partitions(clock_timestamp() + interval '7 days'),
       etl.drop_partitions(clock_timestamp() - $1::interval)
