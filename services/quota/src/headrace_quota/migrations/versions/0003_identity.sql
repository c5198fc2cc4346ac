-- Isolation of tenants; policies, use and rotation of keys.

-- Tenants -----------------------------------------------------------------------------------------------------------

ALTER TABLE quota.tenants
    ADD COLUMN isolation text NOT NULL DEFAULT 'SHARED',
    ADD CONSTRAINT tenants_isolation_known CHECK (isolation IN ('SHARED', 'DEDICATED'));
COMMENT ON COLUMN quota.tenants.isolation IS
    'SHARED: runners that serve all such tenants. DEDICATED: only runners with the label tenant=<id>.';
COMMENT ON COLUMN quota.tenants.metadata IS
    'Free pairs of text, a JSON object with at most 64 members; feature.<name> of on or off switches a feature.';

-- Any pair of the metadata counts: which of them are features is the service's to know.
DROP TRIGGER tenants_changed ON quota.tenants;
CREATE TRIGGER tenants_changed AFTER UPDATE ON quota.tenants
    FOR EACH ROW WHEN (
        (OLD.status, OLD.tier, OLD.isolation, OLD.metadata)
        IS DISTINCT FROM (NEW.status, NEW.tier, NEW.isolation, NEW.metadata)
    )
    EXECUTE FUNCTION quota.record_principal_change();

-- API keys ----------------------------------------------------------------------------------------------------------

ALTER TABLE quota.api_keys
    ADD COLUMN policies jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN last_used_at timestamptz,
    ADD COLUMN rotated_from uuid,
    ADD CONSTRAINT api_keys_policies_few CHECK (
        CASE jsonb_typeof(policies) WHEN 'array' THEN jsonb_array_length(policies) <= 20 ELSE false END
    ),
    ADD CONSTRAINT api_keys_rotated_from_fkey
        FOREIGN KEY (tenant_id, rotated_from) REFERENCES quota.api_keys (tenant_id, id),
    ADD CONSTRAINT api_keys_rotated_from_another CHECK (rotated_from <> id);
COMMENT ON COLUMN quota.api_keys.policies IS
    'What the key may do with which models: objects of "actions" (infer, read, write) and "models" (names; one that ends in * is a prefix; none means all). Empty: all that the roles allow.';
COMMENT ON COLUMN quota.api_keys.last_used_at IS 'When the key was last used, to the minute; NULL when it never was.';
COMMENT ON COLUMN quota.api_keys.rotated_from IS 'The key that this one was made to follow; NULL when none.';

DROP TRIGGER api_keys_changed ON quota.api_keys;
CREATE TRIGGER api_keys_changed AFTER UPDATE ON quota.api_keys
    FOR EACH ROW WHEN (
        (OLD.roles, OLD.expires_at, OLD.revoked_at, OLD.policies)
        IS DISTINCT FROM (NEW.roles, NEW.expires_at, NEW.revoked_at, NEW.policies)
    )
    EXECUTE FUNCTION quota.record_principal_change();

-- Use is no change of the key.
DROP TRIGGER api_keys_updated_at ON quota.api_keys;
CREATE TRIGGER api_keys_updated_at BEFORE UPDATE ON quota.api_keys
    FOR EACH ROW WHEN (OLD.last_used_at IS NOT DISTINCT FROM NEW.last_used_at)
    EXECUTE FUNCTION quota.update_updated_at_column();

-- Cut to the minute, so that a busy key costs one row version a minute. No index holds the column, so none is touched.
CREATE FUNCTION quota.record_key_use(used_tenant_id text, used_key_id text, used_at timestamptz) RETURNS void
LANGUAGE sql AS $$
    UPDATE quota.api_keys
    SET last_used_at = date_trunc('minute', least(used_at, now()))
    WHERE tenant_id = used_tenant_id
        AND id::text = used_key_id
        AND (last_used_at IS NULL OR last_used_at < date_trunc('minute', least(used_at, now())))
$$;
COMMENT ON FUNCTION quota.record_key_use(text, text, timestamptz) IS
    'Remembers the latest use of a key. Ids of no key (those of tokens, and the key community) and older uses change nothing.';
