-- Sets when a key stops working by itself.
UPDATE quota.api_keys
SET expires_at = %(expire_time)s
WHERE id = %(id)s
RETURNING tenant_id, id, display_name, prefix, key_sha256, roles, created_at, expires_at, revoked_at,
    policies, last_used_at, rotated_from::text AS rotated_from
