-- Triggers of every kind on any number of replicas: messages, waiting runs, pools, pauses, workers.
-- Locks: adds columns with constant defaults (a moment's exclusive lock each) and new tables. Programs of before this
-- migration refuse the newer schema, so stop their workers first.

-- One row per trigger of a job. Clock triggers have the time they are due next.
ALTER TABLE etl.schedule ADD COLUMN created_at timestamptz NOT NULL DEFAULT clock_timestamp();

-- `slot`: 0 and up, a place among the runs that may be active at once (`places` of them); below 0, waiting for one.
ALTER TABLE etl.run ADD COLUMN places integer NOT NULL DEFAULT 1;
ALTER TABLE etl.run ADD COLUMN pool text;                                  -- cluster-wide limit it counts against
ALTER TABLE etl.run ADD COLUMN pool_slot integer;
ALTER TABLE etl.run ADD COLUMN start_by timestamptz;                       -- dropped if not started by then
ALTER TABLE etl.run ADD COLUMN serves_messages boolean NOT NULL DEFAULT false;
ALTER TABLE etl.run ADD COLUMN cancel_reason text;                         -- not null: it was asked to stop
ALTER TABLE etl.run ADD COLUMN replaced_by uuid;                           -- the run that waits for its place
ALTER TABLE etl.run ADD COLUMN idle_since timestamptz;                     -- start of the first idle run folded into this
ALTER TABLE etl.run ADD COLUMN idle_runs integer NOT NULL DEFAULT 0;       -- how many idle runs were folded into this
CREATE UNIQUE INDEX run_pool_guard ON etl.run (pool, pool_slot) WHERE state = 'running' AND pool IS NOT NULL;
CREATE INDEX run_queued ON etl.run (queued_at, run_id) WHERE state = 'queued';

-- One row per job that a worker or a person has ever named.
CREATE TABLE etl.job (
    job            text PRIMARY KEY,
    first_seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    paused_at      timestamptz,
    paused_by      text
);

-- One row per worker process, kept as long as the history, so that a fire time nobody served can be explained.
CREATE TABLE etl.worker (
    worker_id   uuid PRIMARY KEY,
    host        text NOT NULL,
    pid         integer NOT NULL,
    jobs        text[] NOT NULL,
    lease       interval NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    stopped_at  timestamptz
);

-- Which triggers want the messages of a topic.
CREATE TABLE etl.subscription (
    job      text NOT NULL,
    trigger  text NOT NULL,
    topic    text NOT NULL,
    PRIMARY KEY (job, trigger, topic)
);
CREATE INDEX subscription_topic ON etl.subscription (topic);

-- A message on its way to a run, one row per trigger that wants it. Only ever inserted by publishers, so that they
-- never wait for one another; equal ones are folded when a run takes them.
CREATE TABLE etl.message (
    message_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job              text NOT NULL,
    trigger          text NOT NULL,
    topic            text NOT NULL,
    data             jsonb NOT NULL,
    scheduled_for    timestamptz,                  -- of the run that caused it
    idempotency_key  text,
    published_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    repeats          integer NOT NULL DEFAULT 0,   -- equal messages folded into this
    run_id           uuid                          -- null: waiting
);
CREATE INDEX message_waiting ON etl.message (job, trigger, message_id) WHERE run_id IS NULL;
CREATE INDEX message_of_run ON etl.message (run_id) WHERE run_id IS NOT NULL;
CREATE UNIQUE INDEX message_once ON etl.message (job, trigger, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Send a message to every trigger that subscribed to the topic; returns how many did. It travels with the caller's
-- transaction: rolled back, it was never sent.
CREATE FUNCTION etl.publish(topic text, data jsonb DEFAULT '{}') RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reached bigint;
BEGIN
    IF publish.topic IS NULL OR publish.topic = '' THEN
        RAISE EXCEPTION 'etl.publish: the topic is empty' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO etl.message (job, trigger, topic, data)
    SELECT s.job, s.trigger, s.topic, coalesce(publish.data, '{}'::jsonb)
      FROM etl.subscription AS s
     WHERE s.topic = publish.topic;
    GET DIAGNOSTICS reached = ROW_COUNT;
    IF reached > 0 THEN
        PERFORM pg_notify('etl', '');
    END IF;
    RETURN reached;
END
$$;
-- For row triggers on tables of the user: EXECUTE FUNCTION etl.publish_statement('topic').
CREATE FUNCTION etl.publish_statement() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM etl.publish(TG_ARGV[0], jsonb_build_object('table', TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION etl.publish(text, jsonb) IS 'Ask for runs of all jobs with a PubSubTrigger on the topic';

CREATE OR REPLACE VIEW etl.run_view AS
SELECT r.run_id, r.job, r.trigger, r.scheduled_for, r.overlap_key, r.slot, r.state, r.arguments, r.row_limit,
       r.parent_id, r.attempt, r.worker_id, r.host, r.pid, r.queued_at, r.started_at, r.lease_until, r.ended_at,
       r.trace_id, r.error_type, r.error,
       coalesce(r.claimed, b.claimed, 0) AS claimed,
       coalesce(r.written, b.written, 0) AS written,
       coalesce(r.filtered, b.filtered, 0) AS filtered,
       coalesce(r.quarantined, b.quarantined, 0) AS quarantined,
       coalesce(r.deferred, b.deferred, 0) AS deferred,
       coalesce(r.released, b.released, 0) AS released,
       coalesce(r.vanished, b.vanished, 0) AS vanished,
       coalesce(r.retried, b.retried, 0) AS retried,
       coalesce(r.batches, b.batches, 0) AS batches,
       r.state = 'running' AND r.lease_until < clock_timestamp() AS lost,
       extract(epoch FROM coalesce(r.ended_at, clock_timestamp()) - r.started_at)::float8 AS duration_s,
       r.places, r.pool, r.start_by, r.serves_messages, r.cancel_reason, r.replaced_by, r.idle_since, r.idle_runs
  FROM etl.run r
  LEFT JOIN LATERAL (
      SELECT sum(claimed)::bigint AS claimed, sum(written)::bigint AS written, sum(filtered)::bigint AS filtered,
             sum(quarantined)::bigint AS quarantined, sum(deferred)::bigint AS deferred,
             sum(claimed) FILTER (WHERE state IN ('released', 'expired', 'replaced'))::bigint AS released,
             sum(vanished)::bigint AS vanished, sum(retried)::bigint AS retried, count(*) AS batches
        FROM etl.batch
       WHERE batch.run_id = r.run_id
  ) b ON r.claimed IS NULL AND r.started_at IS NOT NULL;
