-- Models, their versions, what their artefacts consist of, and the history of changes that gateways follow.
-- Bytes are not here: they lie in the object store, in segments named by their digest.

-- Models ------------------------------------------------------------------------------------------------------------

CREATE TABLE registry.models (
    tenant_id   text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    description text        NOT NULL DEFAULT '',
    metadata    jsonb       NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT models_pkey PRIMARY KEY (tenant_id, name),
    CONSTRAINT models_tenant_grammar CHECK (tenant_id ~ '^[a-z][a-z0-9-]{1,62}$'),
    CONSTRAINT models_name_grammar CHECK (name ~ '^[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}$'),
    CONSTRAINT models_description_length CHECK (char_length(description) <= 1024),
    CONSTRAINT models_metadata_is_object CHECK (jsonb_typeof(metadata) = 'object')
);
COMMENT ON TABLE registry.models IS 'Named series of versions, each owned by one tenant.';
COMMENT ON COLUMN registry.models.tenant_id IS 'Tenant that owns the model.';
COMMENT ON COLUMN registry.models.name IS 'Name, unique within the tenant; a letter or digit, then up to 127 letters, digits, ".", "_" or "-".';
COMMENT ON COLUMN registry.models.description IS 'One sentence for people, at most 1024 characters, may be empty.';
COMMENT ON COLUMN registry.models.metadata IS 'Free pairs of text, a JSON object with at most 64 members.';
COMMENT ON COLUMN registry.models.created_at IS 'When the model was created.';
COMMENT ON INDEX registry.models_pkey IS 'get_model.sql, lock_model.sql, list_models.sql: one model, or a page ordered by name.';

-- Artefact content --------------------------------------------------------------------------------------------------

CREATE TABLE registry.artifact_files (
    tenant_id     text COLLATE "C" NOT NULL,
    sha256        bytea       NOT NULL,
    size_bytes    bigint      NOT NULL,
    segment_bytes integer     NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT artifact_files_pkey PRIMARY KEY (tenant_id, sha256),
    CONSTRAINT artifact_files_digest_length CHECK (octet_length(sha256) = 32),
    CONSTRAINT artifact_files_size_positive CHECK (size_bytes > 0),
    CONSTRAINT artifact_files_segment_positive CHECK (segment_bytes > 0)
);
COMMENT ON TABLE registry.artifact_files IS 'Contents of files, once per tenant however many versions have them.';
COMMENT ON COLUMN registry.artifact_files.tenant_id IS 'Tenant that uploaded the bytes; contents are never shared between tenants.';
COMMENT ON COLUMN registry.artifact_files.sha256 IS 'SHA-256 of the whole content.';
COMMENT ON COLUMN registry.artifact_files.size_bytes IS 'Size of the content in bytes.';
COMMENT ON COLUMN registry.artifact_files.segment_bytes IS 'Size of every segment but the last, in bytes.';
COMMENT ON COLUMN registry.artifact_files.created_at IS 'When the content was first registered.';
COMMENT ON INDEX registry.artifact_files_pkey IS 'get_version.sql and its kin, file_segments.sql: content by digest.';

CREATE TABLE registry.artifact_segments (
    tenant_id   text COLLATE "C" NOT NULL,
    file_sha256 bytea   NOT NULL,
    position    integer NOT NULL,
    sha256      bytea   NOT NULL,
    size_bytes  integer NOT NULL,
    CONSTRAINT artifact_segments_pkey PRIMARY KEY (tenant_id, file_sha256, position),
    CONSTRAINT artifact_segments_file_fkey FOREIGN KEY (tenant_id, file_sha256)
        REFERENCES registry.artifact_files (tenant_id, sha256),
    CONSTRAINT artifact_segments_position_positive CHECK (position >= 0),
    CONSTRAINT artifact_segments_digest_length CHECK (octet_length(sha256) = 32),
    CONSTRAINT artifact_segments_size_positive CHECK (size_bytes > 0)
);
COMMENT ON TABLE registry.artifact_segments IS 'The ordered segments of a content; each is one object in the object store.';
COMMENT ON COLUMN registry.artifact_segments.tenant_id IS 'Tenant of the content, and part of the object''s key.';
COMMENT ON COLUMN registry.artifact_segments.file_sha256 IS 'Content that the segment is part of.';
COMMENT ON COLUMN registry.artifact_segments.position IS 'Place in the content, from 0 without a gap.';
COMMENT ON COLUMN registry.artifact_segments.sha256 IS 'SHA-256 of the segment; names the object.';
COMMENT ON COLUMN registry.artifact_segments.size_bytes IS 'Size of the segment in bytes.';
COMMENT ON INDEX registry.artifact_segments_pkey IS 'file_segments.sql: the segments of a content in order.';

