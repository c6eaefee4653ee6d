-- Start over: the tables of the demonstration and everything recorded about its job.
DROP TABLE IF EXISTS public.flight, public.flights_inbox, public.airport;
DELETE FROM etl.row_issue WHERE job = 'flights';
DELETE FROM etl.batch WHERE job = 'flights';
DELETE FROM etl.tick WHERE job = 'flights';
DELETE FROM etl.run WHERE job = 'flights';
DELETE FROM etl.source_cursor WHERE source = 'public.flights_inbox';
