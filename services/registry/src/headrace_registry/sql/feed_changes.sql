-- The changes after a revision in order, each with the present state of the version. A later state shown at an
-- earlier revision does no harm: the later change follows and says the same.
SELECT
    change.revision,
    version.tenant_id,
    version.model,
    version.version,
    version.uid,
    version.state,
    version.manifest,
    version.stated_manifest,
    version.created_at,
    version.archived_at,
    (
        SELECT jsonb_agg(
            jsonb_build_object(
                'path', file.path, 'size_bytes', content.size_bytes, 'sha256', encode(content.sha256, 'hex')
            )
            ORDER BY file.path
        )
        FROM registry.version_files AS file
        JOIN registry.artifact_files AS content
            ON content.tenant_id = file.tenant_id AND content.sha256 = file.sha256
        WHERE file.tenant_id = version.tenant_id AND file.version_uid = version.uid
    ) AS files
FROM registry.catalog_changes AS change
JOIN registry.model_versions AS version ON version.uid = change.version_uid
WHERE change.revision > %(after_revision)s
ORDER BY change.revision
LIMIT %(limit)s