-- Versions ----------------------------------------------------------------------------------------------------------

CREATE TABLE registry.model_versions (
    tenant_id       text COLLATE "C" NOT NULL,
    model           text COLLATE "C" NOT NULL,
    version         bigint      NOT NULL,
    uid             uuid        NOT NULL,
    state           text        NOT NULL DEFAULT 'READY',
    manifest        bytea       NOT NULL,
    stated_manifest bytea       NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    archived_at     timestamptz,
    CONSTRAINT model_versions_pkey PRIMARY KEY (tenant_id, model, version),
    CONSTRAINT model_versions_model_fkey FOREIGN KEY (tenant_id, model) REFERENCES registry.models (tenant_id, name),
    CONSTRAINT model_versions_uid_key UNIQUE (uid),
    CONSTRAINT model_versions_tenant_uid_key UNIQUE (tenant_id, uid),
    CONSTRAINT model_versions_version_range CHECK (version BETWEEN 1 AND 999999999999999),
    CONSTRAINT model_versions_state_known CHECK (state IN ('READY', 'ARCHIVED')),
    CONSTRAINT model_versions_archived_at CHECK ((state = 'ARCHIVED') = (archived_at IS NOT NULL)),
    CONSTRAINT model_versions_manifest_length CHECK (octet_length(manifest) BETWEEN 1 AND 1048576),
    CONSTRAINT model_versions_stated_length CHECK (octet_length(stated_manifest) <= 1048576)
);
COMMENT ON TABLE registry.model_versions IS 'Immutable versions of models: a row exists only once all its bytes were stored and checked.';
COMMENT ON COLUMN registry.model_versions.tenant_id IS 'Tenant that owns the model.';
COMMENT ON COLUMN registry.model_versions.model IS 'Name of the model.';
COMMENT ON COLUMN registry.model_versions.version IS 'Number of the version, 1 or more, not necessarily without gaps.';
COMMENT ON COLUMN registry.model_versions.uid IS 'Identifier across the mesh, never reused.';
COMMENT ON COLUMN registry.model_versions.state IS 'READY: can be served. ARCHIVED: out of service for good.';
COMMENT ON COLUMN registry.model_versions.manifest IS 'The whole headrace.registry.v1.Manifest, serialised.';
COMMENT ON COLUMN registry.model_versions.stated_manifest IS 'The manifest as the upload stated it, serialised deterministically; an upload that states the same with the same bytes is a repetition.';
COMMENT ON COLUMN registry.model_versions.created_at IS 'When the version was registered.';
COMMENT ON COLUMN registry.model_versions.archived_at IS 'When the version was archived; NULL while it is not.';
COMMENT ON INDEX registry.model_versions_pkey IS 'get_version.sql, list_versions.sql, next_version.sql: by number, newest first by a backward scan.';
COMMENT ON INDEX registry.model_versions_uid_key IS 'feed_changes.sql: a version of any tenant by uid; and uids are unique.';
COMMENT ON INDEX registry.model_versions_tenant_uid_key IS 'get_version_by_uid.sql; target of the foreign keys of version_files and catalog_changes.';

CREATE INDEX model_versions_ready ON registry.model_versions (tenant_id, model, version DESC) WHERE state = 'READY';
COMMENT ON INDEX registry.model_versions_ready IS 'get_model.sql, list_models.sql, get_version.sql: the highest version that is READY; feed_snapshot.sql.';

CREATE TABLE registry.version_files (
    tenant_id   text COLLATE "C" NOT NULL,
    version_uid uuid  NOT NULL,
    path        text COLLATE "C" NOT NULL,
    sha256      bytea NOT NULL,
    CONSTRAINT version_files_pkey PRIMARY KEY (tenant_id, version_uid, path),
    CONSTRAINT version_files_version_fkey FOREIGN KEY (tenant_id, version_uid)
        REFERENCES registry.model_versions (tenant_id, uid),
    CONSTRAINT version_files_content_fkey FOREIGN KEY (tenant_id, sha256)
        REFERENCES registry.artifact_files (tenant_id, sha256),
    CONSTRAINT version_files_path_grammar CHECK (
        path ~ '^[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}(/[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}){0,15}$'
    )
);
COMMENT ON TABLE registry.version_files IS 'Which files a version has, by their path inside the artefact.';
COMMENT ON COLUMN registry.version_files.tenant_id IS 'Tenant that owns the version.';
COMMENT ON COLUMN registry.version_files.version_uid IS 'Version that has the file.';
COMMENT ON COLUMN registry.version_files.path IS 'Relative path with "/"; no segment begins with a dot.';
COMMENT ON COLUMN registry.version_files.sha256 IS 'Content of the file.';
COMMENT ON INDEX registry.version_files_pkey IS 'get_version.sql and its kin: the files of a version ordered by path.';

