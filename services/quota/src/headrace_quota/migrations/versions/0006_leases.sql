-- What gateways hold of calendar quotas, and which part of every limit each of them may go by on its own.

-- Gateways ----------------------------------------------------------------------------------------------------------

CREATE TABLE quota.lease_gateways (
    gateway_id text COLLATE "C" NOT NULL,
    share      double precision NOT NULL,
    seen_at    timestamptz NOT NULL,
    CONSTRAINT lease_gateways_pkey PRIMARY KEY (gateway_id),
    CONSTRAINT lease_gateways_id_length CHECK (char_length(gateway_id) BETWEEN 1 AND 200),
    CONSTRAINT lease_gateways_share_is_a_part CHECK (share BETWEEN 0 AND 1)
);
COMMENT ON TABLE quota.lease_gateways IS 'Gateways that may use permits now; the shares of all of them together are never more than 1.';
COMMENT ON COLUMN quota.lease_gateways.gateway_id IS 'Identifier of the gateway process.';
COMMENT ON COLUMN quota.lease_gateways.share IS 'The largest part of every limit that it may believe to have when quota or Valkey is out of reach.';
COMMENT ON COLUMN quota.lease_gateways.seen_at IS 'When it last reported, to within a few seconds; what it holds ends some time after.';
COMMENT ON INDEX quota.lease_gateways_pkey IS 'renew_gateway(), leave_gateway().';

-- A gateway's report carries the share it goes by. Until a later report says that a smaller one has arrived, the larger
-- one counts: whatever message is lost, the sum of what gateways believe to have is no more than 1.
CREATE FUNCTION quota.renew_gateway(gateway_id text, reported double precision, expire_s double precision)
RETURNS TABLE (share double precision, counted double precision, total double precision)
LANGUAGE plpgsql AS $$
DECLARE
    others  double precision;
    members bigint;
    granted double precision;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('headrace.lease_gateways', 0));
    DELETE FROM quota.lease_gateways AS gone
        WHERE gone.gateway_id <> renew_gateway.gateway_id
            AND gone.seen_at < now() - make_interval(secs => renew_gateway.expire_s);
    SELECT coalesce(sum(other.share), 0), count(*) + 1 INTO others, members
        FROM quota.lease_gateways AS other WHERE other.gateway_id <> renew_gateway.gateway_id;
    -- Rounded down, so that no sum of parts exceeds 1.
    granted := floor(1e9 * greatest(0, least(1.0 / members, 1 - others))) / 1e9;
    INSERT INTO quota.lease_gateways AS own (gateway_id, share, seen_at)
        VALUES (renew_gateway.gateway_id, greatest(granted, renew_gateway.reported), now())
        ON CONFLICT ON CONSTRAINT lease_gateways_pkey DO UPDATE SET share = excluded.share, seen_at = excluded.seen_at;
    RETURN QUERY SELECT granted, greatest(granted, renew_gateway.reported), others + greatest(granted, renew_gateway.reported);
END;
$$;
COMMENT ON FUNCTION quota.renew_gateway(text, double precision, double precision) IS
    'Notes that a gateway lives and gives it its share; forgets gateways that were not seen for expire_s. Returns the share, what counts until a report shows that it has arrived, and the sum of that over all.';

CREATE FUNCTION quota.leave_gateway(gateway_id text) RETURNS void
LANGUAGE sql AS $$
    DELETE FROM quota.lease_gateways AS gone WHERE gone.gateway_id = leave_gateway.gateway_id
$$;
COMMENT ON FUNCTION quota.leave_gateway(text) IS 'Forgets a gateway that has ended: its share is free for others.';

-- Slices of calendar quotas -----------------------------------------------------------------------------------------

