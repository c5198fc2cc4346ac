-- The usage ledger, its hourly sums, and what happened to runners.

-- Spools ------------------------------------------------------------------------------------------------------------

CREATE TABLE quota.usage_spools (
    spool_id   uuid        NOT NULL,
    gateway_id text COLLATE "C" NOT NULL,
    sequence   bigint      NOT NULL DEFAULT 0,
    closed     boolean     NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT usage_spools_pkey PRIMARY KEY (spool_id),
    CONSTRAINT usage_spools_gateway_id_length CHECK (char_length(gateway_id) BETWEEN 1 AND 200),
    CONSTRAINT usage_spools_sequence_not_negative CHECK (sequence >= 0)
);
COMMENT ON TABLE quota.usage_spools IS
    'How far each gateway''s spool is in the ledger. The row moves in the transaction that writes the records: each is there once.';
COMMENT ON COLUMN quota.usage_spools.spool_id IS 'Identifier of the spool.';
COMMENT ON COLUMN quota.usage_spools.gateway_id IS 'Gateway process that wrote it.';
COMMENT ON COLUMN quota.usage_spools.sequence IS 'Number of the last record that is in the ledger.';
COMMENT ON COLUMN quota.usage_spools.closed IS 'Whether its writer has ended and nothing follows.';
COMMENT ON COLUMN quota.usage_spools.created_at IS 'When it was first heard of.';
COMMENT ON COLUMN quota.usage_spools.updated_at IS 'When something of it last arrived.';
COMMENT ON INDEX quota.usage_spools_pkey IS 'lock_spool.sql, advance_spool.sql: one spool.';

CREATE INDEX usage_spools_closed ON quota.usage_spools (updated_at) WHERE closed;
COMMENT ON INDEX quota.usage_spools_closed IS 'forget_spools.sql: spools that ended long ago.';

CREATE TRIGGER usage_spools_updated_at BEFORE UPDATE ON quota.usage_spools
    FOR EACH ROW EXECUTE FUNCTION quota.update_updated_at_column();

-- The ledger --------------------------------------------------------------------------------------------------------
-- No foreign key to tenants: records come from gateways that know the tenant, a check for each of millions of rows buys
-- nothing, and what can't be written would hold up all that follows in its spool. For the same reason few CHECKs: the
-- service cuts and corrects what it is sent before it writes.

CREATE TABLE quota.inference_requests (
    tenant_id         text COLLATE "C" NOT NULL,
    id                uuid        NOT NULL,
    admitted_at       timestamptz NOT NULL,
    ended_at          timestamptz NOT NULL,
    subject           text        NOT NULL,
    request_id        text        NOT NULL,
    kind              text        NOT NULL,
    model             text COLLATE "C" NOT NULL,
    version           text        NOT NULL,
    runner_id         text        NOT NULL,
    device_type       text        NOT NULL,
    status            text        NOT NULL,
    error_reason      text        NOT NULL,
    total_us          bigint      NOT NULL,
    queue_us          bigint      NOT NULL,
    execution_us      bigint      NOT NULL,
    input_bytes       bigint      NOT NULL,
    output_bytes      bigint      NOT NULL,
    prompt_tokens     bigint      NOT NULL,
    completion_tokens bigint      NOT NULL,
    device_ms         double precision NOT NULL,
    attempts          integer     NOT NULL,
    calls             bigint      NOT NULL,
    metadata          jsonb       NOT NULL DEFAULT '{}',
    CONSTRAINT inference_requests_pkey PRIMARY KEY (tenant_id, admitted_at, id),
    CONSTRAINT inference_requests_status_known CHECK (status IN ('OK', 'FAILED', 'CANCELLED', 'ABANDONED')),
    CONSTRAINT inference_requests_stands_for_calls CHECK (calls >= 1),
    CONSTRAINT inference_requests_metadata_is_object CHECK (jsonb_typeof(metadata) = 'object')
) PARTITION BY RANGE (admitted_at);
COMMENT ON TABLE quota.inference_requests IS
    'The ledger: a row for each admitted call, or, where the plan says so, for the calls of packed streams for one model that were admitted in one second. A partition for each day, UTC.';
