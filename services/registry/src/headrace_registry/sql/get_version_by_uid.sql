-- One version of a tenant by its uid, with its files.
SELECT
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
FROM registry.model_versions AS version
WHERE version.tenant_id = %(tenant_id)s AND version.uid = %(uid)s
