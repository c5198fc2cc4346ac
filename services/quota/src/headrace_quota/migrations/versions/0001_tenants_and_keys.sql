-- Tenants, their API keys, and the history of changes that gateways follow.

CREATE FUNCTION quota.update_updated_at_column() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END;
$$;
COMMENT ON FUNCTION quota.update_updated_at_column() IS
    'Row trigger: stamps updated_at with the time of the transaction that changes the row.';

-- Tenants -----------------------------------------------------------------------------------------------------------

CREATE TABLE quota.tenants (
    id           text COLLATE "C" NOT NULL,
    display_name text        NOT NULL,
    status       text        NOT NULL DEFAULT 'ACTIVE',
    tier         text        NOT NULL DEFAULT 'standard',
    metadata     jsonb       NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenants_pkey PRIMARY KEY (id),
    CONSTRAINT tenants_id_grammar CHECK (id ~ '^[a-z][a-z0-9-]{1,62}$'),
    CONSTRAINT tenants_display_name_length CHECK (char_length(display_name) BETWEEN 1 AND 256),
    CONSTRAINT tenants_status_known CHECK (status IN ('ACTIVE', 'SUSPENDED')),
    CONSTRAINT tenants_tier_length CHECK (char_length(tier) BETWEEN 1 AND 256),
    CONSTRAINT tenants_metadata_is_object CHECK (jsonb_typeof(metadata) = 'object'),
    CONSTRAINT tenants_operators_active CHECK (id <> 'default' OR status = 'ACTIVE')
);
COMMENT ON TABLE quota.tenants IS 'Customers of the mesh; all data of one is invisible to the others.';
COMMENT ON COLUMN quota.tenants.id IS 'Identifier: a lower-case letter, then 1 to 62 lower-case letters, digits or "-".';
COMMENT ON COLUMN quota.tenants.display_name IS 'Name for people, 1 to 256 characters.';
COMMENT ON COLUMN quota.tenants.status IS 'ACTIVE: calls are served. SUSPENDED: calls are refused. The tenant "default" stays ACTIVE.';
COMMENT ON COLUMN quota.tenants.tier IS 'Name of the service tier.';
COMMENT ON COLUMN quota.tenants.metadata IS 'Free pairs of text, a JSON object with at most 64 members.';
COMMENT ON COLUMN quota.tenants.created_at IS 'When the tenant was created.';
COMMENT ON COLUMN quota.tenants.updated_at IS 'When the tenant last changed.';

CREATE TRIGGER tenants_updated_at BEFORE UPDATE ON quota.tenants
    FOR EACH ROW EXECUTE FUNCTION quota.update_updated_at_column();

-- API keys ----------------------------------------------------------------------------------------------------------

CREATE TABLE quota.api_keys (
    tenant_id    text COLLATE "C" NOT NULL,
    id           uuid        NOT NULL,
    display_name text        NOT NULL DEFAULT '',
    prefix       text        NOT NULL,
    key_sha256   bytea       NOT NULL,
    roles        text[]      NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    CONSTRAINT api_keys_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT api_keys_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES quota.tenants (id),
    CONSTRAINT api_keys_display_name_length CHECK (char_length(display_name) <= 256),
    CONSTRAINT api_keys_prefix_length CHECK (char_length(prefix) BETWEEN 4 AND 16),
    CONSTRAINT api_keys_digest_length CHECK (octet_length(key_sha256) = 32),
    CONSTRAINT api_keys_roles_known CHECK (
        cardinality(roles) BETWEEN 1 AND 4
        AND roles <@ ARRAY['viewer', 'user', 'model_admin', 'admin']
        AND array_position(roles, NULL) IS NULL
    )
);
COMMENT ON TABLE quota.api_keys IS 'API keys, by digest; the keys themselves are stored nowhere.';
COMMENT ON COLUMN quota.api_keys.tenant_id IS 'Tenant that the key belongs to.';
COMMENT ON COLUMN quota.api_keys.id IS 'Identifier of the key; says nothing about the key.';
COMMENT ON COLUMN quota.api_keys.display_name IS 'Name for people, at most 256 characters, may be empty.';
COMMENT ON COLUMN quota.api_keys.prefix IS 'First characters of the key, to recognise it by.';
COMMENT ON COLUMN quota.api_keys.key_sha256 IS 'SHA-256 of the key: 256 random bits need no slow hash, nobody can guess them.';
COMMENT ON COLUMN quota.api_keys.roles IS 'What the key may do: viewer, user, model_admin, admin.';
COMMENT ON COLUMN quota.api_keys.created_at IS 'When the key was created.';
COMMENT ON COLUMN quota.api_keys.updated_at IS 'When the row last changed.';
COMMENT ON COLUMN quota.api_keys.expires_at IS 'When the key stops working by itself; NULL means never.';
COMMENT ON COLUMN quota.api_keys.revoked_at IS 'When the key was revoked; NULL while it was not.';

