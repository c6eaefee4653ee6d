-- What the job must come to, counted by other means: a flight without departure time is filtered out, one to or from
-- an airport that is missing (or has no zone where one is needed) is set aside.
SELECT count(*) AS claimed,
       count(*) FILTER (WHERE cancelled) AS filtered,
       count(*) FILTER (WHERE NOT cancelled AND unknown) AS quarantined,
       count(*) FILTER (WHERE NOT cancelled AND NOT unknown) AS written
  FROM (SELECT f.dep_time IS NULL AS cancelled,
               d.faa IS NULL OR o.tzone IS NULL OR (f.arr_time IS NOT NULL AND d.tzone IS NULL) AS unknown
          FROM public.flights_inbox f
          LEFT JOIN public.airport o ON o.faa = f.origin
          LEFT JOIN public.airport d ON d.faa = f.dest) AS flights
