-- See that spans and log lines of runs that start at this moment have partitions of their own.
--   $1 moment
SELECT etl.make_partitions($1::timestamptz)