CREATE INDEX version_files_content ON registry.version_files (tenant_id, sha256);
COMMENT ON INDEX registry.version_files_content IS 'Foreign key to artifact_files: whether a content is still in use.';

-- The catalogue feed ------------------------------------------------------------------------------------------------

CREATE TABLE registry.catalog_feed (
    singleton    boolean NOT NULL DEFAULT true,
    epoch        uuid    NOT NULL DEFAULT gen_random_uuid(),
    revision     bigint  NOT NULL DEFAULT 0,
    changes_kept bigint  NOT NULL DEFAULT 10000,
    CONSTRAINT catalog_feed_pkey PRIMARY KEY (singleton),
    CONSTRAINT catalog_feed_one_row CHECK (singleton),
    CONSTRAINT catalog_feed_revision_positive CHECK (revision >= 0),
    CONSTRAINT catalog_feed_changes_kept_positive CHECK (changes_kept >= 1)
);
COMMENT ON TABLE registry.catalog_feed IS
    'One row: the revision of all versions. Each change locks it until commit, so revisions become visible in order and without a gap; a sequence would not promise that.';
COMMENT ON COLUMN registry.catalog_feed.singleton IS 'Always true: keeps the table at one row.';
COMMENT ON COLUMN registry.catalog_feed.epoch IS 'Identity of this history; another database has another one.';
COMMENT ON COLUMN registry.catalog_feed.revision IS 'Number of the last committed change.';
COMMENT ON COLUMN registry.catalog_feed.changes_kept IS 'How many changes stay in catalog_changes; who is further behind gets a snapshot.';
INSERT INTO registry.catalog_feed DEFAULT VALUES;

CREATE TABLE registry.catalog_changes (
    revision    bigint      NOT NULL,
    tenant_id   text COLLATE "C" NOT NULL,
    version_uid uuid        NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT catalog_changes_pkey PRIMARY KEY (revision),
    CONSTRAINT catalog_changes_version_fkey FOREIGN KEY (tenant_id, version_uid)
        REFERENCES registry.model_versions (tenant_id, uid),
    CONSTRAINT catalog_changes_revision_positive CHECK (revision > 0)
);
COMMENT ON TABLE registry.catalog_changes IS 'Which version changed at each of the last revisions; the state itself is read from model_versions.';
COMMENT ON COLUMN registry.catalog_changes.revision IS 'Number of the change, one more than that of the change before.';
COMMENT ON COLUMN registry.catalog_changes.tenant_id IS 'Tenant that owns the version.';
COMMENT ON COLUMN registry.catalog_changes.version_uid IS 'Version that was registered or archived.';
COMMENT ON COLUMN registry.catalog_changes.changed_at IS 'When the changing transaction began.';
COMMENT ON INDEX registry.catalog_changes_pkey IS 'feed_changes.sql: the changes after a revision, in order.';

-- Takes the service's scope while it runs, whoever changes a row: the counter and the history belong to no tenant.
-- By set_config and not by the function's SET clause, which only superusers may use for a setting like this one.
CREATE FUNCTION registry.record_catalog_change() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    caller_scope  text := coalesce(current_setting('headrace.tenant_id', true), '');
    next_revision bigint;
    oldest_kept   bigint;
BEGIN
    PERFORM set_config('headrace.tenant_id', '*', true);
    UPDATE registry.catalog_feed SET revision = revision + 1
        RETURNING revision, revision - changes_kept + 1 INTO STRICT next_revision, oldest_kept;
    INSERT INTO registry.catalog_changes (revision, tenant_id, version_uid)
        VALUES (next_revision, NEW.tenant_id, NEW.uid);
    DELETE FROM registry.catalog_changes WHERE revision < oldest_kept;
    PERFORM pg_notify('registry_catalog', next_revision::text);
    PERFORM set_config('headrace.tenant_id', caller_scope, true);
    RETURN NULL;
END;
$$;
COMMENT ON FUNCTION registry.record_catalog_change() IS
    'Row trigger: gives the change the next revision, forgets the oldest change, and wakes the listeners at commit.';

CREATE TRIGGER model_versions_registered AFTER INSERT ON registry.model_versions
    FOR EACH ROW EXECUTE FUNCTION registry.record_catalog_change();
COMMENT ON TRIGGER model_versions_registered ON registry.model_versions IS 'A new version is a change of the catalogue.';
CREATE TRIGGER model_versions_changed AFTER UPDATE ON registry.model_versions
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
    EXECUTE FUNCTION registry.record_catalog_change();
COMMENT ON TRIGGER model_versions_changed ON registry.model_versions IS 'So is a version that leaves service.';

