-- The key with this digest, if the scope may see it.
SELECT tenant_id, id, display_name, prefix, key_sha256, roles, created_at, expires_at, revoked_at,
    policies, last_used_at, rotated_from::text AS rotated_from
FROM quota.api_keys
WHERE key_sha256 = %(sha256)s
