-- Plans, limits, and counters of calendar quotas.

-- Plans -------------------------------------------------------------------------------------------------------------

CREATE TABLE quota.plans (
    name              text COLLATE "C" NOT NULL,
    display_name      text        NOT NULL,
    aggregate_streams boolean     NOT NULL DEFAULT false,
    metadata          jsonb       NOT NULL DEFAULT '{}',
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT plans_pkey PRIMARY KEY (name),
    CONSTRAINT plans_name_grammar CHECK (name ~ '^[a-z][a-z0-9-]{0,62}$'),
    CONSTRAINT plans_display_name_length CHECK (char_length(display_name) BETWEEN 1 AND 256),
    CONSTRAINT plans_metadata_is_object CHECK (jsonb_typeof(metadata) = 'object')
);
COMMENT ON TABLE quota.plans IS 'Named sets of limits. A tenant''s tier names its plan; a tier without a plan has no limits.';
COMMENT ON COLUMN quota.plans.name IS 'Name: a lower-case letter, then up to 62 lower-case letters, digits or "-".';
COMMENT ON COLUMN quota.plans.display_name IS 'Name for people, 1 to 256 characters.';
COMMENT ON COLUMN quota.plans.aggregate_streams IS 'Whether usage of packed streams is written as one row per model and second instead of a row per call.';
COMMENT ON COLUMN quota.plans.metadata IS 'Free JSON object, for operators.';
COMMENT ON COLUMN quota.plans.created_at IS 'When the plan was created.';
COMMENT ON COLUMN quota.plans.updated_at IS 'When the plan, or one of its limits, last changed.';
COMMENT ON INDEX quota.plans_pkey IS 'get_plan.sql, list_plans.sql: a plan by name, a page of plans in order of their names.';

CREATE TRIGGER plans_updated_at BEFORE UPDATE ON quota.plans
    FOR EACH ROW EXECUTE FUNCTION quota.update_updated_at_column();

CREATE INDEX tenants_tier ON quota.tenants (tier);
COMMENT ON INDEX quota.tenants_tier IS 'record_limit_change(), delete_plan.sql: the tenants that are on a plan.';

-- Limits ------------------------------------------------------------------------------------------------------------
-- A limit is never updated: another amount is another row. So created_at says since when it holds.

CREATE TABLE quota.plan_limits (
    plan        text COLLATE "C" NOT NULL,
    model       text COLLATE "C" NOT NULL DEFAULT '',
    resource    text        NOT NULL,
    time_window text        NOT NULL,
    amount      bigint      NOT NULL,
    period_ms   integer,
    burst       bigint,
    algorithm   text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT plan_limits_pkey PRIMARY KEY (plan, model, resource, time_window),
    CONSTRAINT plan_limits_plan_fkey FOREIGN KEY (plan) REFERENCES quota.plans (name),
    CONSTRAINT plan_limits_model_grammar CHECK (model ~ '^([a-zA-Z0-9][a-zA-Z0-9._-]{0,127})?$'),
    CONSTRAINT plan_limits_resource_known CHECK (resource IN ('REQUESTS', 'TOKENS', 'INPUT_BYTES', 'DEVICE_MS', 'CONCURRENCY')),
    CONSTRAINT plan_limits_window_known CHECK (time_window IN ('RATE', 'MOMENT', 'HOUR', 'DAY', 'MONTH')),
    CONSTRAINT plan_limits_amount_range CHECK (amount BETWEEN 1 AND 1000000000000000),
    CONSTRAINT plan_limits_concurrency_is_of_the_moment CHECK ((resource = 'CONCURRENCY') = (time_window = 'MOMENT')),
    CONSTRAINT plan_limits_rate_resource CHECK (time_window <> 'RATE' OR resource IN ('REQUESTS', 'TOKENS')),
    CONSTRAINT plan_limits_rate_period CHECK ((time_window = 'RATE') = (period_ms IS NOT NULL) AND period_ms BETWEEN 1000 AND 3600000),
    CONSTRAINT plan_limits_rate_algorithm CHECK ((time_window = 'RATE') = (algorithm IS NOT NULL) AND algorithm IN ('GCRA', 'SLIDING_WINDOW')),
    CONSTRAINT plan_limits_gcra_burst CHECK ((algorithm IS NOT DISTINCT FROM 'GCRA') = (burst IS NOT NULL) AND burst BETWEEN 1 AND 1000000000000000)
);
COMMENT ON TABLE quota.plan_limits IS 'Limits of each tenant that is on the plan and has none of its own for the same model, resource and window.';
COMMENT ON COLUMN quota.plan_limits.plan IS 'Plan that the limit belongs to.';
COMMENT ON COLUMN quota.plan_limits.model IS 'Model that it is for; empty means all models of the tenant together.';
COMMENT ON COLUMN quota.plan_limits.resource IS 'What it counts: REQUESTS, TOKENS, INPUT_BYTES, DEVICE_MS, or CONCURRENCY (calls under way).';
COMMENT ON COLUMN quota.plan_limits.time_window IS 'Over what time: RATE (sliding), MOMENT (CONCURRENCY only), or the calendar''s HOUR, DAY or MONTH in UTC.';
COMMENT ON COLUMN quota.plan_limits.amount IS 'How much, 1 to 10^15.';
COMMENT ON COLUMN quota.plan_limits.period_ms IS 'RATE only: milliseconds in which the amount may be used, 1 s to 1 h.';
COMMENT ON COLUMN quota.plan_limits.burst IS 'GCRA only: how much may be used at once after a pause, 1 to 10^15.';
COMMENT ON COLUMN quota.plan_limits.algorithm IS 'RATE only: GCRA (a token bucket), or SLIDING_WINDOW (never more than the amount in any period).';
COMMENT ON COLUMN quota.plan_limits.created_at IS 'When the limit was set to this.';
COMMENT ON INDEX quota.plan_limits_pkey IS 'effective_limits, get_plan.sql: the limits of a plan.';