COMMENT ON COLUMN quota.inference_requests.tenant_id IS 'Tenant that is charged.';
COMMENT ON COLUMN quota.inference_requests.id IS 'Identifier of the row, made of its spool and its number there.';
COMMENT ON COLUMN quota.inference_requests.admitted_at IS 'When the call was admitted; decides the calendar window that it counts in.';
COMMENT ON COLUMN quota.inference_requests.ended_at IS 'When it ended; of several calls the last.';
COMMENT ON COLUMN quota.inference_requests.subject IS 'Who called: key:<id> or jwt:<subject>.';
COMMENT ON COLUMN quota.inference_requests.request_id IS 'Request id as the client knows it; empty for several calls.';
COMMENT ON COLUMN quota.inference_requests.kind IS 'How it came: unary, stream, batch, generate or job.';
COMMENT ON COLUMN quota.inference_requests.model IS 'Model asked for.';
COMMENT ON COLUMN quota.inference_requests.version IS 'Version that answered or was to answer.';
COMMENT ON COLUMN quota.inference_requests.runner_id IS 'Runner of the last attempt; empty where none had it, or several.';
COMMENT ON COLUMN quota.inference_requests.device_type IS 'Its device: cpu, cuda, tpu or npu.';
COMMENT ON COLUMN quota.inference_requests.status IS 'OK, FAILED, CANCELLED (by its client), or ABANDONED: its gateway''s process ended before it did; charged at its estimate.';
COMMENT ON COLUMN quota.inference_requests.error_reason IS 'Reason of the error; empty where it was answered.';
COMMENT ON COLUMN quota.inference_requests.total_us IS 'Microseconds from admission to end; of several calls the mean.';
COMMENT ON COLUMN quota.inference_requests.queue_us IS 'Microseconds in the runner''s queue; of several calls the mean.';
COMMENT ON COLUMN quota.inference_requests.execution_us IS 'Microseconds that the device computed the batch it was in; of several calls the mean.';
COMMENT ON COLUMN quota.inference_requests.input_bytes IS 'Bytes of the request.';
COMMENT ON COLUMN quota.inference_requests.output_bytes IS 'Bytes of the answer.';
COMMENT ON COLUMN quota.inference_requests.prompt_tokens IS 'Tokens of the prompt.';
COMMENT ON COLUMN quota.inference_requests.completion_tokens IS 'Tokens generated.';
COMMENT ON COLUMN quota.inference_requests.device_ms IS 'Milliseconds that the device computed for it; of a batch its part.';
COMMENT ON COLUMN quota.inference_requests.attempts IS 'How often it was sent to a runner.';
COMMENT ON COLUMN quota.inference_requests.calls IS 'How many calls the row stands for.';
COMMENT ON COLUMN quota.inference_requests.metadata IS 'Free JSON object, for operators.';
COMMENT ON INDEX quota.inference_requests_pkey IS 'list_requests.sql, export_requests.sql: a tenant''s calls in the order of their admission, both ways.';

CREATE INDEX inference_requests_request_id ON quota.inference_requests (tenant_id, request_id) WHERE request_id <> '';
COMMENT ON INDEX quota.inference_requests_request_id IS 'list_requests.sql with a request id.';

-- What no day's partition takes: records that come days late. Never the next days', whose partitions are made ahead.
CREATE TABLE quota.inference_requests_other PARTITION OF quota.inference_requests DEFAULT;
COMMENT ON TABLE quota.inference_requests_other IS 'Rows of the ledger whose day has no partition: they came days late.';
REVOKE ALL ON quota.inference_requests_other FROM headrace_quota;

-- The service owns no table, so it makes and drops partitions by these.
CREATE FUNCTION quota.make_ledger_partitions(days_ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    made  integer := 0;
    day   date;
    name  text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('headrace.ledger_partitions', 0));
    FOR day IN SELECT today + step FROM generate_series(0, least(greatest(days_ahead, 0), 31)) AS step LOOP
        name := 'inference_requests_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('quota.' || name) IS NOT NULL;
        BEGIN
            EXECUTE format(
                'CREATE TABLE quota.%I PARTITION OF quota.inference_requests FOR VALUES FROM (%L) TO (%L)',
                name, day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00'
            );
            EXECUTE format('COMMENT ON TABLE quota.%I IS %L', name, 'Rows of the ledger admitted on ' || day || ', UTC.');
            EXECUTE format('REVOKE ALL ON quota.%I FROM headrace_quota', name);
            made := made + 1;
        EXCEPTION WHEN check_violation THEN
            -- Rows of that day are in the partition for all others; there they stay.
            NULL;
        END;
    END LOOP;
    RETURN made;
END;
$$;
COMMENT ON FUNCTION quota.make_ledger_partitions(integer) IS
    'Makes the ledger''s partitions of today and the days to come that are not there; says how many.';

