-- Spans and log lines of runs, and the trace contexts that cross processes.
-- Locks: adds columns without defaults (a moment's exclusive lock on etl.run and etl.message) and new tables. Older
-- programs refuse the newer schema, so stop their workers first.

-- The W3C context of the run's own span, so that whoever ends it for a dead process can close that span.
ALTER TABLE etl.run ADD COLUMN traceparent text;
ALTER TABLE etl.run ADD COLUMN parent_span_id text;
ALTER TABLE etl.run ADD COLUMN spans_lost integer;                         -- null: none
ALTER TABLE etl.run ADD COLUMN lines_lost integer;
-- W3C contexts of whoever sent the message and the equal ones folded into it, with blanks between them.
ALTER TABLE etl.message ADD COLUMN traceparent text;

-- A piece of a run's work. Partitioned by week of the run's start (UTC), so that a run is in one partition and history
-- goes by dropping them. `folded`: how many pieces the row stands for; 0: itself alone.
CREATE TABLE etl.span (
    run_at      timestamptz NOT NULL,              -- etl.run.started_at
    run_id      uuid NOT NULL,
    span_id     text NOT NULL,                     -- 16 hexadecimal digits
    trace_id    text NOT NULL,                     -- 32
    parent_id   text,
    name        text NOT NULL,
    kind        text NOT NULL,                     -- internal, consumer, client, producer, server
    failed      boolean NOT NULL,
    status      text,                              -- why it failed
    started_at  timestamptz NOT NULL,
    duration_s  float8 NOT NULL,
    folded      integer NOT NULL,
    attributes  jsonb NOT NULL,
    events      jsonb NOT NULL,                    -- [{name, at, attributes}]
    links       jsonb NOT NULL,                    -- [traceparent]
    PRIMARY KEY (run_id, span_id, run_at)
) PARTITION BY RANGE (run_at);
CREATE INDEX span_trace ON etl.span (trace_id);
CREATE TABLE etl.span_other PARTITION OF etl.span DEFAULT;

-- A line a run logged. A later line may take over a slot, so that what a run keeps is bounded; `number` counts all.
CREATE TABLE etl.run_log (
    run_at      timestamptz NOT NULL,
    run_id      uuid NOT NULL,
    slot        integer NOT NULL,
    number      integer NOT NULL,
    at          timestamptz NOT NULL,
    level       text NOT NULL,
    logger      text NOT NULL,
    message     text NOT NULL,
    exception   text,
    trace_id    text NOT NULL,
    span_id     text NOT NULL,
    attributes  jsonb NOT NULL,
    PRIMARY KEY (run_id, slot, run_at)
) PARTITION BY RANGE (run_at);
CREATE TABLE etl.run_log_other PARTITION OF etl.run_log DEFAULT;

-- Make the partitions for a moment's week, if they are not there; what had to go elsewhere meanwhile moves in. Inserts
-- are not held up, unless into the partition for everything else. Callers take turns.
CREATE FUNCTION etl.make_partitions(moment timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    starts timestamptz := date_trunc('week', make_partitions.moment, 'UTC');
    ends timestamptz := starts + interval '168 hours';
    parent text;
    part text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['span', 'run_log'] LOOP
        part := parent || to_char(starts AT TIME ZONE 'UTC', '"_"IYYY"w"IW');
        CONTINUE WHEN to_regclass(format('etl.%I', part)) IS NOT NULL;
        EXECUTE format('LOCK TABLE etl.%I IN ACCESS EXCLUSIVE MODE', parent || '_other');
        CONTINUE WHEN to_regclass(format('etl.%I', part)) IS NOT NULL;
        EXECUTE format('CREATE TABLE etl.%I (LIKE etl.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part, parent);
        EXECUTE format('WITH moved AS (DELETE FROM etl.%I WHERE run_at >= $1 AND run_at < $2 RETURNING *) '
                       'INSERT INTO etl.%I SELECT * FROM moved', parent || '_other', part) USING starts, ends;
        EXECUTE format('ALTER TABLE etl.%I ATTACH PARTITION etl.%I FOR VALUES FROM (%L) TO (%L)',
                       parent, part, starts, ends);
    END LOOP;
END
$$;
COMMENT ON FUNCTION etl.make_partitions(timestamptz) IS 'Make the week''s partitions of etl.span and etl.run_log';

-- Drop the partitions in which everything is older than that, and such rows of the partition for everything else.
-- Returns how many partitions went.
CREATE FUNCTION etl.drop_partitions(before timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parent text;
    part record;
    dropped integer := 0;
BEGIN
    FOREACH parent IN ARRAY ARRAY['span', 'run_log'] LOOP
        FOR part IN
            SELECT c.oid::regclass AS name
              FROM pg_inherits i
              JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = format('etl.%I', parent)::regclass
               AND c.relname ~ ('^' || parent || '_[0-9]{4}w[0-9]{2}$')
               AND to_date(right(c.relname, 7), 'IYYY"w"IW') + 7 <= (drop_partitions.before AT TIME ZONE 'UTC')::date
             ORDER BY c.relname
        LOOP
            EXECUTE format('DROP TABLE %s', part.name);
            dropped := dropped + 1;
        END LOOP;
        EXECUTE format('DELETE FROM etl.%I WHERE run_at < $1', parent || '_other') USING drop_partitions.before;
    END LOOP;
    RETURN dropped;
END
$$;
COMMENT ON FUNCTION etl.drop_partitions(timestamptz) IS 'Drop weeks of etl.span and etl.run_log that are over';

-- Not for everybody who may publish.
REVOKE ALL ON FUNCTION etl.make_partitions(timestamptz), etl.drop_partitions(timestamptz) FROM PUBLIC;

-- Send a message that belongs to a trace: `traceparent` as W3C defines it.
CREATE FUNCTION etl.publish(topic text, data jsonb, traceparent text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reached bigint;
BEGIN
    IF publish.topic IS NULL OR publish.topic = '' THEN
        RAISE EXCEPTION 'etl.publish: the topic is empty' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO etl.message (job, trigger, topic, data, traceparent)
    SELECT s.job, s.trigger, s.topic, coalesce(publish.data, '{}'::jsonb),
           substring(publish.traceparent FROM '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}')
      FROM etl.subscription AS s
     WHERE s.topic = publish.topic;
    GET DIAGNOSTICS reached = ROW_COUNT;
    IF reached > 0 THEN
        PERFORM pg_notify('etl', '');
    END IF;
    RETURN reached;
END
$$;
COMMENT ON FUNCTION etl.publish(text, jsonb, text) IS 'Ask for runs of all jobs with a PubSubTrigger on the topic';

-- Without one the message belongs to the trace that the session names: SET LOCAL etl.traceparent = '00-...'.
CREATE OR REPLACE FUNCTION etl.publish(topic text, data jsonb DEFAULT '{}') RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT etl.publish(publish.topic, publish.data, current_setting('etl.traceparent', true))
$$;