CREATE TABLE quota.calendar_leases (
    tenant_id    text COLLATE "C" NOT NULL,
    model        text COLLATE "C" NOT NULL,
    resource     text        NOT NULL,
    time_window  text        NOT NULL,
    window_start timestamptz NOT NULL,
    gateway_id   text COLLATE "C" NOT NULL,
    held         bigint      NOT NULL,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT calendar_leases_pkey PRIMARY KEY (tenant_id, resource, model, time_window, window_start, gateway_id),
    CONSTRAINT calendar_leases_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES quota.tenants (id),
    CONSTRAINT calendar_leases_resource_known CHECK (resource IN ('REQUESTS', 'TOKENS', 'INPUT_BYTES', 'DEVICE_MS')),
    CONSTRAINT calendar_leases_window_known CHECK (time_window IN ('HOUR', 'DAY', 'MONTH')),
    CONSTRAINT calendar_leases_held_not_negative CHECK (held >= 0)
) WITH (fillfactor = 70);
COMMENT ON TABLE quota.calendar_leases IS
    'What gateways hold of calendar windows: for calls to come, for calls under way, and for calls whose records have not arrived. Used is what quota_counters says; used and held together pass no limit.';
COMMENT ON COLUMN quota.calendar_leases.tenant_id IS 'Tenant that the limit is for.';
COMMENT ON COLUMN quota.calendar_leases.model IS 'Model that the limit is for; empty for all models together.';
COMMENT ON COLUMN quota.calendar_leases.resource IS 'What the limit counts: REQUESTS, TOKENS, INPUT_BYTES or DEVICE_MS.';
COMMENT ON COLUMN quota.calendar_leases.time_window IS 'HOUR, DAY or MONTH, in UTC.';
COMMENT ON COLUMN quota.calendar_leases.window_start IS 'When the window began.';
COMMENT ON COLUMN quota.calendar_leases.gateway_id IS 'Gateway process that holds it.';
COMMENT ON COLUMN quota.calendar_leases.held IS 'How much it holds.';
COMMENT ON COLUMN quota.calendar_leases.updated_at IS 'When something was last granted, returned or charged.';
COMMENT ON INDEX quota.calendar_leases_pkey IS 'lease_calendar(), charge_lease(), held_usage(): who holds what of a window.';

CREATE INDEX calendar_leases_gateway ON quota.calendar_leases (gateway_id, updated_at);
COMMENT ON INDEX quota.calendar_leases_gateway IS 'close_leases(), expire_leases(): all that a gateway holds.';

CREATE TRIGGER calendar_leases_updated_at BEFORE UPDATE ON quota.calendar_leases
    FOR EACH ROW EXECUTE FUNCTION quota.update_updated_at_column();

CREATE OR REPLACE FUNCTION quota.held_usage(tenant_id text, model text, resource text, time_window text, window_start timestamptz) RETURNS bigint
LANGUAGE sql STABLE
RETURN (
    SELECT coalesce(sum(lease.held), 0)::bigint
    FROM quota.calendar_leases AS lease
    WHERE lease.tenant_id = held_usage.tenant_id
        AND lease.resource = held_usage.resource
        AND lease.model = held_usage.model
        AND lease.time_window = held_usage.time_window
        AND lease.window_start = held_usage.window_start
);

-- Grants of one window take turns by an advisory lock; charges don't wait for it, they only move what is held to what
-- is used, and one statement sees both sums as they were at one moment.
CREATE FUNCTION quota.lease_calendar(
    gateway_id text, tenant_id text, model text, resource text, time_window text, window_start timestamptz,
    wanted bigint, waiting bigint, returned bigint
) RETURNS TABLE (granted bigint, taken bigint)
LANGUAGE plpgsql AS $$
DECLARE
    most    bigint;
    members bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(
        hashtextextended(concat_ws('/', lease_calendar.tenant_id, lease_calendar.model, lease_calendar.resource, lease_calendar.time_window), 1)
    );
    IF lease_calendar.returned > 0 THEN
        UPDATE quota.calendar_leases AS own SET held = greatest(0, own.held - lease_calendar.returned)
            WHERE (own.tenant_id, own.resource, own.model, own.time_window, own.window_start, own.gateway_id)
                = (lease_calendar.tenant_id, lease_calendar.resource, lease_calendar.model, lease_calendar.time_window,
                   lease_calendar.window_start, lease_calendar.gateway_id);
    END IF;
    SELECT holds.amount INTO most FROM quota.effective_limits AS holds
        WHERE (holds.tenant_id, holds.model, holds.resource, holds.time_window)
            = (lease_calendar.tenant_id, lease_calendar.model, lease_calendar.resource, lease_calendar.time_window);
    IF most IS NULL THEN
        RETURN;
    END IF;
    SELECT quota.window_usage(lease_calendar.tenant_id, lease_calendar.model, lease_calendar.resource, lease_calendar.time_window, lease_calendar.window_start)
        + quota.held_usage(lease_calendar.tenant_id, lease_calendar.model, lease_calendar.resource, lease_calendar.time_window, lease_calendar.window_start)
        INTO taken;
    SELECT greatest(1, count(*)) INTO members FROM quota.lease_gateways;
    granted := greatest(0, least(
        lease_calendar.wanted,
        most - taken,
        greatest(lease_calendar.waiting, (most - taken) / (2 * members))
    ));
    IF granted > 0 THEN
        INSERT INTO quota.calendar_leases AS own (tenant_id, model, resource, time_window, window_start, gateway_id, held)
            VALUES (lease_calendar.tenant_id, lease_calendar.model, lease_calendar.resource, lease_calendar.time_window,
                    lease_calendar.window_start, lease_calendar.gateway_id, granted)
            ON CONFLICT ON CONSTRAINT calendar_leases_pkey DO UPDATE SET held = own.held + excluded.held;
    END IF;
    taken := taken + granted;
    RETURN NEXT;