CREATE UNIQUE INDEX api_keys_digest ON quota.api_keys (key_sha256);
COMMENT ON INDEX quota.api_keys_digest IS 'insert_api_key.sql, get_api_key_by_digest.sql: a key is stored once, and works for one tenant.';
CREATE UNIQUE INDEX api_keys_id ON quota.api_keys (id);
COMMENT ON INDEX quota.api_keys_id IS 'revoke_api_key.sql, get_api_key.sql, feed_changes.sql: by id whatever the tenant.';
CREATE INDEX api_keys_newest ON quota.api_keys (tenant_id, created_at DESC, id DESC);
COMMENT ON INDEX quota.api_keys_newest IS 'list_api_keys.sql: a page of a tenant''s keys, newest first.';

CREATE TRIGGER api_keys_updated_at BEFORE UPDATE ON quota.api_keys
    FOR EACH ROW EXECUTE FUNCTION quota.update_updated_at_column();

-- The principal feed ------------------------------------------------------------------------------------------------

CREATE TABLE quota.principal_feed (
    singleton    boolean NOT NULL DEFAULT true,
    epoch        uuid    NOT NULL DEFAULT gen_random_uuid(),
    revision     bigint  NOT NULL DEFAULT 0,
    changes_kept bigint  NOT NULL DEFAULT 10000,
    CONSTRAINT principal_feed_pkey PRIMARY KEY (singleton),
    CONSTRAINT principal_feed_one_row CHECK (singleton),
    CONSTRAINT principal_feed_revision_positive CHECK (revision >= 0),
    CONSTRAINT principal_feed_changes_kept_positive CHECK (changes_kept >= 1)
);
COMMENT ON TABLE quota.principal_feed IS
    'One row: the revision of tenants and keys. Each change locks it until commit, so revisions become visible in order and without a gap; a sequence would not promise that.';
COMMENT ON COLUMN quota.principal_feed.singleton IS 'Always true: keeps the table at one row.';
COMMENT ON COLUMN quota.principal_feed.epoch IS 'Identity of this history; another database has another one.';
COMMENT ON COLUMN quota.principal_feed.revision IS 'Number of the last committed change.';
COMMENT ON COLUMN quota.principal_feed.changes_kept IS 'How many changes stay in principal_changes; who is further behind gets a snapshot.';
INSERT INTO quota.principal_feed DEFAULT VALUES;

CREATE TABLE quota.principal_changes (
    revision   bigint      NOT NULL,
    tenant_id  text COLLATE "C" NOT NULL,
    key_id     uuid,
    changed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT principal_changes_pkey PRIMARY KEY (revision),
    CONSTRAINT principal_changes_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES quota.tenants (id),
    CONSTRAINT principal_changes_key_fkey FOREIGN KEY (tenant_id, key_id) REFERENCES quota.api_keys (tenant_id, id),
    CONSTRAINT principal_changes_revision_positive CHECK (revision > 0)
);
COMMENT ON TABLE quota.principal_changes IS 'What changed at each of the last revisions; the state itself is read from tenants and api_keys.';
COMMENT ON COLUMN quota.principal_changes.revision IS 'Number of the change, one more than that of the change before.';
COMMENT ON COLUMN quota.principal_changes.tenant_id IS 'Tenant that changed, or whose key did.';
COMMENT ON COLUMN quota.principal_changes.key_id IS 'Key that changed; NULL where the tenant did.';
COMMENT ON COLUMN quota.principal_changes.changed_at IS 'When the changing transaction began.';
COMMENT ON INDEX quota.principal_changes_pkey IS 'feed_changes.sql: the changes after a revision, in order.';

