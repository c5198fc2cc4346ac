-- A page of a tenant's keys, newest first, after a position (NULL: from the newest).
SELECT tenant_id, id, display_name, prefix, key_sha256, roles, created_at, expires_at, revoked_at,
    policies, last_used_at, rotated_from::text AS rotated_from
FROM quota.api_keys
WHERE tenant_id = %(tenant_id)s
    AND (
        %(after_time)s::timestamptz IS NULL
        OR (created_at, id) < (%(after_time)s::timestamptz, %(after_id)s::uuid)
    )
ORDER BY created_at DESC, id DESC
LIMIT %(limit)s