CREATE FUNCTION quota.drop_ledger_partitions(retention_days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    oldest  date := (now() AT TIME ZONE 'UTC')::date - greatest(retention_days, 1);
    dropped integer := 0;
    name    text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('headrace.ledger_partitions', 0));
    FOR name IN
        SELECT part.relname FROM pg_inherits AS link JOIN pg_class AS part ON part.oid = link.inhrelid
        WHERE link.inhparent = 'quota.inference_requests'::regclass
            AND part.relname ~ '^inference_requests_[0-9]{8}$'
            AND to_date(right(part.relname, 8), 'YYYYMMDD') < oldest
    LOOP
        EXECUTE format('DROP TABLE quota.%I', name);
        dropped := dropped + 1;
    END LOOP;
    DELETE FROM quota.inference_requests_other WHERE admitted_at < oldest::timestamp AT TIME ZONE 'UTC';
    RETURN dropped;
END;
$$;
COMMENT ON FUNCTION quota.drop_ledger_partitions(integer) IS
    'Drops the ledger''s partitions of days longer ago than the retention, and late rows as old; says how many. Hourly sums stay.';
REVOKE ALL ON FUNCTION quota.make_ledger_partitions(integer), quota.drop_ledger_partitions(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quota.make_ledger_partitions(integer), quota.drop_ledger_partitions(integer) TO headrace_quota;

-- Hourly sums -------------------------------------------------------------------------------------------------------

CREATE TABLE quota.model_metrics_hourly (
    tenant_id         text COLLATE "C" NOT NULL,
    hour              timestamptz NOT NULL,
    model             text COLLATE "C" NOT NULL,
    version           text COLLATE "C" NOT NULL,
    calls             bigint      NOT NULL,
    failed_calls      bigint      NOT NULL,
    input_bytes       bigint      NOT NULL,
    output_bytes      bigint      NOT NULL,
    prompt_tokens     bigint      NOT NULL,
    completion_tokens bigint      NOT NULL,
    device_ms         double precision NOT NULL,
    latency_ms_sum    double precision NOT NULL,
    latency_ms_max    double precision NOT NULL,
    updated_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT model_metrics_hourly_pkey PRIMARY KEY (tenant_id, hour, model, version),
    CONSTRAINT model_metrics_hourly_begins_an_hour CHECK (hour = date_trunc('hour', hour, 'UTC')),
    CONSTRAINT model_metrics_hourly_calls_not_negative CHECK (calls >= 0 AND failed_calls BETWEEN 0 AND calls)
) WITH (fillfactor = 70);
COMMENT ON TABLE quota.model_metrics_hourly IS
    'Sums of the ledger by tenant, hour, model and version, counted in the transaction that writes the rows; kept when the rows are dropped.';
COMMENT ON COLUMN quota.model_metrics_hourly.tenant_id IS 'Tenant that is charged.';
COMMENT ON COLUMN quota.model_metrics_hourly.hour IS 'Beginning of the hour, UTC, in which the calls were admitted.';
COMMENT ON COLUMN quota.model_metrics_hourly.model IS 'Model asked for.';
COMMENT ON COLUMN quota.model_metrics_hourly.version IS 'Version that answered or was to answer.';
COMMENT ON COLUMN quota.model_metrics_hourly.calls IS 'Admitted calls.';
COMMENT ON COLUMN quota.model_metrics_hourly.failed_calls IS 'Calls among them that were not answered.';
COMMENT ON COLUMN quota.model_metrics_hourly.input_bytes IS 'Bytes of requests.';
COMMENT ON COLUMN quota.model_metrics_hourly.output_bytes IS 'Bytes of answers.';
COMMENT ON COLUMN quota.model_metrics_hourly.prompt_tokens IS 'Tokens of prompts.';
COMMENT ON COLUMN quota.model_metrics_hourly.completion_tokens IS 'Tokens generated.';
COMMENT ON COLUMN quota.model_metrics_hourly.device_ms IS 'Milliseconds that devices computed.';
COMMENT ON COLUMN quota.model_metrics_hourly.latency_ms_sum IS 'Sum of the times from admission to end, milliseconds.';
COMMENT ON COLUMN quota.model_metrics_hourly.latency_ms_max IS 'Longest of them.';
COMMENT ON COLUMN quota.model_metrics_hourly.updated_at IS 'When something was last counted.';
COMMENT ON INDEX quota.model_metrics_hourly_pkey IS 'summarize_usage.sql, usage_since(): a tenant''s hours.';

CREATE TRIGGER model_metrics_hourly_updated_at BEFORE UPDATE ON quota.model_metrics_hourly
    FOR EACH ROW EXECUTE FUNCTION quota.update_updated_at_column();

CREATE OR REPLACE FUNCTION quota.usage_since(tenant_id text, model text, resource text, since timestamptz, until timestamptz) RETURNS bigint
LANGUAGE sql STABLE
RETURN (
    SELECT coalesce(
        CASE usage_since.resource
            WHEN 'REQUESTS' THEN sum(hourly.calls)
            WHEN 'TOKENS' THEN sum(hourly.prompt_tokens + hourly.completion_tokens)
            WHEN 'INPUT_BYTES' THEN sum(hourly.input_bytes)
            WHEN 'DEVICE_MS' THEN round(sum(hourly.device_ms)::numeric)
        END,
        0
    )::bigint
    FROM quota.model_metrics_hourly AS hourly
    WHERE hourly.tenant_id = usage_since.tenant_id
        AND hourly.hour >= usage_since.since
        AND hourly.hour < usage_since.until
        AND (usage_since.model = '' OR hourly.model = usage_since.model)
);

-- Runners -----------------------------------------------------------------------------------------------------------

CREATE TABLE quota.runner_health (
    id          bigint GENERATED ALWAYS AS IDENTITY,
    runner_id   text COLLATE "C" NOT NULL,
    gateway_id  text        NOT NULL,
    event       text        NOT NULL,
    device_type text        NOT NULL,
    detail      text        NOT NULL,
    event_at    timestamptz NOT NULL,
    metadata    jsonb       NOT NULL DEFAULT '{}',
    CONSTRAINT runner_health_pkey PRIMARY KEY (id),
    CONSTRAINT runner_health_metadata_is_object CHECK (jsonb_typeof(metadata) = 'object')
);
COMMENT ON TABLE quota.runner_health IS 'What happened to runners, as gateways saw it.';
COMMENT ON COLUMN quota.runner_health.id IS 'Number of the event, in the order of arrival.';
COMMENT ON COLUMN quota.runner_health.runner_id IS 'Runner.';
COMMENT ON COLUMN quota.runner_health.gateway_id IS 'Gateway that saw it.';
COMMENT ON COLUMN quota.runner_health.event IS 'connected, ejected, recovered, draining, lost or left.';
COMMENT ON COLUMN quota.runner_health.device_type IS 'The runner''s device: cpu, cuda, tpu or npu.';
COMMENT ON COLUMN quota.runner_health.detail IS 'More about it in words.';
COMMENT ON COLUMN quota.runner_health.event_at IS 'When.';
COMMENT ON COLUMN quota.runner_health.metadata IS 'Free JSON object, for operators.';

CREATE INDEX runner_health_newest ON quota.runner_health (event_at DESC, id DESC);
COMMENT ON INDEX quota.runner_health_newest IS 'list_runner_events.sql without a runner, forget_runner_events.sql.';
CREATE INDEX runner_health_of_runner ON quota.runner_health (runner_id, event_at DESC, id DESC);
COMMENT ON INDEX quota.runner_health_of_runner IS 'list_runner_events.sql of one runner.';

-- Row-level security ------------------------------------------------------------------------------------------------

ALTER TABLE quota.usage_spools ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.usage_spools FORCE ROW LEVEL SECURITY;
CREATE POLICY usage_spools_service ON quota.usage_spools USING (quota.in_scope('*')) WITH CHECK (quota.in_scope('*'));

ALTER TABLE quota.inference_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.inference_requests FORCE ROW LEVEL SECURITY;
CREATE POLICY inference_requests_scope ON quota.inference_requests
    USING (quota.in_scope(tenant_id)) WITH CHECK (quota.in_scope(tenant_id));

ALTER TABLE quota.model_metrics_hourly ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.model_metrics_hourly FORCE ROW LEVEL SECURITY;
CREATE POLICY model_metrics_hourly_scope ON quota.model_metrics_hourly
    USING (quota.in_scope(tenant_id)) WITH CHECK (quota.in_scope(tenant_id));

ALTER TABLE quota.runner_health ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.runner_health FORCE ROW LEVEL SECURITY;
CREATE POLICY runner_health_service ON quota.runner_health USING (quota.in_scope('*')) WITH CHECK (quota.in_scope('*'));

REVOKE UPDATE, DELETE ON quota.inference_requests FROM headrace_quota;
REVOKE DELETE ON quota.model_metrics_hourly FROM headrace_quota;