CREATE TABLE quota.tenant_quotas (
    tenant_id   text COLLATE "C" NOT NULL,
    model       text COLLATE "C" NOT NULL DEFAULT '',
    resource    text        NOT NULL,
    time_window text        NOT NULL,
    amount      bigint      NOT NULL,
    period_ms   integer,
    burst       bigint,
    algorithm   text,
    metadata    jsonb       NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenant_quotas_pkey PRIMARY KEY (tenant_id, model, resource, time_window),
    CONSTRAINT tenant_quotas_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES quota.tenants (id),
    CONSTRAINT tenant_quotas_model_grammar CHECK (model ~ '^([a-zA-Z0-9][a-zA-Z0-9._-]{0,127})?$'),
    CONSTRAINT tenant_quotas_resource_known CHECK (resource IN ('REQUESTS', 'TOKENS', 'INPUT_BYTES', 'DEVICE_MS', 'CONCURRENCY')),
    CONSTRAINT tenant_quotas_window_known CHECK (time_window IN ('RATE', 'MOMENT', 'HOUR', 'DAY', 'MONTH')),
    CONSTRAINT tenant_quotas_amount_range CHECK (amount BETWEEN 1 AND 1000000000000000),
    CONSTRAINT tenant_quotas_concurrency_is_of_the_moment CHECK ((resource = 'CONCURRENCY') = (time_window = 'MOMENT')),
    CONSTRAINT tenant_quotas_rate_resource CHECK (time_window <> 'RATE' OR resource IN ('REQUESTS', 'TOKENS')),
    CONSTRAINT tenant_quotas_rate_period CHECK ((time_window = 'RATE') = (period_ms IS NOT NULL) AND period_ms BETWEEN 1000 AND 3600000),
    CONSTRAINT tenant_quotas_rate_algorithm CHECK ((time_window = 'RATE') = (algorithm IS NOT NULL) AND algorithm IN ('GCRA', 'SLIDING_WINDOW')),
    CONSTRAINT tenant_quotas_gcra_burst CHECK ((algorithm IS NOT DISTINCT FROM 'GCRA') = (burst IS NOT NULL) AND burst BETWEEN 1 AND 1000000000000000),
    CONSTRAINT tenant_quotas_metadata_is_object CHECK (jsonb_typeof(metadata) = 'object')
);
COMMENT ON TABLE quota.tenant_quotas IS 'A tenant''s own limits; each goes before the limit of its plan for the same model, resource and window.';
COMMENT ON COLUMN quota.tenant_quotas.tenant_id IS 'Tenant that the limit holds for.';
COMMENT ON COLUMN quota.tenant_quotas.model IS 'Model that it is for; empty means all models of the tenant together.';
COMMENT ON COLUMN quota.tenant_quotas.resource IS 'What it counts: REQUESTS, TOKENS, INPUT_BYTES, DEVICE_MS, or CONCURRENCY (calls under way).';
COMMENT ON COLUMN quota.tenant_quotas.time_window IS 'Over what time: RATE (sliding), MOMENT (CONCURRENCY only), or the calendar''s HOUR, DAY or MONTH in UTC.';
COMMENT ON COLUMN quota.tenant_quotas.amount IS 'How much, 1 to 10^15.';
COMMENT ON COLUMN quota.tenant_quotas.period_ms IS 'RATE only: milliseconds in which the amount may be used, 1 s to 1 h.';
COMMENT ON COLUMN quota.tenant_quotas.burst IS 'GCRA only: how much may be used at once after a pause, 1 to 10^15.';
COMMENT ON COLUMN quota.tenant_quotas.algorithm IS 'RATE only: GCRA (a token bucket), or SLIDING_WINDOW (never more than the amount in any period).';
COMMENT ON COLUMN quota.tenant_quotas.metadata IS 'Free JSON object, for operators.';
COMMENT ON COLUMN quota.tenant_quotas.created_at IS 'When the limit was set to this.';
COMMENT ON INDEX quota.tenant_quotas_pkey IS 'effective_limits, tenant_limits.sql: a tenant''s own limits.';

