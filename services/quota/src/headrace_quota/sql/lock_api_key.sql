-- One key, if the scope may see it, locked: it is not revoked or rotated by others meanwhile.
SELECT tenant_id, id, display_name, prefix, key_sha256, roles, created_at, expires_at, revoked_at,
    policies, last_used_at, rotated_from::text AS rotated_from
FROM quota.api_keys
WHERE id = %(id)s
FOR NO KEY UPDATE