-- Immutability ------------------------------------------------------------------------------------------------------

CREATE FUNCTION registry.refuse_version_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a registered version never changes' USING ERRCODE = 'restrict_violation';
END;
$$;
COMMENT ON FUNCTION registry.refuse_version_change() IS 'Row trigger: whatever the service does, a version keeps its content, and an archived one stays archived.';

CREATE TRIGGER model_versions_immutable BEFORE UPDATE ON registry.model_versions
    FOR EACH ROW WHEN (
        OLD.state = 'ARCHIVED'
        OR (OLD.tenant_id, OLD.model, OLD.version, OLD.uid, OLD.manifest, OLD.stated_manifest, OLD.created_at)
            IS DISTINCT FROM
            (NEW.tenant_id, NEW.model, NEW.version, NEW.uid, NEW.manifest, NEW.stated_manifest, NEW.created_at)
    ) EXECUTE FUNCTION registry.refuse_version_change();
COMMENT ON TRIGGER model_versions_immutable ON registry.model_versions IS 'Only READY to ARCHIVED is a legal change.';

-- Row-level security ------------------------------------------------------------------------------------------------

ALTER TABLE registry.models ENABLE ROW LEVEL SECURITY;
ALTER TABLE registry.models FORCE ROW LEVEL SECURITY;
CREATE POLICY models_scope ON registry.models
    USING (registry.in_scope(tenant_id)) WITH CHECK (registry.in_scope(tenant_id));
COMMENT ON POLICY models_scope ON registry.models IS 'Rows of the transaction''s tenant only.';

ALTER TABLE registry.artifact_files ENABLE ROW LEVEL SECURITY;
ALTER TABLE registry.artifact_files FORCE ROW LEVEL SECURITY;
CREATE POLICY artifact_files_scope ON registry.artifact_files
    USING (registry.in_scope(tenant_id)) WITH CHECK (registry.in_scope(tenant_id));
COMMENT ON POLICY artifact_files_scope ON registry.artifact_files IS 'Rows of the transaction''s tenant only.';

ALTER TABLE registry.artifact_segments ENABLE ROW LEVEL SECURITY;
ALTER TABLE registry.artifact_segments FORCE ROW LEVEL SECURITY;
CREATE POLICY artifact_segments_scope ON registry.artifact_segments
    USING (registry.in_scope(tenant_id)) WITH CHECK (registry.in_scope(tenant_id));
COMMENT ON POLICY artifact_segments_scope ON registry.artifact_segments IS 'Rows of the transaction''s tenant only.';

ALTER TABLE registry.model_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE registry.model_versions FORCE ROW LEVEL SECURITY;
CREATE POLICY model_versions_scope ON registry.model_versions
    USING (registry.in_scope(tenant_id)) WITH CHECK (registry.in_scope(tenant_id));
COMMENT ON POLICY model_versions_scope ON registry.model_versions IS 'Rows of the transaction''s tenant only.';

ALTER TABLE registry.version_files ENABLE ROW LEVEL SECURITY;
ALTER TABLE registry.version_files FORCE ROW LEVEL SECURITY;
CREATE POLICY version_files_scope ON registry.version_files
    USING (registry.in_scope(tenant_id)) WITH CHECK (registry.in_scope(tenant_id));
COMMENT ON POLICY version_files_scope ON registry.version_files IS 'Rows of the transaction''s tenant only.';

ALTER TABLE registry.catalog_feed ENABLE ROW LEVEL SECURITY;
ALTER TABLE registry.catalog_feed FORCE ROW LEVEL SECURITY;
CREATE POLICY catalog_feed_service ON registry.catalog_feed
    USING (registry.in_scope('*')) WITH CHECK (registry.in_scope('*'));
COMMENT ON POLICY catalog_feed_service ON registry.catalog_feed IS 'The service alone: the counter belongs to no tenant.';

ALTER TABLE registry.catalog_changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE registry.catalog_changes FORCE ROW LEVEL SECURITY;
CREATE POLICY catalog_changes_service ON registry.catalog_changes
    USING (registry.in_scope('*')) WITH CHECK (registry.in_scope('*'));
COMMENT ON POLICY catalog_changes_service ON registry.catalog_changes IS 'The service alone: the history spans tenants.';

-- The schema's default privileges give the service every row operation; it needs fewer.
REVOKE DELETE ON registry.models, registry.model_versions FROM headrace_registry;
REVOKE UPDATE, DELETE ON registry.version_files, registry.artifact_files, registry.artifact_segments FROM headrace_registry;
REVOKE INSERT, DELETE ON registry.catalog_feed FROM headrace_registry;
REVOKE UPDATE ON registry.catalog_changes FROM headrace_registry;