-- With the reader's rights, so that policies hold for it too.
CREATE VIEW quota.effective_limits WITH (security_invoker = true) AS
SELECT own.tenant_id, own.model, own.resource, own.time_window, own.amount, own.period_ms, own.burst, own.algorithm, true AS own
FROM quota.tenant_quotas AS own
UNION ALL
SELECT tenant.id, planned.model, planned.resource, planned.time_window, planned.amount, planned.period_ms, planned.burst, planned.algorithm, false
FROM quota.tenants AS tenant
JOIN quota.plan_limits AS planned ON planned.plan = tenant.tier
WHERE NOT EXISTS (
    SELECT FROM quota.tenant_quotas AS own
    WHERE (own.tenant_id, own.model, own.resource, own.time_window) = (tenant.id, planned.model, planned.resource, planned.time_window)
);
COMMENT ON VIEW quota.effective_limits IS 'The limits that hold for each tenant: its own, and those of its plan that none of them replaces.';

CREATE FUNCTION quota.limits_of(tenant_id text) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        jsonb_agg(
            jsonb_build_object(
                'model', holds.model, 'resource', holds.resource, 'time_window', holds.time_window,
                'amount', holds.amount, 'period_ms', holds.period_ms, 'burst', holds.burst,
                'algorithm', holds.algorithm, 'own', holds.own
            )
            ORDER BY holds.model, holds.resource, holds.time_window
        ),
        '[]'
    )
    FROM quota.effective_limits AS holds
    WHERE holds.tenant_id = limits_of.tenant_id
$$;
COMMENT ON FUNCTION quota.limits_of(text) IS 'The limits that hold for a tenant, as a JSON array of rows of effective_limits.';

-- Counters ----------------------------------------------------------------------------------------------------------

