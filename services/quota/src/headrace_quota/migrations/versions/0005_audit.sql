-- The audit log.

CREATE TABLE quota.audit_chains (
    tenant_id text COLLATE "C" NOT NULL,
    sequence  bigint NOT NULL,
    sha256    bytea  NOT NULL,
    CONSTRAINT audit_chains_pkey PRIMARY KEY (tenant_id),
    CONSTRAINT audit_chains_sequence_not_negative CHECK (sequence >= 0),
    CONSTRAINT audit_chains_digest_length CHECK (octet_length(sha256) = 32)
);
COMMENT ON TABLE quota.audit_chains IS 'The end of each tenant''s chain of audit entries; locked while one is appended.';
COMMENT ON COLUMN quota.audit_chains.tenant_id IS 'Tenant whose chain it is.';
COMMENT ON COLUMN quota.audit_chains.sequence IS 'Place of the last entry.';
COMMENT ON COLUMN quota.audit_chains.sha256 IS 'Its hash.';
COMMENT ON INDEX quota.audit_chains_pkey IS 'lock_audit_chain.sql, advance_audit_chain.sql: one chain.';

CREATE TABLE quota.audit_log (
    tenant_id       text COLLATE "C" NOT NULL,
    sequence        bigint      NOT NULL,
    event_at        timestamptz NOT NULL,
    actor           text        NOT NULL,
    method          text        NOT NULL,
    resource        text        NOT NULL,
    request_json    text        NOT NULL,
    outcome         text        NOT NULL,
    request_id      text        NOT NULL,
    gateway_id      text        NOT NULL,
    previous_sha256 bytea       NOT NULL,
    sha256          bytea       NOT NULL,
    recorded_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audit_log_pkey PRIMARY KEY (tenant_id, sequence),
    CONSTRAINT audit_log_sequence_positive CHECK (sequence >= 1),
    CONSTRAINT audit_log_digest_lengths CHECK (octet_length(previous_sha256) = 32 AND octet_length(sha256) = 32)
);
COMMENT ON TABLE quota.audit_log IS
    'Administrative calls, a chain for each tenant: each entry''s hash covers the one before. Rows are never changed or removed.';
COMMENT ON COLUMN quota.audit_log.tenant_id IS 'Tenant of the caller.';
COMMENT ON COLUMN quota.audit_log.sequence IS 'Place in the chain, from 1 without a gap.';
COMMENT ON COLUMN quota.audit_log.event_at IS 'When the gateway answered the call, to the microsecond.';
COMMENT ON COLUMN quota.audit_log.actor IS 'Who called: key:<id> or jwt:<subject>.';
COMMENT ON COLUMN quota.audit_log.method IS 'Full name of the method.';
COMMENT ON COLUMN quota.audit_log.resource IS 'What it was about, as far as the request names it.';
COMMENT ON COLUMN quota.audit_log.request_json IS 'The request, without secrets and bytes. Text and not jsonb: the hash is over these characters.';
COMMENT ON COLUMN quota.audit_log.outcome IS 'Name of the gRPC code that the call ended with.';
COMMENT ON COLUMN quota.audit_log.request_id IS 'Request id.';
COMMENT ON COLUMN quota.audit_log.gateway_id IS 'Gateway that took the call.';
COMMENT ON COLUMN quota.audit_log.previous_sha256 IS 'Hash of the entry before; zeros for the first.';
COMMENT ON COLUMN quota.audit_log.sha256 IS 'Hash of this entry.';
COMMENT ON COLUMN quota.audit_log.recorded_at IS 'When it was written; not part of the hash.';
COMMENT ON INDEX quota.audit_log_pkey IS 'list_audit_entries.sql, list_newest_audit_entries.sql: a chain in order, both ways.';

-- Also against its own service: nothing there changes or removes an entry.
CREATE FUNCTION quota.refuse_audit_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'restrict_violation';
END;
$$;
COMMENT ON FUNCTION quota.refuse_audit_change() IS 'Row trigger: entries of the audit log are never changed or removed.';
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON quota.audit_log
    FOR EACH ROW EXECUTE FUNCTION quota.refuse_audit_change();
CREATE TRIGGER audit_log_not_emptied BEFORE TRUNCATE ON quota.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION quota.refuse_audit_change();

ALTER TABLE quota.audit_chains ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.audit_chains FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_chains_service ON quota.audit_chains USING (quota.in_scope('*')) WITH CHECK (quota.in_scope('*'));

ALTER TABLE quota.audit_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.audit_log FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_log_scope ON quota.audit_log USING (quota.in_scope(tenant_id)) WITH CHECK (quota.in_scope(tenant_id));

REVOKE DELETE ON quota.audit_chains FROM headrace_quota;
REVOKE UPDATE, DELETE, TRUNCATE ON quota.audit_log FROM headrace_quota;