-- Takes the service's scope while it runs, whoever changes a row: the counter and the history belong to no tenant.
-- By set_config and not by the function's SET clause, which only superusers may use for a setting like this one.
CREATE FUNCTION quota.record_principal_change() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    caller_scope  text := coalesce(current_setting('headrace.tenant_id', true), '');
    next_revision bigint;
    oldest_kept   bigint;
BEGIN
    PERFORM set_config('headrace.tenant_id', '*', true);
    UPDATE quota.principal_feed SET revision = revision + 1
        RETURNING revision, revision - changes_kept + 1 INTO STRICT next_revision, oldest_kept;
    IF TG_TABLE_NAME = 'tenants' THEN
        INSERT INTO quota.principal_changes (revision, tenant_id) VALUES (next_revision, NEW.id);
    ELSE
        INSERT INTO quota.principal_changes (revision, tenant_id, key_id) VALUES (next_revision, NEW.tenant_id, NEW.id);
    END IF;
    DELETE FROM quota.principal_changes WHERE revision < oldest_kept;
    PERFORM pg_notify('quota_principals', next_revision::text);
    PERFORM set_config('headrace.tenant_id', caller_scope, true);
    RETURN NULL;
END;
$$;
COMMENT ON FUNCTION quota.record_principal_change() IS
    'Row trigger: gives the change the next revision, forgets the oldest change, and wakes the listeners at commit.';

CREATE TRIGGER tenants_created AFTER INSERT ON quota.tenants
    FOR EACH ROW EXECUTE FUNCTION quota.record_principal_change();
CREATE TRIGGER tenants_changed AFTER UPDATE ON quota.tenants
    FOR EACH ROW WHEN ((OLD.status, OLD.tier) IS DISTINCT FROM (NEW.status, NEW.tier))
    EXECUTE FUNCTION quota.record_principal_change();
CREATE TRIGGER api_keys_created AFTER INSERT ON quota.api_keys
    FOR EACH ROW EXECUTE FUNCTION quota.record_principal_change();
CREATE TRIGGER api_keys_changed AFTER UPDATE ON quota.api_keys
    FOR EACH ROW WHEN ((OLD.roles, OLD.expires_at, OLD.revoked_at) IS DISTINCT FROM (NEW.roles, NEW.expires_at, NEW.revoked_at))
    EXECUTE FUNCTION quota.record_principal_change();

-- Row-level security ------------------------------------------------------------------------------------------------

ALTER TABLE quota.tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenants_scope ON quota.tenants USING (quota.in_scope(id)) WITH CHECK (quota.in_scope(id));

ALTER TABLE quota.api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.api_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY api_keys_scope ON quota.api_keys USING (quota.in_scope(tenant_id)) WITH CHECK (quota.in_scope(tenant_id));

ALTER TABLE quota.principal_feed ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.principal_feed FORCE ROW LEVEL SECURITY;
CREATE POLICY principal_feed_service ON quota.principal_feed USING (quota.in_scope('*')) WITH CHECK (quota.in_scope('*'));

ALTER TABLE quota.principal_changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota.principal_changes FORCE ROW LEVEL SECURITY;
CREATE POLICY principal_changes_service ON quota.principal_changes USING (quota.in_scope('*')) WITH CHECK (quota.in_scope('*'));

-- The schema's default privileges give the service every row operation; it needs fewer.
REVOKE DELETE ON quota.tenants, quota.api_keys FROM headrace_quota;
REVOKE INSERT, DELETE ON quota.principal_feed FROM headrace_quota;
REVOKE UPDATE ON quota.principal_changes FROM headrace_quota;