CREATE FUNCTION quota.window_start(time_window text, at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN date_trunc(lower(time_window), at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
COMMENT ON FUNCTION quota.window_start(text, timestamptz) IS 'When the HOUR, DAY or MONTH of an instant began, in UTC.';

CREATE FUNCTION quota.window_end(time_window text, at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    date_trunc(lower(time_window), at AT TIME ZONE 'UTC')
    + CASE time_window WHEN 'HOUR' THEN interval '1 hour' WHEN 'DAY' THEN interval '1 day' ELSE interval '1 month' END
) AT TIME ZONE 'UTC';
COMMENT ON FUNCTION quota.window_end(text, timestamptz) IS 'When the HOUR, DAY or MONTH of an instant ends and the next one begins, in UTC.';

CREATE TABLE quota.quota_counters (
    tenant_id    text COLLATE "C" NOT NULL,
    model        text COLLATE "C" NOT NULL,
    resource     text        NOT NULL,
    time_window  text        NOT NULL,
    window_start timestamptz NOT NULL,
    window_end   timestamptz NOT NULL,
    used         bigint      NOT NULL,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT quota_counters_pkey PRIMARY KEY (tenant_id, resource, model, time_window, window_start),
    CONSTRAINT quota_counters_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES quota.tenants (id),
    CONSTRAINT quota_counters_resource_known CHECK (resource IN ('REQUESTS', 'TOKENS', 'INPUT_BYTES', 'DEVICE_MS')),
    CONSTRAINT quota_counters_window_known CHECK (time_window IN ('HOUR', 'DAY', 'MONTH')),
    CONSTRAINT quota_counters_window_starts_with_the_calendar CHECK (window_start = quota.window_start(time_window, window_start)),
    CONSTRAINT quota_counters_window_ends_with_the_calendar CHECK (window_end = quota.window_end(time_window, window_start)),
    CONSTRAINT quota_counters_used_not_negative CHECK (used >= 0)
) WITH (fillfactor = 70);
COMMENT ON TABLE quota.quota_counters IS
    'What was used in each calendar window that had a limit. The window is in the key, so a new one starts at nothing by itself. A counter without a row stands at what the ledger says (usage_since).';
COMMENT ON COLUMN quota.quota_counters.tenant_id IS 'Tenant that used it.';
COMMENT ON COLUMN quota.quota_counters.model IS 'Model that it was used of; empty counts all models of the tenant together.';
COMMENT ON COLUMN quota.quota_counters.resource IS 'What is counted: REQUESTS, TOKENS, INPUT_BYTES or DEVICE_MS.';
COMMENT ON COLUMN quota.quota_counters.time_window IS 'Which calendar window in UTC: HOUR, DAY or MONTH.';
COMMENT ON COLUMN quota.quota_counters.window_start IS 'When the window began; calls admitted from then on count.';
COMMENT ON COLUMN quota.quota_counters.window_end IS 'When the window ends; calls admitted before that count.';
COMMENT ON COLUMN quota.quota_counters.used IS 'How much was used by settled calls; may pass the limit where calls used more than was estimated.';
COMMENT ON COLUMN quota.quota_counters.updated_at IS 'When something was last counted, or the counter was reset.';
COMMENT ON INDEX quota.quota_counters_pkey IS 'increment_quota_usage(), window_usage(): the counters of a tenant and resource.';

CREATE INDEX quota_counters_ended ON quota.quota_counters (window_end);
COMMENT ON INDEX quota.quota_counters_ended IS 'reset_expired_quotas(): windows that ended long ago.';

CREATE TRIGGER quota_counters_updated_at BEFORE UPDATE ON quota.quota_counters
    FOR EACH ROW EXECUTE FUNCTION quota.update_updated_at_column();

-- What the ledger says; without one nothing was used. The revision that makes model_metrics_hourly replaces the body.
CREATE FUNCTION quota.usage_since(tenant_id text, model text, resource text, since timestamptz, until timestamptz) RETURNS bigint
LANGUAGE sql STABLE
RETURN 0::bigint;
COMMENT ON FUNCTION quota.usage_since(text, text, text, timestamptz, timestamptz) IS
    'What the ledger says a tenant used of a resource from one instant to before another, of a model or (empty) of all. Begin and end of an hour.';

-- What gateways hold; without leases that is nothing. The revision that makes leases replaces the body.
CREATE FUNCTION quota.held_usage(tenant_id text, model text, resource text, time_window text, window_start timestamptz) RETURNS bigint
LANGUAGE sql STABLE
RETURN 0::bigint;
COMMENT ON FUNCTION quota.held_usage(text, text, text, text, timestamptz) IS
    'What gateways hold of a calendar window for calls to come and calls under way.';

CREATE FUNCTION quota.window_usage(tenant_id text, model text, resource text, time_window text, at timestamptz) RETURNS bigint
LANGUAGE sql STABLE
RETURN coalesce(
    (
        SELECT counter.used
        FROM quota.quota_counters AS counter
        WHERE counter.tenant_id = window_usage.tenant_id
            AND counter.resource = window_usage.resource
            AND counter.model = window_usage.model
            AND counter.time_window = window_usage.time_window
            AND counter.window_start = quota.window_start(window_usage.time_window, window_usage.at)
    ),
    quota.usage_since(
        window_usage.tenant_id, window_usage.model, window_usage.resource,
        quota.window_start(window_usage.time_window, window_usage.at), quota.window_end(window_usage.time_window, window_usage.at)
    )
);
COMMENT ON FUNCTION quota.window_usage(text, text, text, text, timestamptz) IS
    'What was used in the calendar window that contains an instant: the counter, or what the ledger says where nothing was counted yet.';

-- Counters that are there go on even where their limit has gone: if it comes back in the same window, nothing is missing.
CREATE FUNCTION quota.increment_quota_usage(tenant_id text, model text, resource text, amount bigint, admitted_at timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    IF increment_quota_usage.amount <= 0 THEN
        RETURN;
    END IF;
    UPDATE quota.quota_counters AS counter
    -- A sum that bigint can't hold would keep a whole batch out of the ledger for ever.
    SET used = least(counter.used::numeric + increment_quota_usage.amount, 9000000000000000000)::bigint
    WHERE counter.tenant_id = increment_quota_usage.tenant_id
        AND counter.resource = increment_quota_usage.resource
        AND counter.model IN ('', increment_quota_usage.model)
        AND counter.window_start = quota.window_start(counter.time_window, increment_quota_usage.admitted_at);
    INSERT INTO quota.quota_counters AS counter (tenant_id, model, resource, time_window, window_start, window_end, used)
    SELECT
        holds.tenant_id, holds.model, holds.resource, holds.time_window, starts.at, ends.at,
        least(
            quota.usage_since(holds.tenant_id, holds.model, holds.resource, starts.at, ends.at)::numeric
                + increment_quota_usage.amount,
            9000000000000000000
        )::bigint
    FROM quota.effective_limits AS holds
    CROSS JOIN LATERAL (SELECT quota.window_start(holds.time_window, increment_quota_usage.admitted_at) AS at) AS starts
    CROSS JOIN LATERAL (SELECT quota.window_end(holds.time_window, increment_quota_usage.admitted_at) AS at) AS ends
    WHERE holds.tenant_id = increment_quota_usage.tenant_id
        AND holds.resource = increment_quota_usage.resource
        AND holds.model IN ('', increment_quota_usage.model)
        AND holds.time_window IN ('HOUR', 'DAY', 'MONTH')
        AND NOT EXISTS (
            SELECT FROM quota.quota_counters AS there
            WHERE (there.tenant_id, there.resource, there.model, there.time_window, there.window_start)
                = (holds.tenant_id, holds.resource, holds.model, holds.time_window, starts.at)
        )
    ORDER BY holds.model, holds.time_window
    ON CONFLICT ON CONSTRAINT quota_counters_pkey
        DO UPDATE SET used = least(counter.used::numeric + increment_quota_usage.amount, 9000000000000000000)::bigint;
END;
$$;
COMMENT ON FUNCTION quota.increment_quota_usage(text, text, text, bigint, timestamptz) IS
    'Counts usage of a model into each calendar quota that holds for it or for all models, in the windows that contain admitted_at. '
    'A batch calls it before its rows change what usage_since() says, in the order of tenant, resource, hour and model: batches then never wait for each other in a circle.';

CREATE FUNCTION quota.reset_expired_quotas(retention interval DEFAULT interval '62 days') RETURNS bigint
LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM quota.quota_counters AS counter
        WHERE counter.window_end < now() - reset_expired_quotas.retention
        RETURNING 1
    )
    SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION quota.reset_expired_quotas(interval) IS
    'Removes the counters of windows that ended longer ago than the retention; says how many. Quotas reset without it: a new window has a counter of its own.';

-- The principal feed ------------------------------------------------------------------------------------------------
-- One revision a tenant and transaction, however many limits changed. The feed's row is locked before the tenants are
-- looked up: a tenant that moves to the plan meanwhile is either seen here, or numbered after this.

CREATE FUNCTION quota.record_limit_change() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    caller_scope text := coalesce(current_setting('headrace.tenant_id', true), '');
    concerned    text[];
    newest       bigint;
    oldest_kept  bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM changed) THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('headrace.tenant_id', '*', true);
    PERFORM 1 FROM quota.principal_feed FOR NO KEY UPDATE;
    IF TG_TABLE_NAME = 'tenant_quotas' THEN
        concerned := ARRAY(SELECT DISTINCT own.tenant_id FROM changed AS own);
    ELSIF TG_TABLE_NAME = 'plan_limits' THEN
        concerned := ARRAY(SELECT tenant.id FROM quota.tenants AS tenant WHERE tenant.tier IN (SELECT planned.plan FROM changed AS planned));
    ELSE
        concerned := ARRAY(SELECT tenant.id FROM quota.tenants AS tenant WHERE tenant.tier IN (SELECT plan.name FROM changed AS plan));
    END IF;
    concerned := ARRAY(
        SELECT tenant_id FROM unnest(concerned) AS tenant_id
        EXCEPT
        SELECT change.tenant_id FROM quota.principal_changes AS change
        WHERE change.key_id IS NULL AND change.xmin = pg_current_xact_id()::xid
    );
    IF cardinality(concerned) > 0 THEN
        UPDATE quota.principal_feed SET revision = revision + cardinality(concerned)
            RETURNING revision, revision - changes_kept + 1 INTO STRICT newest, oldest_kept;
        INSERT INTO quota.principal_changes (revision, tenant_id)
            SELECT newest - cardinality(concerned) + place, tenant_id
            FROM unnest(concerned) WITH ORDINALITY AS numbered (tenant_id, place);
        DELETE FROM quota.principal_changes WHERE revision < oldest_kept;
        PERFORM pg_notify('quota_principals', newest::text);
    END IF;
    PERFORM set_config('headrace.tenant_id', caller_scope, true);
    RETURN NULL;
END;
$$;
COMMENT ON FUNCTION quota.record_limit_change() IS
    'Statement trigger: gives each tenant whose limits changed the next revision, once a transaction, and wakes the listeners at commit.';

CREATE TRIGGER plans_created AFTER INSERT ON quota.plans
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION quota.record_limit_change();
CREATE TRIGGER plans_changed AFTER UPDATE ON quota.plans
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION quota.record_limit_change();
CREATE TRIGGER plans_deleted AFTER DELETE ON quota.plans
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION quota.record_limit_change();
CREATE TRIGGER plan_limits_created AFTER INSERT ON quota.plan_limits
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION quota.record_limit_change();
CREATE TRIGGER plan_limits_deleted AFTER DELETE ON quota.plan_limits
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION quota.record_limit_change();
CREATE TRIGGER tenant_quotas_created AFTER INSERT ON quota.tenant_quotas
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION quota.record_limit_change();
CREATE TRIGGER tenant_quotas_deleted AFTER DELETE ON quota.tenant_quotas
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION quota.record_limit_change();

-- Row-level security ------------------------------------------------------------------------------------------------
-- A tenant's scope sees the plan that the tenant is on, and no other; only the service's own scope writes plans.

ALTER TABLE quota.plans ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.plans FORCE ROW LEVEL SECURITY;
CREATE POLICY plans_service ON quota.plans USING (quota.in_scope('*')) WITH CHECK (quota.in_scope('*'));
CREATE POLICY plans_own ON quota.plans FOR SELECT USING (EXISTS (SELECT FROM quota.tenants AS tenant WHERE tenant.tier = name));

ALTER TABLE quota.plan_limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.plan_limits FORCE ROW LEVEL SECURITY;
CREATE POLICY plan_limits_service ON quota.plan_limits USING (quota.in_scope('*')) WITH CHECK (quota.in_scope('*'));
CREATE POLICY plan_limits_own ON quota.plan_limits FOR SELECT USING (EXISTS (SELECT FROM quota.tenants AS tenant WHERE tenant.tier = plan));

ALTER TABLE quota.tenant_quotas ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.tenant_quotas FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_quotas_scope ON quota.tenant_quotas USING (quota.in_scope(tenant_id)) WITH CHECK (quota.in_scope(tenant_id));

ALTER TABLE quota.quota_counters ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.quota_counters FORCE ROW LEVEL SECURITY;
CREATE POLICY quota_counters_scope ON quota.quota_counters USING (quota.in_scope(tenant_id)) WITH CHECK (quota.in_scope(tenant_id));

REVOKE UPDATE ON quota.plan_limits, quota.tenant_quotas FROM headrace_quota;
REVOKE INSERT, UPDATE, DELETE ON quota.effective_limits FROM headrace_quota;