END;
$$;
COMMENT ON FUNCTION quota.lease_calendar(text, text, text, text, text, timestamptz, bigint, bigint, bigint) IS
    'Takes back what a gateway returns of a calendar window and grants what it wants as far as used and held leave room. Returns what was granted and what is used and held now; no row where no such limit holds.';

CREATE FUNCTION quota.charge_lease(gateway_id text, tenant_id text, model text, resource text, amount bigint, admitted_at timestamptz) RETURNS void
LANGUAGE sql AS $$
    UPDATE quota.calendar_leases AS own SET held = greatest(0, own.held - charge_lease.amount)
    WHERE own.tenant_id = charge_lease.tenant_id
        AND own.resource = charge_lease.resource
        AND own.model IN ('', charge_lease.model)
        AND own.window_start = quota.window_start(own.time_window, charge_lease.admitted_at)
        AND own.gateway_id = charge_lease.gateway_id
$$;
COMMENT ON FUNCTION quota.charge_lease(text, text, text, text, bigint, timestamptz) IS
    'What a gateway held for calls of a model is used now: call it in the transaction, and with the arguments, of increment_quota_usage().';

CREATE FUNCTION quota.close_leases(gateway_id text) RETURNS void
LANGUAGE sql AS $$
    DELETE FROM quota.calendar_leases AS gone WHERE gone.gateway_id = close_leases.gateway_id
$$;
COMMENT ON FUNCTION quota.close_leases(text) IS
    'Gives back all that a gateway held of calendar quotas: it has ended and all its records are ingested.';

CREATE FUNCTION quota.expire_leases(expire_s double precision) RETURNS bigint
LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM quota.calendar_leases AS lease
        WHERE (
            lease.updated_at < now() - make_interval(secs => expire_leases.expire_s)
            AND NOT EXISTS (
                SELECT FROM quota.lease_gateways AS living
                WHERE living.gateway_id = lease.gateway_id
                    AND living.seen_at >= now() - make_interval(secs => expire_leases.expire_s)
            )
        ) OR quota.window_end(lease.time_window, lease.window_start) < now() - interval '1 day'
        RETURNING 1
    )
    SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION quota.expire_leases(double precision) IS
    'Gives back what gateways held that were not seen for expire_s and of which nothing was charged for as long, and what was held of windows long ended; says how many.';

-- Row-level security ------------------------------------------------------------------------------------------------

ALTER TABLE quota.lease_gateways ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.lease_gateways FORCE ROW LEVEL SECURITY;
CREATE POLICY lease_gateways_service ON quota.lease_gateways USING (quota.in_scope('*')) WITH CHECK (quota.in_scope('*'));

ALTER TABLE quota.calendar_leases ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.calendar_leases FORCE ROW LEVEL SECURITY;
CREATE POLICY calendar_leases_scope ON quota.calendar_leases USING (quota.in_scope(tenant_id)) WITH CHECK (quota.in_scope(tenant_id));
